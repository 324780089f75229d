"""What an export format writes, and how a format is described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lost_reg.export.boxes import Selection
from lost_reg.export.image_files import ImageFiles

CATEGORY = "object"  # the one class of all boxes
NAMES_TABLE = "names.csv"  # in a folder of renamed images: which is which


@dataclass(frozen=True)
class Export:
    """What is written.

    images: the boxes, by image; settings: those of the run; files: its image files.
    notes: what the user should know about how it was written; a format may add some.
    """

    images: Selection
    settings: dict[str, Any]
    files: ImageFiles
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """One export format.

    suffix: of the file, or "" for a folder.
    write: (export, path) -> None: writes to that path; a folder has been made already.
    has_images: whether it holds the images, too.
    one_box: whether it has room for only one box an image.
    """

    suffix: str
    write: Callable[[Export, Path], None]
    has_images: bool = False
    one_box: bool = False
