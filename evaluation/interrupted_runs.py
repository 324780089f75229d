"""Runs that something happens to: what the scripts that kill and fill disks share. Needs Linux.

One process imports everything once, and forks a child for each session of `lost-reg run --resume`. What a
run folder holds after a session is compared with a run that nothing happened to.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

# imported before the forks, so that no session spends its time on it
from lost_reg.cli.app import main as lost_reg_command
from lost_reg.runs.folder import (
    ERRORS_FILE,
    MAPS_FOLDER,
    PICTURES_FOLDER,
    PREDICTIONS_FILE,
    RUN_FILE,
    Results,
    read_run,
)
from lost_reg.runs.map_files import read_maps

IMAGES, DAMAGED = 240, 4
SIZES_HW = ((64, 96), (96, 64), (80, 112))
SUFFIX_OF = {"--save-maps": ".npz", "--visualize": ".jpg"}  # of the files that an option writes
ALL_FILES = tuple(SUFFIX_OF)
GIVEN_UP_AFTER = 120.0  # seconds that a session may take


class Lost(Exception):
    """Something that was done is missing, or differs from what it was."""


def make_images(folder: Path, rng: random.Random) -> None:
    """Small images with something in them, of several sizes and formats, and a few that are damaged."""
    folder.mkdir()
    noise = np.random.default_rng(rng.randrange(2**32))
    for index in range(IMAGES):
        height, width = SIZES_HW[index % len(SIZES_HW)]
        pixels = noise.integers(100, 130, (height, width, 3), dtype=np.uint8)
        top, left = noise.integers(0, height // 2), noise.integers(0, width // 2)
        pixels[top : top + height // 3, left : left + width // 3] = noise.integers(0, 256, 3)
        cv2.imwrite(str(folder / f"{index:04}.{('jpg', 'png')[index % 2]}"), pixels)
    for index in range(DAMAGED):
        (folder / f"damaged{index}.jpg").write_bytes(noise.bytes(500))


# --- sessions ----------------------------------------------------------------------------------------


def session(photos: Path, out: Path, log: Path, *options: str) -> int:
    """The process id of a child that runs `lost-reg run --resume`: see `forked`."""
    method = ["--method", "lost", "--backbone", "tiny", "--device", "cpu"]
    command = ["run", str(photos), "--out", str(out), "--resume", *method, *options]
    return forked(lambda: lost_reg_command(command), log)


def forked(work: Callable[[], object], log: Path) -> int:
    """The process id of a child that does some work, in a process group of its own.

    log: a file that what it prints is appended to.
    """
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work()
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 0)
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    os._exit(0)


def has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] == child


def wait_until(holds: Callable[[], bool], why: str = "a session hangs") -> float:
    """Wait until a condition holds.

    Returns:
        The seconds that it took.

    Raises:
        Lost: it did not hold in time; `why`.
    """
    started = time.monotonic()
    while not holds():
        if time.monotonic() > started + GIVEN_UP_AFTER:
            raise Lost(why)
        time.sleep(0.0005)
    return time.monotonic() - started


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to, with its images."""

    photos: Path
    folder: Path
    results: Results
    lines: list[bytes]

    @property
    def log(self) -> Path:
        """A file for what other sessions print."""
        return self.folder.with_name("log")


@contextlib.contextmanager
def reference_run(prefix: str) -> Iterator[Reference]:
    """A run without interruptions in a temporary folder, beside which there is room for others.

    If something was lost, the program ends with a line that says what, and the folder is kept.
    """
    torch.set_num_threads(1)  # start no threads, which would not survive a fork
    cv2.setNumThreads(0)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        make_images(folder / "photos", random.Random(0))
        yield uninterrupted(folder / "photos", folder / "reference")
    except Lost as error:
        sys.exit(f"{error}; everything is in {folder}")
    shutil.rmtree(folder)


def uninterrupted(photos: Path, out: Path) -> Reference:
    child = session(photos, out, out.with_suffix(".log"), *ALL_FILES, "--workers", "0")
    wait_until(lambda: has_ended(child))
    results = read_run(out)
    if (len(results.predictions), len(results.failures)) != (IMAGES, DAMAGED):
        raise Lost("the run that nothing happened to is not complete")
    return Reference(photos, out, results, whole_lines(out / PREDICTIONS_FILE).splitlines())


# --- checks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """The whole lines that a run folder holds."""

    predictions: bytes
    errors: bytes

    @classmethod
    def of(cls, out: Path) -> Contents:
        return cls(whole_lines(out / PREDICTIONS_FILE), whole_lines(out / ERRORS_FILE))


def whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def has_half_line(out: Path) -> bool:
    """Whether a prediction was cut off while it was written."""
    return file_size(out / PREDICTIONS_FILE) > len(whole_lines(out / PREDICTIONS_FILE))


def file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def extra_files(out: Path) -> list[Path]:
    """The paths in a run folder of maps and pictures, without those that were being written."""
    paths = [path for name in (MAPS_FOLDER, PICTURES_FOLDER) for path in (out / name).rglob("*")]
    return [path.relative_to(out) for path in paths if path.suffix in SUFFIX_OF.values()]


def same_file(one: Path, other: Path) -> bool:
    """Whether two pictures are the same, or two files of maps, up to a level.

    Sums are rounded differently in batches of another size.
    """
    if one.suffix != ".npz":
        return one.read_bytes() == other.read_bytes()
    maps, others = read_maps(one), read_maps(other)
    return (
        maps.seed == others.seed
        and np.array_equal(maps.mask, others.mask)
        and maps.values.keys() == others.values.keys()
        and all(within_a_level(values, others.values[name]) for name, values in maps.values.items())
        and maps.attention.keys() == others.attention.keys()
        and all(
            within_a_level(*pair)
            for token, weights in maps.attention.items()
            for pair in zip(weights, others.attention[token], strict=True)
        )
    )


def within_a_level(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether two maps, which are kept in 256 levels, differ by a level at most."""
    return bool(np.abs(values - others).max() <= 1.01 * np.ptp(values) / 255)


def has_all_failures(errors: bytes, reference: Reference) -> bool:
    """Whether all images that cannot be decoded are recorded."""
    failed = {json.loads(line)["image"] for line in errors.splitlines()}
    return failed >= set(reference.results.failures)


def check(out: Path, before: Contents, reference: Reference) -> None:
    """Check that nothing that was there is lost, and that all that is there is right.

    Raises:
        Lost: what is not so.
    """
    now = Contents.of(out)
    # a session that has tried all images replaces the failures that earlier ones recorded
    same_errors = now.errors.startswith(before.errors) or has_all_failures(now.errors, reference)
    if not (now.predictions.startswith(before.predictions) and same_errors):
        raise Lost("an earlier line was lost or altered")
    if (out / RUN_FILE).exists():
        found = read_run(out).predictions  # raises for anything that is malformed
        if any(reference.results.predictions[name] != one for name, one in found.items()):
            raise Lost("a prediction differs from that without interruptions")
    elif now.predictions:
        raise Lost("there are predictions without a record")
    if not all(same_file(out / path, reference.folder / path) for path in extra_files(out)):
        raise Lost("maps or a picture are damaged, or differ from those without interruptions")
    if "Traceback" in reference.log.read_text():
        raise Lost(f"a traceback in {reference.log}")


def check_end(out: Path, reference: Reference, complete: Sequence[str]) -> None:
    """Check that a run that came to its end is the same as without interruptions, up to the order of lines.

    complete: the options whose files must all be there. Of an image that is gone no picture can be made.

    Raises:
        Lost: what is not so.
    """
    lines = whole_lines(out / PREDICTIONS_FILE).splitlines()
    if sorted(lines) != sorted(reference.lines):
        raise Lost("the predictions are not those of an uninterrupted run")
    if read_run(out).failures != reference.results.failures:
        raise Lost("the failures are not those of an uninterrupted run")
    suffixes = [SUFFIX_OF[option] for option in complete]
    missing = {*extra_files(reference.folder)} - {*extra_files(out)}
    if any(path.suffix in suffixes for path in missing):
        raise Lost(f"maps or pictures are missing: {sorted(missing)[:3]}")
