"""GET requests over https: the server's response or one clear error, and retries of transient failures.

A response is received in blocks, and the caller says how large its body may be. Two limits hold for all of
it, headers included: a server may be silent for TIMEOUT_SECONDS, and in WINDOW_SECONDS of waiting for it, at
least SLOWEST_BYTES_PER_SECOND must arrive on average. Together, these bound the time of a request, too.

Plain http is accepted only for this machine, for the tests.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from lost_reg.errors import LostRegError, one_line
from lost_reg.version import __version__

TIMEOUT_SECONDS = 30.0  # how long a server may be silent
WINDOW_SECONDS = 60.0  # of waiting, after which the rate is checked
SLOWEST_BYTES_PER_SECOND = 1_000
RETRY_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each retry of a transient failure
CHUNK_BYTES = 2**20  # read at a time
_MOST_HEADERS = 2**18  # bytes received besides a body
MOST_IN_MEMORY = 2**20  # bytes of a body that is not written to disk

Answer = TypeVar("Answer")
clock = time.monotonic


class RequestFailed(Exception):
    """A request without a usable response. transient: whether a retry may help."""

    def __init__(self, reason: object, *, transient: bool = True) -> None:
        super().__init__(one_line(" ".join(str(reason).split())[:500]) or type(reason).__name__)
        self.transient = transient


class TooLong(RequestFailed):
    """A body that is longer than what was asked for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, transient=False)


class SecureRedirects(HTTPRedirectHandler):
    """Follows redirects, at most ten, but not away from https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        kind = _kind_of(newurl)
        if not kind or (kind == "local" and req.type == "https"):
            raise LostRegError(
                f"{req.full_url} redirects to {_shown(newurl)}, which is not https, so it was not followed; "
                "get the file in another way, or use another mirror"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# --- the slowest rate --------------------------------------------------------------------------------


class _Paced(io.RawIOBase):
    """What a socket receives, as long as it comes fast enough and is no more than `left` bytes.

    Only the time of waiting for it counts. `left` also bounds what is in no body: headers, and the lines
    around chunks.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw, self.left = raw, _MOST_HEADERS
        self.waited, self.received = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        started = clock()
        count = self.raw.readinto(buffer)
        self.waited += clock() - started
        self.received += count or 0
        self.left -= count or 0
        if self.left < 0:
            raise RequestFailed("the server sends headers without end", transient=False)
        if self.waited >= WINDOW_SECONDS:
            if count and self.received < SLOWEST_BYTES_PER_SECOND * self.waited:
                raise RequestFailed(
                    f"it is too slow: {self.received:,} bytes in {self.waited:.0f} s, under "
                    f"{SLOWEST_BYTES_PER_SECOND:,} a second"
                )
            self.waited, self.received = 0.0, 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _PacedResponse(HTTPResponse):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.paced = _Paced(self.fp.detach())  # nothing was read so far
        self.fp = io.BufferedReader(self.paced)


class _Http(HTTPConnection):
    response_class = _PacedResponse


class _Https(HTTPSConnection):
    response_class = _PacedResponse


class _HttpHandler(HTTPHandler):
    def http_open(self, req):
        return self.do_open(_Http, req)


class _HttpsHandler(HTTPSHandler):
    def https_open(self, req):
        return self.do_open(_Https, req, context=_certificates())


# --- requests ----------------------------------------------------------------------------------------


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()  # once: loading them takes longer than fetching an image


@cache
def _opener() -> OpenerDirector:
    return build_opener(SecureRedirects(), _HttpHandler(), _HttpsHandler(context=_certificates()))


def _shown(url: str) -> str:
    """An address for a message: on one line, and not too long."""
    return one_line(url[:200])


def _kind_of(url: str) -> str:
    """ "https", "local" for plain http of this machine, or "" for another kind of address.

    Raises:
        LostRegError: it is malformed.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        host, port = b"", 0
    if port == 0 or not (url.isascii() and url.isprintable()) or " " in url:
        raise LostRegError(f"cannot download {_shown(url)}: it is not a well-formed address")
    if parts.scheme == "https" and host:
        return "https"
    return "local" if parts.scheme == "http" and host in (b"127.0.0.1", b"localhost") else ""


def open_url(url: str, headers: dict[str, str] | None = None) -> Any:
    """The server's response to a GET: 2xx, or 416 if a range was requested.

    Raises:
        LostRegError: an address that is malformed or not https.
        RequestFailed: no response, or one with another status.
    """
    if not _kind_of(url):
        raise LostRegError(f"cannot download {_shown(url)}: only https addresses are accepted")
    request = Request(url, headers={"User-Agent": f"lost-reg/{__version__}", **(headers or {})})
    with _network_errors():
        try:
            return _opener().open(request, timeout=TIMEOUT_SECONDS)
        except HTTPError as error:
            if error.code == 416 and request.has_header("Range"):
                return error
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            raise RequestFailed(reason, transient=error.code >= 500) from error


def announced_bytes(response: Any) -> int | None:
    """The size of the whole file, whether the response has all or a range of it; None if it does not say."""
    if response.status == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdecimal() and len(total) < 20 else None


def blocks(response: Any, most: int) -> Iterator[bytes]:
    """The body of a response as it arrives, in blocks of at most CHUNK_BYTES.

    Args:
        most: bytes of the body.

    Raises:
        RequestFailed: the connection breaks, is too slow, or ends before what the server announced.
        TooLong: the server announces or sends more than `most`; no block goes beyond it.
    """
    response.paced.left = 2 * most + _MOST_HEADERS
    length, done = response.length, 0  # what is announced of the body, or None
    if length is not None and length > most:
        raise TooLong(f"the server announces {length:,} bytes instead of at most {most:,}")
    while True:
        with _network_errors():
            block = response.read1(CHUNK_BYTES)  # what has arrived; `read` would lose it if that breaks
        if not block:
            break
        if done + len(block) > most:
            raise TooLong(f"the server sends more than {most:,} bytes")
        done += len(block)
        yield block
    if length is not None and done < length:
        raise RequestFailed(f"the connection ended after {done} of {length} bytes")


def read_all(url: str, most: int = MOST_IN_MEMORY) -> bytes:
    """The body of the response to a GET, of at most `most` bytes. Raises as `open_url` and `blocks` do."""
    with open_url(url) as response:
        return b"".join(blocks(response, most))


def save(url: str, file: Path, most: int) -> None:
    """Write the body of the response to a GET to a file. Raises as `read_all` does, and OSError."""
    with open_url(url) as response, file.open("wb") as opened:
        for block in blocks(response, most):
            opened.write(block)


@contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:  # ValueError: for malformed redirects and headers
        reason = error.reason if isinstance(error, URLError) else error
        transient = not isinstance(reason, (ssl.SSLCertVerificationError, ValueError))
        raise RequestFailed(reason, transient=transient) from error


def with_retries(attempt: Callable[[], Answer], bytes_done: Callable[[], int] = lambda: 0) -> Answer:
    """The result of `attempt`, retried after each of RETRY_WAITS while its failures are transient.

    bytes_done: how many bytes have arrived; after each further CHUNK_BYTES, the retries start over.
    """
    failures, furthest = 0, bytes_done()
    while True:
        try:
            return attempt()
        except RequestFailed as error:
            if bytes_done() >= furthest + CHUNK_BYTES:
                failures, furthest = 0, bytes_done()
            if not error.transient or failures >= len(RETRY_WAITS):
                raise
        time.sleep(RETRY_WAITS[failures])
        failures += 1
