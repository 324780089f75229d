"""Common code of the export formats: the run's boxes and image files, plain names, text files and tables."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from lost_reg.export.boxes import COLUMNS, ExportedBox, ExportedImage, Selection, row
from lost_reg.files import open_regular
from lost_reg.runs.image_folder import ImageFolder
from lost_reg.text import shown_names

CATEGORY = "object"  # the class of boxes without a label
NAMES_TABLE = "names.csv"  # in a folder of renamed images: new and old names
LINK, COPY, NONE = "link", "copy", "none"
MODES = (LINK, COPY, NONE)
NO_FILE = "no file of that name"
CHANGED = "changed while it was copied"
_LONGEST_STEM = 180  # bytes, of the 255 that a file name can have


@dataclass
class SkippedImages:
    """Images whose files could not be used: how many, and the first few with the reason."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, image: str, reason: str) -> None:
        """Count one more image."""
        self.count += 1
        if len(self.first) < 3:
            self.first.append(f"{image} ({reason})")

    def __str__(self) -> str:
        return shown_names(self.first, of=self.count)


@dataclass
class ImageFiles:
    """The image files of a run, and how they get into an export.

    folder: where they are.
    mode: one of MODES.
    missing: the images that `place` found no file for.
    """

    folder: ImageFolder
    mode: str = LINK
    missing: SkippedImages = field(default_factory=SkippedImages)

    def place(self, image: str, target: Path) -> None:
        """Link or copy an image's file to a path, according to the mode.

        Raises:
            LostRegError: see `ImageFolder.find`.
        """
        if self.mode == NONE:
            return
        file = self.folder.find(image)
        if file is None:
            self.missing.add(image, NO_FILE)
        elif self.mode == LINK:
            target.symlink_to(file)
        elif why := _not_copied(file, target):
            self.missing.add(image, why)


def _not_copied(file: Path, target: Path) -> str | None:
    """Copy a file; returns why there is no copy of it. Raises OSError if the target cannot be written."""
    try:
        source = open_regular(file)
    except OSError as error:  # gone since it was found
        return error.strerror or NO_FILE
    with source:
        before = os.fstat(source.fileno())
        with target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
        after = os.fstat(source.fileno())
    if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        return None
    target.unlink()
    return CHANGED


@dataclass(frozen=True)
class Export:
    """What is written.

    images: the boxes, by image; settings: the run's; files: its image files.
    without_box: the images that have none: nothing was found, no box is left, or they could not be used.
    is_own: whether this user made the run, so that the annotations that it names may be read.
    notes: what the user should know about the export; a format may add some.
    """

    images: Selection
    settings: dict[str, Any]
    files: ImageFiles
    without_box: tuple[str, ...] = ()
    is_own: bool = True
    notes: list[str] = field(default_factory=list)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels of the boxes, sorted; empty if none has one."""
        return tuple(sorted({box.label for image in self.images for box in image.boxes if box.label}))

    @cached_property
    def categories(self) -> dict[str, int]:
        """Each class and its number, from 0 in sorted order."""
        boxes = (box for image in self.images for box in image.boxes)
        names = {*self.labels, *([] if self.labels and all(box.label for box in boxes) else [CATEGORY])}
        return {name: number for number, name in enumerate(sorted(names))}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table of boxes, with their labels if there are any."""
        return (*COLUMNS, "label") if self.labels else COLUMNS

    def row(self, image: ExportedImage, box: ExportedBox) -> tuple[object, ...]:
        """The row of a box under `columns`."""
        return (*row(image, box), box.label) if self.labels else row(image, box)


def category_of(box: ExportedBox) -> str:
    """The class of a box."""
    return box.label or CATEGORY


class Stems:
    """Plain file names without suffix, unique in one folder, whatever the images are called.

    The same images in the same order get the same names.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def of(self, image: str) -> str:
        """The next image's name, such as a_x for a/x.jpg, and then a_x_png for a/x.png."""
        stem, with_suffix = _plain(os.path.splitext(image)[0]), _plain(image.replace(".", "_"))
        if stem.casefold() in self._taken:  # some file systems do not distinguish a from A
            stem = with_suffix
        while stem.casefold() in self._taken:
            self._numbers[with_suffix] += 1
            stem = f"{with_suffix}-{self._numbers[with_suffix] + 1}"
        self._taken.add(stem.casefold())
        return stem


def _plain(text: str) -> str:
    """Letters, digits, _, - and inner dots: nothing with a special meaning in a path, a list or XML."""
    plain = re.sub(r"[^\w.-]+", "_", text).strip("._")
    return plain.encode()[:_LONGEST_STEM].decode(errors="ignore") or "image"


def open_text(path: Path) -> TextIO:
    """Open a text file for writing; creates its folder. Bytes of names that are not UTF-8 are escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


@contextlib.contextmanager
def open_table(path: Path, columns: Iterable[str]) -> Iterator[Any]:
    """A `csv.writer` for a file with these columns; None becomes an empty cell."""
    with open_text(path) as file:
        # texts are quoted, since otherwise a carriage return in a name would end a line for some readers
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(columns)
        yield writer
