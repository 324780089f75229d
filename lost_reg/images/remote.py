"""Images at addresses that fsspec reads, such as s3://bucket/photos, which are fetched as a run goes on."""

from __future__ import annotations

import glob
import posixpath
import re
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO, TypeVar, cast

from lost_reg.errors import LostRegError
from lost_reg.files import is_address
from lost_reg.images.decoding import NamedImage
from lost_reg.images.folders import is_image, is_junk, passed_over, what_is_there
from lost_reg.text import first_sentence
from lost_reg.types import Failure

_HTTP = ("http://", "https://")  # where ? begins a query, and folders cannot be listed
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
_LARGEST = 2**28  # bytes of an image file, as in shards: several are held at once
_READERS = 16  # threads; a file of an object store takes tens of milliseconds, whatever its size
_MOST_SAMPLED = 16
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class RemoteImages:
    """Image files below an address; `names` are relative to it, and their files are read whole.

    passed_over: how many files beside them are of formats that are not read, by suffix.
    """

    location: str
    names: tuple[str, ...]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    drawn: Sequence[str] = ()
    are_files = False

    @property
    def count(self) -> int:
        return len(self.names)

    def todo(self, done: Container[str], limit: int | None = None) -> Iterator[NamedImage | Failure]:
        """Those of the first `limit` images that are not done; several are fetched at once, ahead of use."""
        return _read_ahead((name for name in self.names[:limit] if name not in done), self._fetched)

    def parts(self, done: Container[str], limit: int | None, size: int) -> Iterator[RemoteImages]:
        """What `todo` gives, in parts of this many images that can be read elsewhere."""
        left = (name for name in self.names[:limit] if name not in done)
        while names := tuple(islice(left, size)):
            yield replace(self, names=names, passed_over={})

    def sample(self, most: int) -> Iterator[bytes]:
        names = self.names[:: -(-len(self.names) // min(most, _MOST_SAMPLED))]
        found = (one for one in _read_ahead(names, self._fetched) if not isinstance(one, Failure))
        return (content for _, content in found)

    def _fetched(self, name: str) -> tuple[str, bytes] | Failure:
        try:
            files, root, _ = _file_system(self.location)
            with files.open(f"{root.rstrip('/')}/{name}", "rb") as file:
                content = file.read(_LARGEST + 1)
        except Exception as error:  # of any type, by the file system
            return Failure(name, f"cannot be fetched: {first_sentence(error)}")
        if len(content) > _LARGEST:
            return Failure(name, f"too large: a file of more than {_LARGEST:,} bytes")
        return name, content


def find_remote(inputs: Sequence[str]) -> RemoteImages | None:
    """The images below addresses, each of a file, a folder or a pattern; None if no input is an address.

    Raises:
        LostRegError: addresses of several places or mixed with paths, one that cannot be read or holds no
            images, or a package that is missing for reading it.
    """
    if not any(map(is_address, inputs)):
        return None
    files: dict[str, None] = {}
    others: set[str] = set()
    tops = []
    for address in inputs:
        if not is_address(address):
            raise LostRegError(f"addresses cannot be mixed with other inputs: {address!r} is a path")
        found, others_here, top = _files_at(address)
        if not found and not others_here:
            raise LostRegError(f"nothing is at {address!r}")
        if not found:
            raise LostRegError(f"no images at {address!r}: {what_is_there(sorted(others_here))}")
        files.update(dict.fromkeys(found))
        others.update(others_here)
        tops.append(top)
    location = common_location(tops)
    names = tuple(file[len(location) + 1 :] for file in files)
    return RemoteImages(location, names, passed_over(others))


def common_location(addresses: Sequence[str]) -> str:
    """The deepest address above all addresses of folders.

    Raises:
        LostRegError: they are in several file systems or buckets.
    """
    first, *others = (address.split("/") for address in addresses)
    same = len(first)
    for other in others:
        pairs = zip(first, other)
        same = min(same, next((at for at, (one, two) in enumerate(pairs) if one != two), len(other)))
    if same < 3:  # s3:, nothing, the bucket
        raise LostRegError(f"addresses of one run are of one place, but got {addresses[0]!r} and others")
    return "/".join(first[:same])


def addresses_of(address: str) -> list[str]:
    """The files at an address, which can be a pattern, sorted.

    Raises:
        LostRegError: an address that cannot be read, or a package that is missing for it.
    """
    with _errors(address):
        files, path, prefix = _file_system(address)
        if files.exists(path):
            return [prefix + path.lstrip("/")]
        return sorted(prefix + one.lstrip("/") for one in files.glob(path)) if _is_pattern(address) else []


def opened(address: str) -> BinaryIO:
    """The file at an address, for reading; raises whatever its file system raises."""
    files, path, _ = _file_system(address)
    return cast(BinaryIO, files.open(path, "rb"))


def size_of(address: str) -> int:
    """The size of the file at an address, in bytes; raises whatever its file system raises."""
    files, path, _ = _file_system(address)
    return int(files.size(path))


def _files_at(address: str) -> tuple[list[str], list[str], str]:
    """The images and the other files that an address names, as addresses, and the folder that names are
    relative to."""
    with _errors(address):
        files, path, prefix = _file_system(address)
        if files.isfile(path):
            file = prefix + path.lstrip("/")
            return [file], [], posixpath.dirname(file)
        if _is_pattern(address) and not files.exists(path):
            fixed = path[: path.index(next(filter(glob.has_magic, path.split("/"))))].rstrip("/")
            matches = files.glob(path, detail=True)
            found = [
                one
                for match, facts in matches.items()
                for one in ([match] if facts["type"] == "file" else files.find(match))
            ]
        else:
            fixed, found = path.rstrip("/"), files.find(path)
    top = prefix + fixed.lstrip("/")
    addresses = [prefix + one.lstrip("/") for one in found]
    kept = [one for one in addresses if not any(map(is_junk, one[len(top) + 1 :].split("/")))]
    images = sorted((one for one in kept if is_image(one)), key=lambda one: one.split("/"))
    return images, [one for one in kept if not is_image(one)], top


def _is_pattern(address: str) -> bool:
    return glob.has_magic(address) and not address.lower().startswith(_HTTP)


def _file_system(address: str) -> tuple[Any, str, str]:
    """The file system of an address, its path there, and what stands before such a path without its slash."""
    from fsspec.core import url_to_fs

    scheme, at, rest = address.partition("://")
    if _PASSWORD.search(address):
        raise LostRegError(f"an address of {scheme} holds a password, which would be recorded: leave it out")
    if scheme.lower() in ("http", "https") and address.endswith("/"):
        raise LostRegError(f"{address!r} is a folder, which http does not list: name files, or shards")
    scheme = scheme.lower() + at
    files, path = url_to_fs(scheme + rest)
    if path.startswith(scheme):  # http keeps the whole address as its path
        return files, path, ""
    return files, path, f"{scheme}/" if path.startswith("/") else scheme


@contextmanager
def _errors(address: str) -> Iterator[None]:
    try:
        yield
    except LostRegError:
        raise
    except ImportError as error:
        raise LostRegError(f"{address!r} cannot be read without another package: {error}") from None
    except Exception as error:  # of any type, by the file system
        raise LostRegError(f"cannot read {address!r}: {first_sentence(error)}") from None


def _read_ahead(items: Iterable[T], read: Callable[[T], R]) -> Iterator[R]:
    """What each item reads, in order; threads read some ahead."""
    pool = ThreadPoolExecutor(_READERS)
    running: deque[Future[R]] = deque()
    try:
        for item in items:
            running.append(pool.submit(read, item))
            if len(running) >= 2 * _READERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
