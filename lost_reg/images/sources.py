"""The images of a run: files given as inputs, and files named in a list.

`shards.py` has tar shards, `remote.py` images at addresses.
"""

from __future__ import annotations

import codecs
import glob
import os
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Protocol

from lost_reg.errors import LostRegError
from lost_reg.files import is_address
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.fetching import MOST_SAMPLED, check_no_password, check_scheme, fetched_sample, name_at
from lost_reg.images.folders import is_image, is_junk, passed_over, walk, what_is_there
from lost_reg.images.reading import readable_suffixes
from lost_reg.types import Failure

STANDARD_INPUT = "-"
# How entries of a list begin that are no paths, and what to write instead.
_FORMS = {
    "~": "write the home folder in place of ~",
    **{f"{scheme}:": "an address has ://" for scheme in ("file", "http", "https", "s3", "gs", "az", "hdfs")},
    "'": "leave out the quotes",
    '"': "leave out the quotes",
}


class Images(Protocol):
    """The images of a run: what `ImageFiles`, `ListedFiles`, `TarShards` and `RemoteImages` have in common.

    location: the folder, or address, that their names are relative to; absolute. "" if all names are whole
        addresses.
    count: how many there are, or None if only reading them all would tell.
    are_files: whether each name is that of a file in this folder.
    passed_over, drawn: see `ImageFiles`.
    """

    @property
    def location(self) -> str: ...

    @property
    def count(self) -> int | None: ...

    @property
    def are_files(self) -> bool: ...

    @property
    def passed_over(self) -> Mapping[str, int]: ...

    @property
    def drawn(self) -> Sequence[str]: ...

    def todo(self, done: Container[str], limit: int | None = None) -> Iterator[NamedImage | Failure]:
        """Those of the first `limit` images that are not done; see `fetched` for those at addresses."""
        ...

    def sample(self, most: int) -> Iterable[ImageInput]:
        """A few of them, for estimating the cost of a run."""
        ...


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder, or lies below it; both absolute."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


# --- files, folders and patterns: their names are held in memory


@dataclass(frozen=True)
class ImageFiles:
    """Image files under one root; `names` are their paths relative to it, with forward slashes.

    failures: folders that could not be listed.
    passed_over: how many files beside them are of formats that are not read, by suffix.
    drawn: the folders that were left out because they hold pictures or maps that lost-reg made.
    """

    root: Path
    names: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    drawn: Sequence[str] = ()
    are_files = True

    @property
    def location(self) -> str:
        return str(self.root.absolute())

    @property
    def count(self) -> int:
        return len(self.names)

    def todo(self, done: Container[str], limit: int | None = None) -> Iterator[NamedImage | Failure]:
        files = ((name, self.root / name) for name in self.names[:limit] if name not in done)
        return chain(self.failures, files)

    def sample(self, most: int) -> list[ImageInput]:
        return [self.root / name for name in self.names[:: -(-len(self.names) // most)]]


def list_images(inputs: Sequence[str | Path], *, exclude: Path | None = None) -> ImageFiles:
    """Find the images that the inputs name.

    Args:
        inputs: files, folders (searched recursively for `readable_suffixes` in any case) and glob patterns
            (`**` recurses). A file that is given directly is read whatever its suffix. What is hidden, or
            junk such as __MACOSX, is left out, unless it is named itself; so are the pictures and maps in
            the folder of a run.
        exclude: a folder to leave out, such as the one results are written to.

    Returns:
        The files, sorted within each input, without duplicates. The root is the folder that was given, or
        the deepest folder that contains all of them.

    Raises:
        LostRegError: an input that does not exist, or contains no images.
    """
    excluded = exclude and os.path.abspath(exclude)
    files: dict[str, None] = {}  # strings: a million Path objects take a gigabyte
    others: set[str] = set()
    unlisted: dict[str, str] = {}  # folders and reasons
    drawn: set[str] = set()
    tops = []
    for text in map(str, inputs):
        unlisted_here: dict[str, str] = {}
        found, others_here, top = _files_of(text, unlisted_here, drawn)
        if excluded:
            found, others_here = (
                [file for file in some if not is_below(file, excluded)] for some in (found, others_here)
            )
        if not found and not unlisted_here:
            looked_for = f"looked for {', '.join(readable_suffixes())}"
            raise LostRegError(f"no images in {text!r} ({looked_for}): {what_is_there(others_here)}")
        files.update(dict.fromkeys(found))
        others.update(others_here)
        unlisted.update(unlisted_here)
        tops.append(top)
    root = os.path.commonpath(tops)
    start = len(root.rstrip(os.sep)) + 1

    def named(path: str) -> str:
        return path[start:].replace(os.sep, "/") or "."

    failures = tuple(Failure(named(path), f"cannot be listed: {reason}") for path, reason in unlisted.items())
    others.difference_update(files)  # of any suffix, if they were given directly
    own = sorted(map(named, drawn))
    return ImageFiles(Path(root), tuple(map(named, files)), failures, passed_over(others), own)


def _files_of(text: str, unlisted: dict[str, str], drawn: set[str]) -> tuple[list[str], list[str], str]:
    """The images of one input and the other files, absolute, and the folder that names are relative to.

    The images are sorted.

    unlisted, drawn: see `walk`.
    """
    if not text:
        raise LostRegError("an input is empty: give a file, folder or pattern")
    path = os.path.abspath(text)
    if os.path.isdir(path):
        return *_split(walk(path, unlisted, drawn)), path
    if os.path.exists(path):
        return [path], [], os.path.dirname(path)
    if glob.has_magic(text):
        parts = Path(text).parts
        first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        fixed = os.path.abspath(Path(*parts[:first]))
        matches = _matches(text, fixed, parts[first:])
        files = {
            file
            for match in matches
            for file in (walk(match, unlisted, drawn) if os.path.isdir(match) else [match])
        }
        found, others = _split(files)
        # after its wildcard, a pattern may leave its fixed part through ".."
        return found, others, os.path.commonpath([fixed, *found])
    raise LostRegError(f"no such file or folder: {text!r}")


def _split(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """The images, sorted by path components like Path objects, and the other files."""
    images: list[str] = []
    others: list[str] = []
    for file in files:
        (images if is_image(file) else others).append(file)
    return sorted(images, key=lambda file: file.split(os.sep)), others


def _matches(pattern: str, fixed: str, rest: tuple[str, ...]) -> list[str]:
    """What a pattern matches; of junk, only what it names. `rest` are its parts below the folder `fixed`."""
    found: Iterable[str | Path] = glob.glob(pattern)
    if "**" in rest:  # with pathlib, whose ** does not follow links: they may form cycles
        found = Path(fixed).glob(str(Path(*rest)))
    matches = [os.path.abspath(match) for match in found]

    def is_wanted(match: str) -> bool:
        names = os.path.relpath(match, fixed).split(os.sep)
        return all(_is_named(name, rest) for name in names if is_junk(name))

    return list(filter(is_wanted, matches))


def _is_named(junk: str, parts: tuple[str, ...]) -> bool:
    """Whether a part of a pattern asks for junk of this name: `__MACOSX` or `.thumb*` do, `*` does not."""
    return any(junk == part or (part[0] == junk[0] == "." and fnmatch(junk, part)) for part in parts)


# --- lists: streamed, so that memory does not grow with their length


@dataclass(frozen=True)
class ListedFiles:
    """Files named in a list, one per line, or each ended by NUL as `find -print0` writes them.

    The list is read once to count it and to find the files' common folder, and again during the run.
    Relative paths start from the working directory. An entry such as s3://bucket/a.jpg is an address, and the
    name of its image. Entries are taken literally; one that a shell or a browser would read otherwise is
    recorded with advice if there is no such file.

    location: the deepest folder above all paths; "" if there are only addresses.
    are_files: whether there are only paths.
    """

    location: str
    count: int
    are_files: bool
    _list: BinaryIO = field(repr=False)
    _end: bytes = field(repr=False)
    passed_over = MappingProxyType[str, int]({})
    drawn = ()

    @classmethod
    def read(cls, name: str) -> ListedFiles:
        """Read it from a file, or from standard input ("-"), which is kept in a temporary file.

        Raises:
            LostRegError: a list that cannot be read, or names nothing; addresses with a password, or of a
                kind that cannot be read here.
        """
        shown = "the standard input" if name == STANDARD_INPUT else repr(name)
        try:
            file = _opened_list(name)
            end = b"\0" if b"\0" in file.read(2**16) else b"\n"
            file.seek(0)
            count, root, schemes = 0, "", set[str]()
            for entry in _paths(file, end):
                count += 1
                if is_address(entry):
                    _check_address(entry, schemes)
                else:
                    root = _above(root, os.path.dirname(entry))
        except OSError as error:
            raise LostRegError(f"cannot read the list {shown}: {error.strerror or error}") from None
        except UnicodeError:
            raise LostRegError(f"cannot read the list {shown}: it begins as UTF-16 and is not") from None
        if not count:
            raise LostRegError(f"{shown} names no images: expected one path or address per line")
        return cls(root, count, not schemes, file, end)

    def todo(self, done: Container[str], limit: int | None = None) -> Iterator[NamedImage | Failure]:
        named = ((self._name(entry), entry) for entry in islice(self._all(), limit))
        return (_taken_literally(name, entry) for name, entry in named if name not in done)

    def sample(self, most: int) -> Iterator[ImageInput]:
        most = most if self.are_files else min(most, MOST_SAMPLED)
        return fetched_sample(map(_input, islice(self._all(), 0, None, -(-self.count // most))))

    def _name(self, entry: str) -> str:
        return (
            name_at(entry)
            if is_address(entry)
            else os.path.relpath(entry, self.location).replace(os.sep, "/")
        )

    def _all(self) -> Iterator[str]:
        self._list.seek(0)
        yield from _paths(self._list, self._end)


def _above(root: str, folder: str) -> str:
    """The deepest folder that both are, or are below; the second if the first is ""."""
    if not root or is_below(folder, root):
        return root or folder
    return os.path.commonpath([root, folder])


def _check_address(address: str, schemes: set[str]) -> None:
    """Check an address of a list; `schemes` are those that were checked before."""
    check_no_password(address)
    scheme = address.partition("://")[0]
    if scheme not in schemes:
        check_scheme(address)
        schemes.add(scheme)


def _taken_literally(name: str, entry: str) -> NamedImage | Failure:
    """An entry of a list, or a Failure that says what is wrong with one that is none because of its form."""
    image = _input(entry)
    if isinstance(image, Path):
        given = os.path.relpath(image)
        for start, advice in _FORMS.items():
            if given.startswith(start) and not os.path.lexists(image):
                reason = f"no such file: {entry!r}; entries of a list are paths or addresses: {advice}"
                return Failure(name, reason)
    return name, image


def _input(entry: str) -> ImageInput:
    return entry if is_address(entry) else Path(entry)


def _opened_list(name: str) -> BinaryIO:
    """A list that can be read repeatedly, in UTF-8; from a pipe or UTF-16, it is kept in a temporary file."""
    if name == STANDARD_INPUT:
        if sys.stdin is None:
            raise LostRegError("there is no standard input to read a list from")
        file = _spooled(sys.stdin.buffer)
    else:
        file = open(name, "rb")  # noqa: SIM115 - it is read throughout the run
        file = file if file.seekable() else _spooled(file)
    is_utf_16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes
    file.seek(0)
    return _spooled(codecs.EncodedFile(file, "utf-8", "utf-16")) if is_utf_16 else file


def _spooled(stream: Any) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read throughout the run
    while block := stream.read(2**20):
        file.write(block)
    file.seek(0)
    return file


def _paths(file: BinaryIO, end: bytes) -> Iterator[str]:
    """The absolute paths, and the addresses, of a list."""
    here = os.getcwd()
    for line in _entries(file, end):
        if line := (line if end == b"\0" else line.rstrip(b"\r")):
            entry = os.fsdecode(line)
            yield entry if is_address(entry) else os.path.normpath(os.path.join(here, entry))


def _entries(file: BinaryIO, end: bytes) -> Iterator[bytes]:
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while block := file.read(2**16):
        *whole, rest = (rest + block).split(end)
        yield from whole
    yield from rest.split(end)
