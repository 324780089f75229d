"""Downloads: fetched once, resumed where they broke off, and verified before use.

A file gets its name only when it is complete and verified, so a file with that name can be trusted. After an
interruption, run the same command again. Every failure is a one-line LostRegError. Images are many and small:
they are fetched in parallel, and verified by decoding them.

Libraries were tried: pooch (1.9) restarts from the first byte after a broken connection; huggingface_hub's
http_get (2.4) sends no If-Range, so it continues a file that has changed, and does not retry a status of 500.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from lost_reg.datasets import https
from lost_reg.datasets.https import RequestFailed, TooLong
from lost_reg.errors import LostRegError
from lost_reg.files import file_digest, remove_parts, whole_file
from lost_reg.images.reading import FORMATS
from lost_reg.json_files import MALFORMED, as_json, parse_json
from lost_reg.text import agreeing, counted

_HEX_DIGITS = {"md5": 32, "sha256": 64}
FAILURES_IN_A_ROW = 64  # after this many consecutive failures, the remaining images are given up

CountProgress = Callable[[int, int | None], object]  # called with (done, total if known)


@dataclass(frozen=True)
class Checksum:
    """The expected hash of a file's contents, and the most bytes that it has.

    algorithm: "md5" or "sha256"; hexdigest: in lower case.

    Raises:
        ValueError: an unknown algorithm, or a malformed digest.
    """

    algorithm: str
    hexdigest: str
    most_bytes: int

    def __post_init__(self) -> None:
        if self.algorithm not in _HEX_DIGITS:
            raise ValueError(f"expected the algorithm md5 or sha256, but got {self.algorithm!r}")
        digits = _HEX_DIGITS[self.algorithm]
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", self.hexdigest):
            raise ValueError(f"expected {digits} lower-case hex digits, but got {self.hexdigest!r}")

    def digest(self, path: Path) -> str:
        """The file's actual hexdigest."""
        return file_digest(path, self.algorithm)

    def fits(self, path: Path) -> bool:
        """Whether the file exists and has this checksum."""
        is_file = path.is_file() and path.stat().st_size <= self.most_bytes
        return is_file and self.digest(path) == self.hexdigest


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns disk errors into one-line errors; filelock raises NotImplementedError where it cannot lock."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        where, why = getattr(error, "filename", None) or path, getattr(error, "strerror", None) or error
        raise LostRegError(
            f"cannot read or write {where}: {why}; make room or get permission there, then run the same "
            "command again"
        ) from error


def fetch(
    url: str, destination: Path, checksum: Checksum, *, progress: CountProgress = lambda done, total: None
) -> None:
    """Download a file, unless it already exists, and put it in place once its checksum matches.

    No more than `checksum.most_bytes` are received, no more slowly than `https` allows. They are kept next to
    the destination in NAME.part, and a later call resumes from there. An existing file whose checksum differs
    is replaced. Of several processes, one downloads; the others wait (at NAME.lock) and then find the file.

    Args:
        url: https; plain http is accepted for this machine only.
        progress: called repeatedly with the bytes done and the total.

    Raises:
        LostRegError: the server cannot be reached or refuses, or the file is not the one expected or
            cannot be written.
    """
    destination = Path(destination)
    with disk_errors(destination):
        if checksum.fits(destination):
            PartialFile(destination, url).discard()  # what a process left that was killed after moving it
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{destination}.lock"):
            if not checksum.fits(destination):  # no other process has fetched it meanwhile
                _fetch_locked(PartialFile(destination, url), destination, checksum, progress)


class PartialFile:
    """The part of a file received so far (NAME.part), and which file it belongs to (NAME.part.json)."""

    def __init__(self, destination: Path, url: str) -> None:
        self.url = url
        self.path = Path(f"{destination}.part")
        self._origin_path = Path(f"{destination}.part.json")

    def size(self) -> int:
        """How many bytes have been received."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> dict[str, Any]:
        """url, validator and total, as of the first byte; empty if unknown or of another url."""
        try:
            origin = parse_json(self._origin_path.read_bytes(), dict)
        except (OSError, *MALFORMED):
            return {}
        return origin if origin.get("url") == self.url else {}

    def write_origin(self, validator: str | None, total: int | None) -> None:
        """Record which version of the file is being downloaded."""
        origin = {"url": self.url, "validator": validator, "total": total}
        self._origin_path.write_text(as_json(origin), encoding="utf-8")

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)


def _fetch_locked(part: PartialFile, destination: Path, checksum: Checksum, progress: CountProgress) -> None:
    try:
        https.with_retries(lambda: _download(part, checksum, progress), part.size)
    except RequestFailed as error:
        if isinstance(error, TooLong):
            part.discard()  # it is of something else
        if part.size():
            advice = f"the bytes so far are in {part.path}: run the same command again to resume from there"
        else:
            advice = "run the same command again later" if error.transient else "check the address"
            advice += f", or put the file at {destination} yourself"
        raise LostRegError(f"cannot download {part.url}: {error}; {advice}") from error
    actual = checksum.digest(part.path)
    if actual != checksum.hexdigest:
        part.discard()
        raise LostRegError(
            f"{part.url} is not the file expected: its {checksum.algorithm} is {actual} instead of "
            f"{checksum.hexdigest}, so {part.path} was removed; run the same command again, or put the "
            f"right file at {destination} yourself"
        )
    os.replace(part.path, destination)
    part.discard()


def _download(part: PartialFile, checksum: Checksum, progress: CountProgress) -> None:
    """One request for everything still missing.

    Raises:
        RequestFailed: the download broke off; the bytes so far are in the part.
    """
    origin = part.origin()
    offset = part.size() if origin else 0
    headers = {}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if origin.get("validator"):
            headers["If-Range"] = origin["validator"]
    with https.open_url(part.url, headers) as response:
        if not offset or response.status not in (206, 416):
            return _receive(response, part, 0, checksum.most_bytes, progress)
        if response.status == 206 and _continues(response, origin, offset):
            return _receive(response, part, offset, checksum.most_bytes, progress)
        if response.status == 416 and checksum.fits(part.path):
            return  # nothing was missing: the last run ended before it could verify the file
    part.discard()  # it belongs to another version of the file
    _download(part, checksum, progress)


def _receive(response: Any, part: PartialFile, offset: int, most: int, progress: CountProgress) -> None:
    """Write the body of a response to the part, from `offset` on; the whole has at most `most` bytes."""
    total = https.announced_bytes(response)
    done = offset
    with open(part.path, "ab" if offset else "wb") as file:
        if not offset:
            part.write_origin(_validator(response), total)
        progress(done, total)
        for block in https.blocks(response, most - offset):
            file.write(block)
            done += len(block)
            progress(done, total)


def _continues(response: Any, origin: dict[str, Any], offset: int) -> bool:
    """Whether a 206 response starts exactly where the part ends, in the same file."""
    starts_there = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
    # A response to If-Range may omit Last-Modified.
    same_file = _validator(response) in (None, origin.get("validator"))
    return starts_there and same_file and https.announced_bytes(response) == origin.get("total")


def _validator(response: Any) -> str | None:
    """What identifies a file's version: its ETag, unless weak (not valid for ranges), or Last-Modified."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


@dataclass(frozen=True)
class ImageJob:
    """One image to fetch: its address, its file, and the size (height, width) it must have."""

    url: str
    destination: Path
    size_hw: tuple[int, int]

    @property
    def most_bytes(self) -> int:
        """More than any encoding of so many pixels takes: four bytes each, and a megabyte of metadata."""
        height, width = self.size_hw
        return 4 * height * width + 2**20


def fetch_images(
    jobs: Iterable[ImageJob], *, workers: int = 16, progress: CountProgress = lambda done, total: None
) -> None:
    """Fetch images in parallel; each is put in place only if it decodes fully and has the expected size.

    Images already in place are skipped. A failure does not stop the others (FAILURES_IN_A_ROW do). No other
    process may be fetching into the same folders.

    Args:
        progress: called with the images in place and the total.

    Raises:
        LostRegError: some could not be fetched (the others are in place), or there is a disk error.
    """
    jobs = list(jobs)
    missing = [job for job in jobs if not job.destination.is_file()]
    done, failures, in_a_row = len(jobs) - len(missing), [], 0
    for folder in {job.destination.parent for job in jobs}:
        remove_parts(folder)
    progress(done, len(jobs))
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(_fetch_image, job) for job in missing]):
            failure = future.result()
            if failure is None:
                done, in_a_row = done + 1, 0
                progress(done, len(jobs))
            else:
                failures.append(failure)
                in_a_row += 1
            if in_a_row == FAILURES_IN_A_ROW:
                break
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        untried = len(jobs) - done - len(failures)
        given_up = f" and {untried:,} more {agreeing(untried, 'were')} given up" if untried else ""
        raise LostRegError(
            f"{len(failures):,} of {counted(len(jobs), 'image')} could not be fetched{given_up} "
            f"(the first: {failures[0]}); run the same command again to continue with the rest"
        )


def _fetch_image(job: ImageJob) -> str | None:
    """Put one image in place; returns the reason, in one line, if that failed."""
    try:
        with whole_file(job.destination, "the image", among_many=True) as part:
            https.with_retries(lambda: https.save(job.url, part, job.most_bytes))
            _check_image(part, job.size_hw)
    except RequestFailed as error:
        return f"{job.url}: {error}"
    return None


def _check_image(file: Path, size_hw: tuple[int, int]) -> None:
    """Raises RequestFailed unless a file decodes, to the last row, into an image of this size."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if (height, width) == tuple(size_hw):  # one of another size may be far larger
                image.load()
    except Exception as error:  # decoders raise many types
        reason = f"the {file.stat().st_size} bytes received are no whole image ({type(error).__name__})"
        raise RequestFailed(reason, transient=False) from error
    if (height, width) != tuple(size_hw):
        reason = f"expected {size_hw[1]} x {size_hw[0]} pixels, but got {width} x {height}"
        raise RequestFailed(reason, transient=False)
