"""Files from the internet: fetched once, resumed where they broke off, and verified before they are used.

A file gets its name only when it is whole and verified: what has its name can be trusted, and a command
that was interrupted is simply run again. Every failure is a LostRegError of one line.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from filelock import FileLock
from PIL import Image

from lost_reg import __version__
from lost_reg.errors import LostRegError
from lost_reg.images.reading import FORMATS

TIMEOUT_SECONDS = 30.0  # how long a server may be silent
RETRY_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try after a failure that may pass
FAILURES_IN_A_ROW = 64  # after so many images failed, with no success between, the rest is given up

_CHUNK = 2**20  # bytes read or hashed at one time
_HEX_DIGITS = {"md5": 32, "sha256": 64}

Report = Callable[[int, int | None], object]


@dataclass(frozen=True)
class Checksum:
    """What a file's contents must hash to. algorithm: "md5" or "sha256"; hexdigest: in lower case.

    Raises:
        ValueError: an unknown algorithm, or a digest that is none of it.
    """

    algorithm: str
    hexdigest: str

    def __post_init__(self) -> None:
        if self.algorithm not in _HEX_DIGITS:
            raise ValueError(f"expected the algorithm md5 or sha256, but got {self.algorithm!r}")
        digits = _HEX_DIGITS[self.algorithm]
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", self.hexdigest):
            raise ValueError(f"expected {digits} lower-case hex digits, but got {self.hexdigest!r}")

    def digest(self, path: Path) -> str:
        """The hexdigest that the file has, whatever it should be."""
        hasher = hashlib.new(self.algorithm, usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(_CHUNK):
                hasher.update(block)
        return hasher.hexdigest()

    def fits(self, path: Path) -> bool:
        """Whether the file is there and is the one meant."""
        return path.is_file() and self.digest(path) == self.hexdigest


@dataclass(frozen=True)
class ImageJob:
    """One image to fetch: from where, to which file, and the size (height, width) it must have."""

    url: str
    destination: Path
    size_hw: tuple[int, int]


def fetch(url: str, destination: Path, checksum: Checksum, *, report: Report | None = None) -> None:
    """Download a file, unless it is there already, and put it in place once its checksum fits.

    What has come lies beside the destination as NAME.part, and a later call goes on from there. A file
    that is in place but does not fit is replaced. Of several processes one downloads; the others wait
    (at NAME.lock) and then find the file.

    Args:
        url: https; plain http is taken for this machine only.
        report: called now and then with (bytes done, bytes in all or None if the server does not say).

    Raises:
        LostRegError: the server cannot be reached or refuses, the file is not the one expected, or it
            cannot be written.
    """
    destination = Path(destination)
    with disk_errors(destination):
        if checksum.fits(destination):
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if not checksum.fits(destination):  # no other process has brought it meanwhile
                _fetch_locked(url, destination, checksum, report or _silent)


def _fetch_locked(url: str, destination: Path, checksum: Checksum, report: Report) -> None:
    part = _Part(destination, url)
    try:
        _persist(lambda: _download(part, checksum, report), progress=part.size)
    except _FetchError as error:
        if part.size():
            advice = f"what has come lies in {part.path}: run the same command again to go on from there"
        else:
            advice = "run the same command again later" if error.transient else "check the address"
            advice += f", or put the file at {destination} yourself"
        raise LostRegError(f"cannot download {url}: {error}; {advice}") from error
    actual = checksum.digest(part.path)
    if actual != checksum.hexdigest:
        part.discard()
        raise LostRegError(
            f"{url} is not the file expected: its {checksum.algorithm} is {actual} instead of "
            f"{checksum.hexdigest}, so {part.path} was removed; run the same command again, or put the "
            f"right file at {destination} yourself"
        )
    os.replace(part.path, destination)
    part.discard()


class _Part:
    """The partial file beside a destination, and the note (NAME.part.json) of what it is a part of."""

    def __init__(self, destination: Path, url: str) -> None:
        self.url = url
        self.path = Path(f"{destination}.part")
        self.note_path = Path(f"{destination}.part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def note(self) -> dict[str, Any]:
        """url, validator and total as they were at the first byte; empty if that is not known."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) and note.get("url") == self.url else {}

    def write_note(self, validator: str | None, total: int | None) -> None:
        note = {"url": self.url, "validator": validator, "total": total}
        self.note_path.write_text(json.dumps(note), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)


def _download(part: _Part, checksum: Checksum, report: Report) -> None:
    """One request for all that is missing from the part.

    Raises:
        _FetchError: it did not come to the end; what has come is in the part.
    """
    note = part.note()
    offset = part.size() if note else 0
    headers = {}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if note.get("validator"):
            headers["If-Range"] = note["validator"]
    with _open(part.url, headers) as response:
        if not offset or response.status not in (206, 416):
            return _receive(response, part, 0, report)
        if response.status == 206 and _continues(response, note, offset):
            return _receive(response, part, offset, report)
        if response.status == 416 and checksum.fits(part.path):
            return  # nothing was missing: the last run ended before it could verify the file
    part.discard()  # it is a part of something else
    _download(part, checksum, report)


def _receive(response: Any, part: _Part, offset: int, report: Report) -> None:
    """Write the body of an answer to the part, from `offset` on."""
    total = _total_bytes(response)
    done = offset
    with open(part.path, "ab" if offset else "wb") as file:
        if not offset:
            part.write_note(_validator(response), total)
        report(done, total)
        while piece := _read_some(response):
            file.write(piece)
            done += len(piece)
            report(done, total)
    if total is not None and done < total:
        raise _FetchError(f"the connection ended after {done} of {total} bytes")


def _continues(response: Any, note: dict[str, Any], offset: int) -> bool:
    """Whether a 206 answer goes on exactly where the part ends, in the same file."""
    starts_there = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
    # An answer to If-Range may leave Last-Modified out.
    same_file = _validator(response) in (None, note.get("validator"))
    return starts_there and same_file and _total_bytes(response) == note.get("total")


def _validator(response: Any) -> str | None:
    """What tells one version of a file from another; weak ETags cannot, for ranges."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _total_bytes(response: Any) -> int | None:
    """The size of the whole file, whether the answer is the whole or a range of it."""
    if response.status == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdecimal() else None


class _FetchError(Exception):
    """A request that failed. transient: whether trying again may help."""

    def __init__(self, reason: object, *, transient: bool = True) -> None:
        super().__init__(" ".join(str(reason).split()) or type(reason).__name__)
        self.transient = transient


class _SecureRedirects(HTTPRedirectHandler):
    """Follows redirects, but not away from https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        secure = urlsplit(newurl).scheme == "https"
        if not secure and (req.type == "https" or not _is_local(newurl)):
            raise LostRegError(
                f"{req.full_url} leads to {newurl}, which is not https, so it was not followed; "
                "fetch the file by other means, or use another mirror"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@cache
def _opener() -> OpenerDirector:
    # One context for all: to load the certificates anew takes longer than to fetch an image.
    return build_opener(_SecureRedirects(), HTTPSHandler(context=ssl.create_default_context()))


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")


def _open(url: str, headers: dict[str, str]) -> Any:
    """The server's answer to a GET: 2xx, or 416 where a range was asked for.

    Raises:
        LostRegError: an address that is not https.
        _FetchError: no answer, or another one.
    """
    if urlsplit(url).scheme != "https" and not _is_local(url):
        raise LostRegError(f"cannot download {url}: only https addresses are taken; give one")
    request = Request(url, headers={"User-Agent": f"lost-reg/{__version__}", **headers})
    with _network_errors():
        try:
            return _opener().open(request, timeout=TIMEOUT_SECONDS)
        except HTTPError as error:
            if error.code == 416 and "Range" in headers:
                return error
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            raise _FetchError(reason, transient=error.code >= 500) from error


def _read_some(response: Any) -> bytes:
    with _network_errors():
        return response.read1(_CHUNK)  # what is there; read would lose it where the connection breaks


@contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        transient = not isinstance(reason, ssl.SSLCertVerificationError)
        raise _FetchError(reason, transient=transient) from error


def _persist(attempt: Callable[[], Any], progress: Callable[[], int] = lambda: 0) -> Any:
    """The result of `attempt`, tried again after each of RETRY_WAITS while its failures may pass.

    progress: the bytes it has; once there are enough more, the waits start over.
    """
    failures, furthest = 0, progress()
    while True:
        try:
            return attempt()
        except _FetchError as error:
            if progress() >= furthest + _CHUNK:
                failures, furthest = 0, progress()
            if not error.transient or failures >= len(RETRY_WAITS):
                raise
        time.sleep(RETRY_WAITS[failures])
        failures += 1


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as one line; filelock raises NotImplementedError where it cannot lock."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        where, why = getattr(error, "filename", None) or path, getattr(error, "strerror", None) or error
        raise LostRegError(
            f"cannot read or write {where}: {why}; make room or get permission there, then run the same "
            "command again"
        ) from error


def _silent(done: int, total: int | None) -> None:
    """A report that says nothing."""


def fetch_images(jobs: Iterable[ImageJob], *, workers: int = 16, report: Report | None = None) -> None:
    """Fetch images in parallel; each is in place only if it decodes to the end and has the size expected.

    Those in place already are not asked for. A failure does not stop the others (FAILURES_IN_A_ROW do).

    Args:
        report: called with (images in place, images in all).

    Raises:
        LostRegError: some could not be fetched (the others are in place), or the disk refuses.
    """
    jobs = list(jobs)
    report = report or _silent
    missing = [job for job in jobs if not job.destination.is_file()]
    done, failures, in_a_row = len(jobs) - len(missing), [], 0
    report(done, len(jobs))
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(_fetch_image, job) for job in missing]):
            failure = future.result()
            if failure is None:
                done, in_a_row = done + 1, 0
                report(done, len(jobs))
            else:
                failures.append(failure)
                in_a_row += 1
            if in_a_row == FAILURES_IN_A_ROW:
                break
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        untried = len(jobs) - done - len(failures)
        given_up = f" and {untried} more were given up" if untried else ""
        raise LostRegError(
            f"{len(failures)} of {len(jobs)} images could not be fetched{given_up} "
            f"(the first: {failures[0]}); run the same command again to go on with the rest"
        )


def _fetch_image(job: ImageJob) -> str | None:
    """Put one image in place; the reason, in one line, if it could not be had."""
    try:
        body = _persist(lambda: _read_all(job.url))
        _check_image(body, job.size_hw)
    except _FetchError as error:
        return f"{job.url}: {error}"
    partial = Path(f"{job.destination}.{os.getpid()}-{threading.get_ident()}.part")
    with disk_errors(job.destination):
        job.destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(body)
            os.replace(partial, job.destination)
        finally:
            partial.unlink(missing_ok=True)
    return None


def _read_all(url: str) -> bytes:
    with _open(url, {}) as response, _network_errors():
        return response.read()


def _check_image(body: bytes, size_hw: tuple[int, int]) -> None:
    """Raises _FetchError unless the bytes decode, to the last row, to an image of this size."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            image.load()
            width, height = image.size
    except Exception as error:  # decoders raise many kinds
        reason = f"{len(body)} bytes came that are no whole image ({type(error).__name__})"
        raise _FetchError(reason, transient=False) from error
    if (height, width) != tuple(size_hw):
        reason = f"expected {size_hw[1]} x {size_hw[0]} pixels, but got {width} x {height}"
        raise _FetchError(reason, transient=False)
