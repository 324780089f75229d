"""Image files that a list names. The list is streamed: memory does not grow with its length."""

from __future__ import annotations

import codecs
import os
import sys
import tempfile
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.sources import ALL, Share, is_below

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class ListedFiles:
    """Files that a list names, one in a line, or ended by NUL as `find -print0` writes them.

    The list is read once to count it and to find the folder above all files, and again during the run.
    Relative paths start from the working directory.
    """

    root: Path
    count: int
    _list: BinaryIO = field(repr=False)
    _end: bytes = field(repr=False)
    are_files = True

    @classmethod
    def read(cls, name: str) -> ListedFiles:
        """From a file, or from the standard input, "-", which is kept in a temporary file.

        Raises:
            LostRegError: a list that cannot be read, or names nothing.
        """
        shown = "the standard input" if name == STANDARD_INPUT else repr(name)
        try:
            file = _opened_list(name)
            end = b"\0" if b"\0" in file.read(2**16) else b"\n"
            file.seek(0)
            count, root = 0, ""
            for path in _paths(file, end):
                folder = os.path.dirname(path)
                if not count:
                    root = folder
                elif not is_below(folder, root):
                    root = os.path.commonpath([root, folder])
                count += 1
        except OSError as error:
            raise LostRegError(f"cannot read the list {shown}: {error.strerror or error}") from None
        if not count:
            raise LostRegError(f"{shown} names no images: expected one path in a line")
        return cls(Path(root), count, file, end)

    def todo(
        self, done: Container[str], share: Share = ALL, limit: int | None = None
    ) -> Iterator[NamedImage]:
        named = ((os.path.relpath(path, self.root), path) for path in islice(self._all(), limit))
        named = ((name.replace(os.sep, "/"), path) for name, path in named)
        return share.of((name, Path(path)) for name, path in named if name not in done)

    def sample(self, most: int) -> list[ImageInput]:
        return [Path(path) for path in islice(self._all(), 0, None, -(-self.count // most))]

    def _all(self) -> Iterator[str]:
        self._list.seek(0)
        yield from _paths(self._list, self._end)


def _opened_list(name: str) -> BinaryIO:
    """A list that can be read again; what comes through a pipe is kept in a temporary file."""
    if name == STANDARD_INPUT:
        if sys.stdin is None:
            raise LostRegError("there is no standard input to read a list from")
        return _spooled(sys.stdin.buffer)
    file = open(name, "rb")  # noqa: SIM115 - it is read as long as the run goes
    return file if file.seekable() else _spooled(file)


def _spooled(stream: BinaryIO) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read as long as the run goes
    while block := stream.read(2**20):
        file.write(block)
    file.seek(0)
    return file


def _paths(file: BinaryIO, end: bytes) -> Iterator[str]:
    """The absolute paths of a list."""
    here = os.getcwd()
    for entry in _entries(file, end):
        if entry := (entry if end == b"\0" else entry.rstrip(b"\r")):
            yield os.path.normpath(os.path.join(here, os.fsdecode(entry)))


def _entries(file: BinaryIO, end: bytes) -> Iterator[bytes]:
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while block := file.read(2**16):
        *whole, rest = (rest + block).split(end)
        yield from whole
    yield from rest.split(end)
