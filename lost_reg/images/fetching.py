"""Files at addresses that fsspec reads, such as s3://bucket/photos/a.jpg: opened, or fetched ahead of use."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from lost_reg.errors import LostRegError
from lost_reg.files import is_address
from lost_reg.text import first_sentence
from lost_reg.types import Failure

if TYPE_CHECKING:
    from lost_reg.images.decoding import ImageInput, NamedImage

MOST_SAMPLED = 16  # of images that must be fetched
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
_LARGEST = 2**28  # bytes of an image file, as in shards: several are held at once
_READERS = 16  # threads; a file of an object store takes tens of milliseconds, whatever its size


def fetched(images: Iterable[NamedImage | Failure]) -> Iterator[NamedImage | Failure]:
    """The images in their order, those at addresses as the content of their files; others as they are.

    Several files are fetched at once, ahead of use. One that cannot be fetched becomes a Failure.
    """
    pool = ThreadPoolExecutor(_READERS)
    waiting: deque[Callable[[], NamedImage | Failure]] = deque()
    try:
        for one in images:
            if not isinstance(one, Failure) and isinstance(one[1], str) and is_address(one[1]):
                waiting.append(pool.submit(_fetched, one[0], one[1]).result)
            elif waiting:
                waiting.append(partial(_itself, one))
            else:
                yield one
            if len(waiting) >= 2 * _READERS:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def fetched_sample(images: Iterable[ImageInput]) -> Iterator[ImageInput]:
    """As `fetched`, without names, and without those that cannot be fetched."""
    found = fetched(("", image) for image in images)
    return (one[1] for one in found if not isinstance(one, Failure))


def _fetched(name: str, address: str) -> NamedImage | Failure:
    try:
        with opened(address) as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:  # whose text is often but the name
        return Failure(name, "cannot be fetched: no such file")
    except Exception as error:  # of any type, by the file system
        return Failure(name, f"cannot be fetched: {first_sentence(error)}")
    if len(content) > _LARGEST:
        return Failure(name, f"too large: a file of more than {_LARGEST:,} bytes")
    return name, content


def _itself(image: NamedImage | Failure) -> NamedImage | Failure:
    return image


def opened(address: str) -> BinaryIO:
    """The file at an address, for reading; raises whatever its file system raises."""
    start = address.rindex("/") + 1  # of the file's own name, which may contain what fsspec would parse
    folder, name = address[:start], address[start:]
    if not (is_address(folder) and name):
        raise LostRegError("it is not the address of a file")
    files, path, _ = file_system(folder)
    return cast(BinaryIO, files.open(f"{path.rstrip('/')}/{name}", "rb"))


def size_of(address: str) -> int:
    """The size of the file at an address, in bytes; raises whatever its file system raises."""
    files, path, _ = file_system(address)
    return int(files.size(path))


def file_system(address: str) -> tuple[Any, str, str]:
    """The file system of an address, its path there, and what stands before such a path without its slash.

    Raises:
        LostRegError: an address with a password.
    """
    from fsspec.core import url_to_fs

    check_no_password(address)
    scheme, at, rest = address.partition("://")
    scheme = scheme.lower() + at
    files, path = url_to_fs(scheme + rest)
    if path.startswith(scheme):  # http keeps the whole address as its path
        return files, path, ""
    return files, path, f"{scheme}/" if path.startswith("/") else scheme


def check_no_password(address: str) -> None:
    """Check that an address can be recorded.

    Raises:
        LostRegError: it holds a password.
    """
    if _PASSWORD.search(address):
        scheme = address.partition("://")[0]
        raise LostRegError(f"an address of {scheme} holds a password, which would be recorded: leave it out")


def check_scheme(address: str) -> None:
    """Check that addresses of this kind can be read.

    Raises:
        LostRegError: an unknown kind, or a package that is missing for it.
    """
    from fsspec import get_filesystem_class

    with errors_at(address):
        get_filesystem_class(address.partition("://")[0].lower())


@contextmanager
def errors_at(address: str) -> Iterator[None]:
    """Raises LostRegError for what a file system raises, and for a package that is missing."""
    try:
        yield
    except LostRegError:
        raise
    except ImportError as error:
        raise LostRegError(f"{address!r} cannot be read without another package: {error}") from None
    except Exception as error:  # of any type, by the file system
        raise LostRegError(f"cannot read {address!r}: {first_sentence(error)}") from None
