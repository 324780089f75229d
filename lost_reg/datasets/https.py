"""GET requests over https: the server's response or one clear error, and retries of transient failures.

Plain http is accepted only for this machine, for the tests.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from lost_reg.errors import LostRegError
from lost_reg.version import __version__

TIMEOUT_SECONDS = 30.0  # how long a server may be silent
RETRY_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each retry of a transient failure
CHUNK_BYTES = 2**20  # read at a time

Answer = TypeVar("Answer")


class RequestFailed(Exception):
    """A request without a usable response. transient: whether a retry may help."""

    def __init__(self, reason: object, *, transient: bool = True) -> None:
        super().__init__(" ".join(str(reason).split()) or type(reason).__name__)
        self.transient = transient


class SecureRedirects(HTTPRedirectHandler):
    """Follows redirects, but not away from https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        secure = urlsplit(newurl).scheme == "https"
        if not secure and (req.type == "https" or not _is_local(newurl)):
            raise LostRegError(
                f"{req.full_url} redirects to {newurl}, which is not https, so it was not followed; "
                "get the file in another way, or use another mirror"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@cache
def _opener() -> OpenerDirector:
    # One context for all requests: loading the certificates takes longer than fetching an image.
    return build_opener(SecureRedirects(), HTTPSHandler(context=ssl.create_default_context()))


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")


def open_url(url: str, headers: dict[str, str] | None = None) -> Any:
    """The server's response to a GET: 2xx, or 416 if a range was requested.

    Raises:
        LostRegError: an address that is not https.
        RequestFailed: no response, or one with another status.
    """
    if urlsplit(url).scheme != "https" and not _is_local(url):
        raise LostRegError(f"cannot download {url}: only https addresses are accepted")
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


def read_chunk(response: Any) -> bytes:
    """The next bytes of a response, at most CHUNK_BYTES; none at its end. Raises RequestFailed."""
    with _network_errors():
        return response.read1(CHUNK_BYTES)  # what has arrived; `read` would lose it if the connection breaks


def read_all(url: str) -> bytes:
    """The body of the response to a GET. Raises as `open_url` does."""
    with open_url(url) as response, _network_errors():
        return response.read()


@contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        transient = not isinstance(reason, ssl.SSLCertVerificationError)
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
