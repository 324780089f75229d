"""The files of an export: where they may be written, and how text and tables are."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lost_reg.errors import LostRegError


def check_target(path: Path, suffix: str) -> None:
    """Refuse a path that an export must not be written to.

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
    """A text file to write, in a folder that is made. Bytes of names that are not UTF-8 become escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


@contextlib.contextmanager
def open_table(path: Path, columns: Iterable[str]) -> Iterator[Any]:
    """A `csv.writer` of a file with these columns; None is an empty cell."""
    with open_text(path) as file:
        # texts are quoted, since otherwise a carriage return in a name would end a line for some readers
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(columns)
        yield writer
