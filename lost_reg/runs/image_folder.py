"""The image files of a run, read back: only below a folder that the user has named or used before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.files import is_address, leads_out
from lost_reg.runs.seals import foreign, is_own
from lost_reg.text import agreeing, counted, shown_names


@dataclass(frozen=True)
class ImageRoot:
    """Where the images of a run are, as the user says.

    folder: the folder that their names are relative to; None for the one that the run recorded.
    follow_links: whether links in the folder may lead out of it.
    """

    folder: Path | None = None
    follow_links: bool = False


RECORDED = ImageRoot()


@dataclass(frozen=True)
class ImageFolder:
    """The folder of a run's images, out of which no name leads.

    root: None if it is not known.
    follow_links: whether links in the folder may lead out of it.
    refusal: why nothing is read from it, if so.
    """

    root: Path | None
    follow_links: bool = False
    refusal: str | None = None

    def find(self, image: str) -> Path | None:
        """The file of an image; None if it is gone, in a tar shard, or at an address.

        Raises:
            LostRegError: a name that leads out of the folder, by itself or by a link; or nothing is read from
                the folder.
        """
        if self.refusal:
            raise LostRegError(self.refusal)
        if leads_out(image):
            raise LostRegError(f"the name {image!r} leads out of the folder of the run's images: not read")
        if self.root is None:
            return None
        path = self._absolute / image
        if not os.path.isfile(path):  # also for a name that no file system takes
            return None
        if not self.follow_links and not path.resolve().is_relative_to(self._resolved):
            raise LostRegError(
                f"{image!r} is a link out of {str(self._absolute)!r}: `follow_links` reads it nevertheless"
            )
        return path

    def find_all(self, images: Iterable[str]) -> dict[str, Path]:
        """The file of each image, for what needs them all.

        Raises:
            LostRegError: images without one; or as `find`.
        """
        found = {image: self.find(image) for image in images}
        gone = [image for image, path in found.items() if path is None]
        if gone:
            of_all = f"{len(gone):,} of {counted(len(found), 'image')} {agreeing(len(gone), 'are')} missing"
            where = f"below {str(self.root)!r}" if self.root else "on this machine"
            raise LostRegError(
                f"{of_all} {where} ({shown_names(gone)}): `image_root` names the folder they are in; unpack "
                "tar shards, and of images at addresses, use a run on copies"
            )
        return found

    @cached_property
    def _absolute(self) -> Path:
        return Path(self.root or "").absolute()

    @cached_property
    def _resolved(self) -> Path:
        return self._absolute.resolve()


def image_folder(folder: Path, record: dict[str, Any], root: ImageRoot = RECORDED) -> ImageFolder:
    """The folder of the images of a run: that which the user names, or which this user's run recorded.

    Args:
        folder: the run's, for messages. record: its run.json.

    Raises:
        LostRegError: no such folder.
    """
    if root.folder:
        if not root.folder.is_dir():
            raise LostRegError(f"no such folder of images: {str(root.folder)!r}")
        return ImageFolder(root.folder, root.follow_links)
    recorded = record.get("root")
    if not recorded or is_address(recorded):  # "" if all names are addresses
        recorded = None
    if recorded is None or is_own(record):
        return ImageFolder(recorded and Path(recorded), root.follow_links)
    why = foreign(folder, f"its images are not read from {str(recorded)!r}")
    return ImageFolder(Path(recorded), refusal=f"{why}: name their folder with `image_root`")
