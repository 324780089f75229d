"""Files at addresses that fsspec reads, such as s3://bucket/photos/a.jpg: opened, or fetched ahead of use."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from lost_reg.errors import LostRegError
from lost_reg.files import is_address
from lost_reg.text import first_sentence
from lost_reg.types import Failure

if TYPE_CHECKING:
    from lost_reg.images.decoding import ImageInput, NamedImage

    _Ahead: TypeAlias = Future[NamedImage | Failure] | NamedImage | Failure

MOST_SAMPLED = 16  # of images that must be fetched
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@|^https?://[^/?#]*@", re.IGNORECASE)  # or a token
_SIGNED = re.compile(r"^https?://.*[?&](x-(amz|goog)-signature|signature|sig)=", re.IGNORECASE)
_LARGEST = 2**28  # bytes of an image file, as in shards: several are held at once
_READERS = 16  # threads; a file of an object store takes tens of milliseconds, whatever its size
_BYTES_AHEAD = 2**28  # of files that have come and wait
_SILENCE = 30  # seconds without a byte, after which a server of http is given up


def fetched(images: Iterable[NamedImage | Failure]) -> Iterator[NamedImage | Failure]:
    """The images in their order, those at addresses as the content of their files; others as they are.

    Several files are fetched at once, ahead of use. One that cannot be fetched becomes a Failure.
    """
    pool = ThreadPoolExecutor(_READERS)
    ahead: deque[_Ahead] = deque()
    try:
        for one in images:
            if not isinstance(one, Failure) and isinstance(one[1], str) and is_address(one[1]):
                ahead.append(pool.submit(_fetched, one[0], one[1]))
            else:
                ahead.append(one)
            while ahead and (
                not isinstance(ahead[0], Future) or len(ahead) >= 2 * _READERS or _held(ahead) > _BYTES_AHEAD
            ):
                yield _outcome(ahead.popleft())
        while ahead:
            yield _outcome(ahead.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(one: _Ahead) -> NamedImage | Failure:
    return one.result() if isinstance(one, Future) else one


def _held(ahead: Iterable[_Ahead]) -> int:
    """How many bytes the files have that have come."""
    come = (one.result() for one in ahead if isinstance(one, Future) and one.done())
    return sum(len(cast(bytes, one[1])) for one in come if not isinstance(one, Failure))


def fetched_sample(images: Iterable[ImageInput]) -> Iterator[ImageInput]:
    """As `fetched`, without names, and without those that cannot be fetched."""
    found = fetched(("", image) for image in images)
    return (one[1] for one in found if not isinstance(one, Failure))


def _fetched(name: str, address: str) -> NamedImage | Failure:
    try:
        content = _content(address)
    except Exception as error:  # of any type, by the file system
        return Failure(name, f"cannot be fetched: {_reason(error, is_http(address))}")
    if len(content) > _LARGEST:
        return Failure(name, f"too large: a file of more than {_LARGEST:,} bytes")
    return name, content


def _content(address: str) -> bytes:
    """What the file holds, but for what exceeds the largest size by more than a byte."""
    content = bytearray()
    with opened(address) as file:
        while part := file.read(_LARGEST + 1 - len(content)):  # from some servers only what has arrived
            content += part
    return bytes(content)


def _reason(error: BaseException | None, of_http: bool) -> str:
    """Why a file could not be read; without its address, which may be signed."""
    if isinstance(error, FileNotFoundError):  # in which fsspec wraps whatever a server of http answers
        error = error.__cause__ if of_http else None
    status = getattr(error, "status", None)
    if error is None or status == 404:
        return "no such file"
    if status:
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return f"no answer within {_SILENCE} seconds"
    return first_sentence(cast(Exception, error))


def name_at(address: str) -> str:
    """The name of the image at an address: the address, without the query of a link that is signed.

    So a later link to the same image has the same name, and no signature is recorded.
    """
    return address.partition("?")[0] if _SIGNED.match(address) else address


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
    files, path = url_to_fs(scheme + rest, **_options(scheme))
    if path.startswith(scheme):  # http keeps the whole address as its path
        return files, path, ""
    return files, path, f"{scheme}/" if path.startswith("/") else scheme


def _options(scheme: str) -> dict[str, Any]:
    """Options of a file system: one of http would wait for minutes."""
    if not is_http(scheme):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {"client_kwargs": {"timeout": timeout}}


def is_http(address: str) -> bool:
    """Whether it is one of http: ? begins a query there, and folders cannot be listed."""
    return address.lower().startswith(("http://", "https://"))


def check_no_password(address: str) -> None:
    """Check that an address can be recorded.

    Raises:
        LostRegError: it holds a password, or a token in its place.
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
        raise LostRegError(f"cannot read {address!r}: {_reason(error, is_http(address))}") from None
