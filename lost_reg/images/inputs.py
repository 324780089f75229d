"""The images of a run: files that inputs name, a list of paths, or tar shards.

The names of files are held in memory; lists and shards are gone through as a run goes, with constant memory.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import os
import posixpath
import sys
import tarfile
import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol

from braceexpand import braceexpand

from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.reading import SUFFIXES
from lost_reg.runs.ranks import ALONE, Ranks
from lost_reg.types import Failure

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
STANDARD_INPUT = "-"
# An image file of a shard is read as a whole, and some are read ahead.
_LARGEST_MEMBER = 2**28
_MOST_SAMPLED = 16  # images of a shard, each of which must be read to see its size
# Of a header that says more, a damaged or hostile one, tarfile would seek for ever, or fill the memory.
_LARGEST_IN_HEADER = 2**36
_LONGEST_NAME = 2**20


class Images(Protocol):
    """The images of a run: what `ImageFiles`, `ListedFiles` and `TarShards` have in common.

    root: the folder that their names start from; count: how many there are, or None where only going through
    them would tell; are_files: whether root / name is a file.
    """

    root: Path
    count: int | None
    are_files: bool

    def todo(
        self, done: Container[str], ranks: Ranks = ALONE, limit: int | None = None
    ) -> Iterator[NamedImage | Failure]:
        """Those of the first `limit` images that are not done and this rank's."""

    def sample(self, most: int) -> Iterable[ImageInput]:
        """A few of them, by which a run is judged."""


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
        self, done: Container[str], ranks: Ranks = ALONE, limit: int | None = None
    ) -> Iterator[NamedImage | Failure]:
        files = ((name, self.root / name) for name in self.names[:limit] if name not in done)
        return ranks.share(chain(self.failures, files))

    def sample(self, most: int) -> list[ImageInput]:
        return [self.root / name for name in self.names[:: -(-len(self.names) // most)]]


def list_images(inputs: Sequence[str | Path], *, exclude: Path | None = None) -> ImageFiles:
    """Find the images that the inputs name.

    Args:
        inputs: files, folders (searched recursively for SUFFIXES in any case) and glob patterns
            (`**` recurses). A file that is named itself is taken whatever its suffix.
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
            found = [file for file in found if not _is_below(file, excluded)]
        if not found and not unlisted:
            raise LostRegError(
                f"no images in {text!r} (looked for {', '.join(SUFFIXES)}): name a file, folder or "
                "pattern; tar shards are named themselves, by 'shards/*.tar', say"
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
        raise LostRegError("an input is empty: name a file, folder or pattern")
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
        found = _sorted(file for file in files if _is_image(file))
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
        yield from (os.path.join(where, name) for name in names if _is_image(name))


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in SUFFIXES


@dataclass(frozen=True)
class ListedFiles:
    """Files that a list names, one in a line, or ended by NUL as `find -print0` writes them.

    The list is gone through once to count it and to find the folder that all files are below, then read
    along as the run goes. Relative paths start from the working directory.
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
                elif not _is_below(folder, root):
                    root = os.path.commonpath([root, folder])
                count += 1
        except OSError as error:
            raise LostRegError(f"cannot read the list {shown}: {error.strerror or error}") from None
        if not count:
            raise LostRegError(f"{shown} names no images: expected one path in a line")
        return cls(Path(root), count, file, end)

    def todo(
        self, done: Container[str], ranks: Ranks = ALONE, limit: int | None = None
    ) -> Iterator[NamedImage]:
        named = ((os.path.relpath(path, self.root), path) for path in islice(self._all(), limit))
        named = ((name.replace(os.sep, "/"), path) for name, path in named)
        return ranks.share((name, Path(path)) for name, path in named if name not in done)

    def sample(self, most: int) -> list[ImageInput]:
        return [Path(path) for path in islice(self._all(), 0, None, -(-self.count // most))]

    def _all(self) -> Iterator[str]:
        self._list.seek(0)
        yield from _paths(self._list, self._end)


def _opened_list(name: str) -> BinaryIO:
    """A list that can be gone through again; what comes through a pipe is kept in a temporary file."""
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


def _is_below(folder: str, root: str) -> bool:
    return folder == root or folder.startswith(root.rstrip(os.sep) + os.sep)


@dataclass(frozen=True)
class TarShards:
    """Tar archives in WebDataset's form, gone through from front to end; each rank takes whole shards.

    An image is called by its shard and its name in it, "shard-000.tar/0042.jpg".
    """

    root: Path
    paths: tuple[Path, ...]
    count = None
    are_files = False

    def todo(
        self, done: Container[str], ranks: Ranks = ALONE, limit: int | None = None
    ) -> Iterator[NamedImage | Failure]:
        """A shard that cannot be read to its end gives a Failure in the shard's name.

        Raises:
            LostRegError: a limit for several ranks, none of which knows what the others read.
        """
        if limit and ranks.count > 1:
            raise LostRegError("--limit does not go with shards on several ranks: name fewer shards")
        return (one for one in islice(self._images(ranks, done), limit) if one is not None)

    def sample(self, most: int) -> Iterator[ImageInput]:
        found = (one for one in self._images(ALONE, ()) if not isinstance(one, Failure))
        return (image for _, image in islice(found, min(most, _MOST_SAMPLED)))

    def _images(self, ranks: Ranks, done: Container[str]) -> Iterator[NamedImage | Failure | None]:
        """Each image, None in the place of one that is done."""
        for path in ranks.share(self.paths):
            shard = path.relative_to(self.root).as_posix()
            try:
                yield from _members(path, shard, done)
            except Exception as error:  # a damaged archive can break its reader anywhere
                yield Failure(shard, f"cannot be read to its end: {error or type(error).__name__}")


def _members(path: Path, shard: str, done: Container[str]) -> Iterator[NamedImage | Failure | None]:
    # not by tarfile's own way with gzip, which does not look at the checksum
    opened = (gzip.open if path.suffix.lower() in (".gz", ".tgz") else open)(path, "rb")
    with opened as file, tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictMember) as tar:
        for member in tar:
            tar.members.clear()  # it would keep all of them
            within = posixpath.normpath(member.name)
            name = f"{shard}/{within}"
            if not (member.isfile() or member.islnk() or member.issym()) or not _is_image(within):
                continue
            if name in done:
                yield None
            elif not member.isfile():
                yield Failure(name, "is a link in its shard, and those are not followed: add the file itself")
            elif "\0" in within:
                yield Failure(name, "its name holds a NUL")
            elif posixpath.isabs(within) or within.startswith("../"):
                yield Failure(name, "its name leads out of its shard")
            elif member.size > _LARGEST_MEMBER:
                yield Failure(name, f"too large: a file of {member.size:,} bytes")
            else:
                yield name, tar.extractfile(member).read()
        while file.read(2**20):  # to its end, where a compressed one has its checksum
            pass


class _StrictMember(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of an archive: what comes after would be lost unsaid."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        member = super().frombuf(buf, encoding, errors)
        most = _LARGEST_IN_HEADER if member.isreg() or member.issparse() else _LONGEST_NAME
        if not 0 <= member.size <= most:
            raise tarfile.HeaderError(f"a header that tells of {member.size:,} bytes")
        return member

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # its proper end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}, so that it has no proper end") from None


def find_shards(inputs: Sequence[str]) -> TarShards | None:
    """The shards that inputs name, or None if they name none; braces, as in shard-{000..999}.tar, count up.

    Raises:
        LostRegError: a shard that is not there, or shards among other inputs.
    """
    names = [name for text in inputs for name in _expanded(text)]
    shards = [name for name in names if name.lower().endswith(SHARD_SUFFIXES)]
    if not shards:
        return None
    if len(shards) < len(names):
        other = next(name for name in names if name not in shards)
        raise LostRegError(f"shards and other inputs do not go together: {other!r} is no tar archive")
    paths = [Path(path) for shard in shards for path in _shard_paths(shard)]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return TarShards(root, tuple(dict.fromkeys(paths)))


def _expanded(text: str) -> list[str]:
    if os.path.exists(text) or not text.lower().endswith(SHARD_SUFFIXES):
        return [text]
    try:
        return list(braceexpand(text))
    except ValueError:  # braces that do not match are a part of a name
        return [text]


def _shard_paths(shard: str) -> list[str]:
    if os.path.isfile(shard):
        return [os.path.abspath(shard)]
    found = sorted(glob.glob(shard, recursive=True)) if glob.has_magic(shard) else []
    if not found:
        raise LostRegError(f"no such shard: {shard!r}")
    return [os.path.abspath(path) for path in found]
