"""Puts the lines of a finished folder into the order of its images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lost_reg.files import whole_file
from lost_reg.json_files import parse_json


@dataclass(frozen=True)
class _Named:
    """What is read of a line."""

    image: str


def sort_lines(path: Path, names: Iterable[str]) -> None:
    """Rewrite a file of one JSON line per image in the order of the images' names, completely or not at all.

    Lines of other images follow, in the order in which they were. Memory grows with the number of lines, by
    a name and a position each.

    Args:
        names: of the images, in the order wanted; may repeat.

    Raises:
        LostRegError: a file that cannot be written.
    """
    positions: dict[str, list[int]] = {}
    with whole_file(path, durable=True) as part, path.open("rb") as lines, part.open("wb") as ordered:
        start = 0
        for line in lines:
            positions.setdefault(parse_json(line, _Named).image, []).append(start)
            start += len(line)
        for name in names:
            _copy(lines, positions.pop(name, []), ordered)
        for rest in positions.values():
            _copy(lines, rest, ordered)


def _copy(lines: BinaryIO, starts: list[int], target: BinaryIO) -> None:
    for start in starts:
        lines.seek(start)
        target.write(lines.readline())
