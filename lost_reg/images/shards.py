"""Images in tar shards in WebDataset's format. Shards are streamed: memory does not grow with their size,
but for 16 bytes for the name of each image in the shard that is being read.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import posixpath
import re
import tarfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from braceexpand import braceexpand

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.files import is_address
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.fetching import opened, size_of
from lost_reg.images.folders import is_image, is_junk, what_is_there
from lost_reg.images.remote import addresses_of, common_location
from lost_reg.types import Failure

if TYPE_CHECKING:
    from typing_extensions import Self

# What a name like these holds is known by its first bytes; of the compressed ones, only gzip is read.
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_GZIP = b"\x1f\x8b"
_NOT_READ = {
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
}
# An image file in a shard is read whole, and several are read ahead.
_LARGEST_MEMBER = 2**28
_MOST_SAMPLED = 16  # images of a shard, each of which must be read to know its size
# A header that announces more is damaged or hostile: tarfile would seek for ever, or be slow.
_LARGEST_IN_HEADER = 2**36
_LONGEST_NAME = 2**14
_MOST_DIGITS = 255  # in a row in an extended header, as in the longest name
_MOST_EXPANDED = 1032  # times, by gzip
_NAMES_AT_ONCE = 2**16
_DIGEST = np.dtype("S16")


@dataclass(frozen=True)
class TarShards:
    """Tar archives in WebDataset's format, read from start to end.

    An image's name is its shard's name and its own name in the shard: "shard-000.tar/0042.jpg".

    location: the folder, or address, that the shards' names are relative to.
    shards: their absolute paths, or addresses.
    """

    location: str
    shards: tuple[str, ...]
    count = None
    are_files = False
    passed_over = MappingProxyType[str, int]({})
    drawn = ()

    def todo(self, done: Container[str], limit: int | None = None) -> Iterator[NamedImage | Failure]:
        """A shard that cannot be read to its end, or holds no images, yields a Failure with its name."""
        return (one for one in islice(self._images(done), limit) if one is not None)

    def parts(self) -> Iterator[TarShards]:
        """Each shard, which can be read elsewhere."""
        return (replace(self, shards=(shard,)) for shard in self.shards)

    def sample(self, most: int) -> Iterator[ImageInput]:
        found = (one for one in self._images(()) if not isinstance(one, Failure))
        return (image for _, image in islice(found, min(most, _MOST_SAMPLED)))

    def _images(self, done: Container[str]) -> Iterator[NamedImage | Failure | None]:
        """Each image, or None in place of one that is done."""
        for path in self.shards:
            shard = path[len(self.location.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
            try:
                yield from _members(path, shard, done)
            except UnreadableImage as error:
                yield Failure(shard, str(error))
            except Exception as error:  # a damaged archive can break its reader anywhere
                yield Failure(shard, f"cannot be read to its end: {error or type(error).__name__}")


def _members(path: str, shard: str, done: Container[str]) -> Iterator[NamedImage | Failure | None]:
    """The images of a shard, without junk; raises UnreadableImage for a shard that is none or has none."""
    others: list[str] | None = []  # a few of the other files, while there is no image
    seen = _Names()
    with _opened(path) as file, _tar_in(file) as tar:
        most = _size_of(path) * (_MOST_EXPANDED if isinstance(file, gzip.GzipFile) else 1)
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            tar.pax_headers = {}  # and what is said of all members, which it copies for each
            _check_room(member, most)
            within = posixpath.normpath(member.name)
            name = f"{shard}/{within}"
            if member.isdir() or any(map(is_junk, within.split("/"))):
                continue
            if not (member.isfile() or member.islnk() or member.issym()) or not is_image(within):
                if others is not None and len(others) < _NAMES_AT_ONCE:
                    others.append(within)
                continue
            others = None
            if not member.isfile():
                yield Failure(name, "is a link in its shard, and links are not followed: add the file itself")
            elif "\0" in within:
                yield Failure(name, "its name contains a NUL")
            elif posixpath.isabs(within) or within.startswith("../"):
                yield Failure(name, "its name leads out of its shard")
            elif member.issparse():
                yield Failure(
                    name, "is a sparse file in its shard, which is not read: add it as a plain file"
                )
            elif member.size > _LARGEST_MEMBER:
                yield Failure(name, f"too large: a file of {member.size:,} bytes")
            elif not seen.add(within):
                yield Failure(name, "is in its shard twice: the first file of this name counts")
            elif name in done:
                yield None
            else:
                yield name, tar.extractfile(member).read()
        while file.read(2**20):  # to its end, where a gzip file has its checksum
            pass
    if others is not None:
        raise UnreadableImage(f"no images: {what_is_there(others)}")


def _check_room(member: tarfile.TarInfo, most: int) -> None:
    """Check that a member is within the bytes of its shard: tarfile would seek far beyond them."""
    if member.isreg() and not member.issparse() and member.offset_data + member.size > most:
        raise tarfile.ReadError(f"a file of {member.size:,} bytes, of which it does not hold all")


class _Names:
    """The names in a shard so far, in 16 bytes each: as hashes, which do not collide in practice."""

    def __init__(self) -> None:
        self._latest: set[bytes] = set()
        self._sorted = np.empty(0, _DIGEST)

    def add(self, name: str) -> bool:
        """Add a name; whether it is new."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        one = np.frombuffer(digest, _DIGEST)
        at = np.searchsorted(self._sorted, one)[0]
        if digest in self._latest or (self._sorted[at : at + 1] == one).any():
            return False
        self._latest.add(digest)
        if len(self._latest) >= _NAMES_AT_ONCE:
            self._sorted = np.union1d(self._sorted, np.array(list(self._latest), _DIGEST))
            self._latest.clear()
        return True


def _size_of(path: str) -> int:
    return size_of(path) if is_address(path) else os.path.getsize(path)


def _open(path: str) -> BinaryIO:
    return opened(path) if is_address(path) else open(path, "rb")


def _opened(path: str) -> BinaryIO:
    """The content of a shard, decompressed if it is compressed with gzip, whatever the shard is called."""
    with _open(path) as file:
        start = file.read(8)
    for mark, what in _NOT_READ.items():
        if start.startswith(mark):
            raise UnreadableImage(f"is {what}, which is not read: make it a plain .tar or a .tar.gz")
    # not with tarfile's own gzip reader, which ignores the checksum
    return cast(BinaryIO, gzip.open(_open(path)) if start.startswith(_GZIP) else _open(path))


def _tar_in(file: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictMember)
    except tarfile.ReadError as error:
        raise UnreadableImage(f"is no tar archive, or damaged at its start: {error}") from None


class _StrictMember(tarfile.TarInfo):
    """Raises at a damaged header, which tarfile takes for the archive's end, silently losing what follows."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        most = _LARGEST_IN_HEADER if member.isreg() or member.issparse() else _LONGEST_NAME
        if not 0 <= member.size <= most:
            raise tarfile.HeaderError(f"a header that announces {member.size:,} bytes")
        return member

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the regular end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}, so it has no proper end") from None

    def _proc_pax(self: Any, tar: Any) -> Any:
        stream = tar.fileobj
        content = stream.read(self._block(self.size))
        _check_records(content[: self.size])
        tar.fileobj = _ReadAgain(stream, content)
        try:
            return super()._proc_pax(tar)  # type: ignore[misc]
        finally:
            tar.fileobj = stream

    # Of a sparse file, tarfile would read a list of its parts of any length, and then make all of its zeros.

    def _proc_sparse(self: Any, tar: tarfile.TarFile) -> Any:
        _, goes_on, _ = self._sparse_structs
        while goes_on:
            goes_on = bool(tar.fileobj.read(tarfile.BLOCKSIZE)[504])
        self.sparse = []
        return self._proc_builtin(tar)

    def _mark_sparse(self, member: tarfile.TarInfo, *_: object) -> None:
        member.sparse = []  # type: ignore[assignment]

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _mark_sparse


def find_shards(inputs: Sequence[str]) -> TarShards | None:
    """The shards that inputs name, or None if they name none; braces, as in shard-{000..999}.tar, expand.

    Raises:
        LostRegError: a shard that does not exist, shards mixed with other inputs, or addresses mixed with
            paths.
    """
    names = [name for text in inputs for name in _expanded(text)]
    shards = [name for name in names if name.lower().endswith(SHARD_SUFFIXES)]
    if not shards:
        return None
    if len(shards) < len(names):
        other = next(name for name in names if name not in shards)
        raise LostRegError(f"shards cannot be mixed with other inputs: {other!r} is not a tar archive")
    paths = [path for shard in shards for path in _shard_paths(shard)]
    folders = [os.path.dirname(path) for path in paths]
    if any(map(is_address, paths)):
        if not all(map(is_address, paths)):
            raise LostRegError("shards at addresses cannot be mixed with shards on this machine")
        return TarShards(common_location(folders), tuple(dict.fromkeys(paths)))
    return TarShards(os.path.commonpath(folders), tuple(dict.fromkeys(paths)))


def _expanded(text: str) -> list[str]:
    if os.path.exists(text) or not text.lower().endswith(SHARD_SUFFIXES):
        return [text]
    try:
        return list(braceexpand(text))
    except ValueError:  # unmatched braces are part of a name
        return [text]


def _shard_paths(shard: str) -> list[str]:
    if is_address(shard):
        if not (found := addresses_of(shard)):
            raise LostRegError(f"no such shard: {shard!r}")
        return found
    if os.path.isfile(shard):
        return [os.path.abspath(shard)]
    found = sorted(glob.glob(shard, recursive=True)) if glob.has_magic(shard) else []
    if not found:
        raise LostRegError(f"no such shard: {shard!r}")
    return [os.path.abspath(path) for path in found]


def _check_records(content: bytes) -> None:
    """Check the records of an extended header, each "LENGTH NAME=VALUE", in linear time.

    tarfile reads them with regular expressions that take quadratic time for others (CVE-2024-6232).
    """
    at = 0
    while at < len(content):
        digits = content[at : at + 8].partition(b" ")[0]
        end = at + int(digits) if digits.isdigit() else 0
        if not at < end <= len(content) or content[end - 1 : end] != b"\n" or b"=" not in content[at:end]:
            raise tarfile.ReadError("an extended header whose records are damaged")
        at = end
    if max(map(len, re.findall(rb"\d+", content)), default=0) > _MOST_DIGITS:
        raise tarfile.ReadError(f"an extended header with more than {_MOST_DIGITS} digits in a row")


class _ReadAgain:
    """A stream that gives what was just read once more."""

    def __init__(self, stream: BinaryIO, content: bytes):
        self._stream, self._content = stream, content

    def read(self, size: int) -> bytes:
        content, self._content = self._content, b""
        return content or self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
