"""Many images from the internet, fetched in parallel and checked by decoding them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lost_reg.datasets import https
from lost_reg.datasets.downloads import CountProgress, ignore_progress
from lost_reg.datasets.https import RequestFailed
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.images.reading import FORMATS

FAILURES_IN_A_ROW = 64  # after so many failed images, with no success between, the rest is given up


@dataclass(frozen=True)
class ImageJob:
    """One image to fetch: from where, to which file, and the size (height, width) it must have."""

    url: str
    destination: Path
    size_hw: tuple[int, int]


def fetch_images(
    jobs: Iterable[ImageJob], *, workers: int = 16, progress: CountProgress = ignore_progress
) -> None:
    """Fetch images in parallel; each is in place only if it decodes to the end and has the size expected.

    Images in place already are skipped. A failure does not stop the others (FAILURES_IN_A_ROW do).

    Args:
        progress: called with the images in place and the total.

    Raises:
        LostRegError: some could not be fetched (the others are in place), or the disk refuses.
    """
    jobs = list(jobs)
    missing = [job for job in jobs if not job.destination.is_file()]
    done, failures, in_a_row = len(jobs) - len(missing), [], 0
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
        given_up = f" and {untried} more were given up" if untried else ""
        raise LostRegError(
            f"{len(failures)} of {len(jobs)} images could not be fetched{given_up} "
            f"(the first: {failures[0]}); run the same command again to continue with the rest"
        )


def _fetch_image(job: ImageJob) -> str | None:
    """Put one image in place; the reason, in one line, if that failed."""
    try:
        body = https.with_retries(lambda: https.read_all(job.url))
        _check_image(body, job.size_hw)
    except RequestFailed as error:
        return f"{job.url}: {error}"
    with whole_file(job.destination, "the image") as part:
        part.write_bytes(body)
    return None


def _check_image(body: bytes, size_hw: tuple[int, int]) -> None:
    """Raises RequestFailed unless the bytes decode, to the last row, to an image of this size."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            image.load()
            width, height = image.size
    except Exception as error:  # decoders raise many kinds
        reason = f"the {len(body)} bytes received are no whole image ({type(error).__name__})"
        raise RequestFailed(reason, transient=False) from error
    if (height, width) != tuple(size_hw):
        reason = f"expected {size_hw[1]} x {size_hw[0]} pixels, but got {width} x {height}"
        raise RequestFailed(reason, transient=False)
