"""Images below addresses such as s3://bucket/photos: found at once, and fetched as a run goes on."""

from __future__ import annotations

import glob
import posixpath
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lost_reg.errors import LostRegError
from lost_reg.files import is_address
from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.fetching import MOST_SAMPLED, errors_at, fetched_sample, file_system, is_http
from lost_reg.images.folders import is_image, is_junk, passed_over, what_is_there
from lost_reg.types import Failure


@dataclass(frozen=True)
class RemoteImages:
    """Image files below an address; `names` are relative to it.

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
        """The addresses of those of the first `limit` images that are not done; see `fetched`."""
        return ((name, f"{self.location}/{name}") for name in self.names[:limit] if name not in done)

    def sample(self, most: int) -> Iterator[ImageInput]:
        names = self.names[:: -(-len(self.names) // min(most, MOST_SAMPLED))]
        return fetched_sample(f"{self.location}/{name}" for name in names)


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
    with errors_at(address):
        files, path, prefix = file_system(address)
        if files.exists(path):
            return [prefix + path.lstrip("/")]
        return sorted(prefix + one.lstrip("/") for one in files.glob(path)) if _is_pattern(address) else []


def _files_at(address: str) -> tuple[list[str], list[str], str]:
    """The images and the other files that an address names, as addresses, and the folder that names are
    relative to."""
    if is_http(address) and address.endswith("/"):
        raise LostRegError(f"{address!r} is a folder, which http does not list: name files, or shards")
    with errors_at(address):
        files, path, prefix = file_system(address)
        if is_http(address):
            files.info(path)  # raises why there is none, which `isfile` would not
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
    return glob.has_magic(address) and not is_http(address)
