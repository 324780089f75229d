"""The image files that an export links, copies or crops."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lost_reg.text import shown_names

LINK, COPY, NONE = "link", "copy", "none"
MODES = (LINK, COPY, NONE)
NO_FILE = "no file of that name"


@dataclass
class SkippedImages:
    """Images whose files could not be used: how many, and the first few with the reason."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, image: str, reason: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < 3:
            self.first.append(f"{image} ({reason})")

    def __str__(self) -> str:
        return shown_names(self.first, of=self.count)


@dataclass
class ImageFiles:
    """The image files of a run, and how an export gets them.

    root: the folder that the images' names are relative to; None if it was not recorded.
    mode: one of MODES.
    missing: the images that `place` found no file for.
    """

    root: Path | None
    mode: str = LINK
    missing: SkippedImages = field(default_factory=SkippedImages)

    def find(self, image: str) -> Path | None:
        """The image's file; None for one that is gone, in a tar shard, or outside the root."""
        name = PurePosixPath(image)
        if self.root is None or name.is_absolute() or ".." in name.parts:
            return None
        path = Path(os.path.abspath(self.root), image)
        return path if os.path.isfile(path) else None

    def place(self, image: str, target: Path) -> None:
        """Link or copy an image's file to a path, according to the mode."""
        if self.mode == NONE:
            return
        file = self.find(image)
        if file is None:
            self.missing.add(image, NO_FILE)
        elif self.mode == LINK:
            target.symlink_to(file)
        else:
            shutil.copyfile(file, target)
