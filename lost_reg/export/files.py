"""The files of an export: names that do no harm, pictures beside them, and all of it or nothing."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TextIO

from lost_reg.errors import LostRegError
from lost_reg.text import shown_names

LINK, COPY, NONE = "link", "copy", "none"
PICTURES = (LINK, COPY, NONE)
NO_FILE = "no file of that name"

_LONGEST_STEM = 180  # bytes, of the 255 that a file name can have


def check_target(path: Path, suffix: str) -> None:
    """See that an export may be written.

    Args:
        suffix: of the file, or "" for a folder.

    Raises:
        LostRegError: a path that holds something, or a file of another suffix.
    """
    if suffix and path.suffix != suffix:
        raise LostRegError(f"expected a file name that ends with {suffix}, but got {str(path)!r}")
    if path.is_dir() and suffix:
        raise LostRegError(f"{str(path)!r} is a folder: name a file")
    if path.is_dir() and any(path.iterdir()):
        raise LostRegError(f"{str(path)!r} holds files already: name another folder, or delete it first")
    if path.is_file() and (not suffix or path.stat().st_size):
        raise LostRegError(f"{str(path)!r} is there already: name another, or delete it first")


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file to write, whose folder is made. Bytes of names that are no UTF-8 are written as escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a CSV file; None is an empty cell."""
    with open_text(path) as file:
        # texts are quoted, since otherwise a carriage return in a name would end a line for some readers
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(columns)
        writer.writerows(rows)


class Stems:
    """File names without suffix: plain ones, in one folder, and no two alike whatever the images are called.

    The same images in the same order get the same names.
    """

    def __init__(self):
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def of(self, image: str) -> str:
        """The next image's name, such as a_x for a/x.jpg, and then a_x_png for a/x.png."""
        stem, whole = _plain(os.path.splitext(image)[0]), _plain(image.replace(".", "_"))
        if stem.casefold() in self._taken:  # not every file system tells a from A
            stem = whole
        while stem.casefold() in self._taken:
            self._numbers[whole] += 1
            stem = f"{whole}-{self._numbers[whole] + 1}"
        self._taken.add(stem.casefold())
        return stem


def _plain(text: str) -> str:
    """Letters, digits, _, - and inner dots: nothing that means something in a path, a list or XML."""
    plain = re.sub(r"[^\w.-]+", "_", text).strip("._")
    return plain.encode()[:_LONGEST_STEM].decode(errors="ignore") or "image"


@dataclass
class Misses:
    """Images that something could not be done with: how many, and the first few of them with the reason."""

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
class Pictures:
    """The image files of a run, and how an export gets them.

    root: the folder that the images' names are relative to; None if it was not recorded.
    mode: one of PICTURES.
    missing: the images asked for by `place` that are no files.
    """

    root: Path | None
    mode: str = LINK
    missing: Misses = field(default_factory=Misses)

    def file(self, image: str) -> Path | None:
        """The image's file; None for one that is gone, in a tar shard, or outside of the root."""
        name = PurePosixPath(image)
        if self.root is None or name.is_absolute() or ".." in name.parts:
            return None
        path = Path(os.path.abspath(self.root), image)
        return path if os.path.isfile(path) else None

    def place(self, image: str, target: Path) -> None:
        """Link or copy an image's file to a path, as the mode says."""
        if self.mode == NONE:
            return
        file = self.file(image)
        if file is None:
            self.missing.add(image, NO_FILE)
        elif self.mode == LINK:
            target.symlink_to(file)
        else:
            shutil.copyfile(file, target)
