"""Image files that inputs name: files, folders and glob patterns. Their names are held in memory."""

from __future__ import annotations

import glob
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.reading import SUFFIXES
from lost_reg.images.sources import ALL, Share, is_below, is_image
from lost_reg.types import Failure


@dataclass(frozen=True)
class ImageFiles:
    """Image files under one root; `names` are their paths relative to it, with forward slashes.

    failures: folders that could not be listed.
    """

    root: Path
    names: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    are_files = True

    @property
    def count(self) -> int:
        return len(self.names)

    def todo(
        self, done: Container[str], share: Share = ALL, limit: int | None = None
    ) -> Iterator[NamedImage | Failure]:
        files = ((name, self.root / name) for name in self.names[:limit] if name not in done)
        return share.of(chain(self.failures, files))

    def sample(self, most: int) -> list[ImageInput]:
        return [self.root / name for name in self.names[:: -(-len(self.names) // most)]]


def list_images(inputs: Sequence[str | Path], *, exclude: Path | None = None) -> ImageFiles:
    """Find the images that the inputs name.

    Args:
        inputs: files, folders (searched recursively for SUFFIXES in any case) and glob patterns
            (`**` recurses). A file that is given itself is read whatever its suffix.
        exclude: a folder to leave out, such as the one results are written to.

    Returns:
        The files, sorted within each input, each once. The root is the folder that was given, or the
        deepest folder that holds all of them.

    Raises:
        LostRegError: an input that does not exist, or that holds no images.
    """
    excluded = exclude and os.path.abspath(exclude)
    files: dict[str, None] = {}  # text, as a million Path objects take a gigabyte
    unlisted: dict[str, str] = {}  # folders, and why
    tops = []
    for text in map(str, inputs):
        found, top = _files_of(text, unlisted)
        if excluded:
            found = [file for file in found if not is_below(file, excluded)]
        if not found and not unlisted:
            raise LostRegError(
                f"no images in {text!r} (looked for {', '.join(SUFFIXES)}): give a file, "
                "folder or pattern; give tar shards by their own names, such as 'shards/*.tar'"
            )
        files.update(dict.fromkeys(found))
        tops.append(top)
    root = os.path.commonpath(tops)
    start = len(root.rstrip(os.sep)) + 1

    def named(path: str) -> str:
        return path[start:].replace(os.sep, "/") or "."

    failures = tuple(Failure(named(path), f"cannot be listed: {reason}") for path, reason in unlisted.items())
    return ImageFiles(Path(root), tuple(map(named, files)), failures)


def _files_of(text: str, unlisted: dict[str, str]) -> tuple[list[str], str]:
    """The files of one input, absolute and sorted, and the folder they are named from.

    unlisted: takes the folders that cannot be listed, and why.
    """
    if not text:
        raise LostRegError("an input is empty: give a file, folder or pattern")
    path = os.path.abspath(text)
    if os.path.isdir(path):
        return _sorted(_walk(path, unlisted)), path
    if os.path.exists(path):
        return [path], os.path.dirname(path)
    if glob.has_magic(text):
        parts = Path(text).parts
        first = _first_magic(parts)
        fixed = os.path.abspath(Path(*parts[:first]))
        matches = _matches(text, fixed, parts[first:])
        files = {
            file
            for match in matches
            for file in (_walk(match, unlisted) if os.path.isdir(match) else [match])
        }
        found = _sorted(file for file in files if is_image(file))
        # after its wildcard, a pattern may lead out of its fixed part by ".."
        return found, os.path.commonpath([fixed, *found])
    raise LostRegError(f"no such file or folder: {text!r}")


def _sorted(files: Iterable[str]) -> list[str]:
    """By folder first, as paths are sorted."""
    return sorted(files, key=lambda file: file.split(os.sep))


def _first_magic(parts: tuple[str, ...]) -> int:
    return next(index for index, part in enumerate(parts) if glob.has_magic(part))


def _matches(pattern: str, fixed: str, rest: tuple[str, ...]) -> list[str]:
    if "**" in rest:  # by pathlib, which does not follow links in it: they may lead in circles
        return [os.path.abspath(match) for match in Path(fixed).glob(str(Path(*rest)))]
    return [os.path.abspath(match) for match in glob.glob(pattern)]


def _walk(folder: str, unlisted: dict[str, str]) -> Iterator[str]:
    def cannot(error: OSError) -> None:
        unlisted[error.filename] = error.strerror

    for where, _, names in os.walk(folder, onerror=cannot):
        yield from (os.path.join(where, name) for name in names if is_image(name))
