"""Kills runs at random moments, resumes them, and looks for anything that was lost.

    python evaluation/kill_and_resume.py [--kills 200] [--seed 0]

One process imports everything once, and forks a child for each session of `lost-reg run --resume`. The child
gets SIGKILL, SIGTERM or SIGINT at a random moment, or the folder of its images goes away, as a network drive
does. After each the run folder must read, and hold all that it held before; once a session comes to its end,
the run must be the same as one that nothing happened to. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from benchmark import machine

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
KINDS = {"SIGKILL": 0.6, "SIGTERM": 0.15, "SIGINT": 0.15, "images gone": 0.1}
PHASES = ("before its first line", "amid its lines", "after its last line")
FILES_OF = {"--save-maps": ".npz", "--visualize": ".jpg"}
ALL_FILES = tuple(FILES_OF)
FLOAT_MAPS = ("norms", "degrees", "affinities")
GIVEN_UP_AFTER = 120.0  # seconds that a session may take
PR_SET_CHILD_SUBREAPER = 36


class Lost(Exception):
    """Something that was done is not there any more, or not as it was."""


@dataclass
class Tally:
    """What was seen: interruptions by kind and phase, and the longest time from a signal to the end."""

    phases: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    runs: int = 0
    sessions: int = 0
    half_lines: int = 0
    outlived: float = 0.0

    @property
    def kills(self) -> int:
        return sum(sum(phases.values()) for phases in self.phases.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    get_ready_to_fork()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a killed session leaves becomes our child
    rng = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        tally = kill_many(folder, rng, options.kills)
    except Lost as error:
        sys.exit(f"{error}; all of it is in {folder}")
    shutil.rmtree(folder)
    print(machine(torch.device("cpu")))
    print(table(tally))


def get_ready_to_fork() -> None:
    """Start no threads, which would not survive a fork."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def kill_many(folder: Path, rng: random.Random, kills: int) -> Tally:
    """Runs that are interrupted again and again, until there were so many interruptions."""
    photos = folder / "photos"
    make_images(photos, random.Random(0))
    reference = uninterrupted(photos, folder / "reference")
    tally = Tally()
    while tally.kills < kills:
        out = folder / f"run{tally.runs}"
        one_run(photos, out, reference, rng, tally)
        tally.runs += 1
        shutil.rmtree(out)
        print(f"{tally.runs} runs, {tally.kills} interruptions", file=sys.stderr, flush=True)
    return tally


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


def arguments(photos: Path, out: Path, *options: str) -> list[str]:
    return [
        "run",
        str(photos),
        "--backbone",
        "tiny",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--resume",
        *options,
    ]


# ---------------------------------------------------------------------------------------------- sessions


def session(arguments: list[str], log: Path) -> int:
    """The process id of a child that is at work on a command, in a process group of its own."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        lost_reg_command(arguments)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 0)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] == child


def wait_until(holds, seconds: float = GIVEN_UP_AFTER, why: str = "a session hangs") -> float:
    """How long it took until something came to hold."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() > started + seconds:
            raise Lost(why)
        time.sleep(0.0005)
    return time.monotonic() - started


def no_children() -> bool:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return not psutil.Process().children()


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to."""

    folder: Path
    results: Results
    lines: list[bytes]


def uninterrupted(photos: Path, out: Path) -> Reference:
    child = session(arguments(photos, out, *ALL_FILES, "--workers", "0"), out.with_suffix(".log"))
    wait_until(lambda: has_ended(child))
    results = read_run(out)
    if (len(results.predictions), len(results.failures)) != (IMAGES, DAMAGED):
        raise Lost("the run that nothing happened to is not complete")
    return Reference(out, results, whole_lines(out / PREDICTIONS_FILE).splitlines())


def one_run(photos: Path, out: Path, reference: Reference, rng: random.Random, tally: Tally) -> None:
    """Interrupt the sessions of one run until one of them comes to its end, and compare."""
    log = out.with_suffix(".log")
    kinds = set()
    while True:
        before = Contents.of(out)
        child = session(arguments(photos, out, *ALL_FILES, "--workers", rng.choice("02")), log)
        tally.sessions += 1
        kind = interrupted(child, photos, out, before, rng, tally)
        check(out, before, reference, log)
        tally.half_lines += has_half_line(out)
        if kind is None:
            break
        kinds.add(kind)
        phase = phase_of(before, Contents.of(out))
        tally.phases[kind][phase] += 1
    check_end(out, reference, ALL_FILES[:1] if "images gone" in kinds else ALL_FILES)


def interrupted(
    child: int, photos: Path, out: Path, before: Contents, rng: random.Random, tally: Tally
) -> str | None:
    """Interrupt a session at a random moment, and see it end; None if it came to its end before."""
    (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
    reached = moment(out, before, rng)
    wait_until(lambda: reached() or ended(child))
    if not psutil.pid_exists(child) or ended(child):
        has_ended(child)
        return None
    if kind == "images gone":
        photos.rename(gone := photos.with_name("gone"))
        wait_until(lambda: has_ended(child))
        gone.rename(photos)
        return kind
    if kind == "SIGINT":
        os.killpg(child, signal.SIGINT)  # as a terminal does
    else:
        os.kill(child, signal.Signals[kind])
    seconds = wait_until(lambda: has_ended(child))
    tally.longest[kind] = max(tally.longest[kind], seconds)
    left = wait_until(no_children, why="a decoding process outlives its run")
    tally.outlived = max(tally.outlived, left)
    return kind


def ended(child: int) -> bool:
    """Whether a child has ended, without taking note of it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def moment(out: Path, before: Contents, rng: random.Random):
    """A function that tells whether a random moment has come: after a time, or so many bytes of results."""
    if rng.random() < 0.25:
        at = time.monotonic() + rng.uniform(0, 0.6)  # mostly before the first line
        return lambda: time.monotonic() >= at
    size = len(before.predictions) + rng.randrange(1, 4000)
    later = rng.uniform(0, 0.03)  # most of an image's time
    met: list[float] = []

    def reached() -> bool:
        if not met and file_size(out / PREDICTIONS_FILE) >= size:
            met.append(time.monotonic())
        return bool(met) and time.monotonic() >= met[0] + later

    return reached


# ------------------------------------------------------------------------------------------------- checks


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
    """Maps and pictures, by their paths in a run folder, but for those that were being written."""
    paths = [path for name in (MAPS_FOLDER, PICTURES_FOLDER) for path in (out / name).rglob("*")]
    return [path.relative_to(out) for path in paths if path.suffix in FILES_OF.values()]


def same_file(one: Path, other: Path) -> bool:
    """Whether two pictures are the same, or two files of maps up to a level: by the size of a batch, sums are
    rounded in other ways."""
    if one.suffix != ".npz":
        return one.read_bytes() == other.read_bytes()
    maps, others = read_maps(one), read_maps(other)
    return (
        maps.seed == others.seed
        and np.array_equal(maps.mask, others.mask)
        and all(
            np.abs(a - b).max() <= 1.01 * np.ptp(a) / 255
            for a, b in ((getattr(maps, name), getattr(others, name)) for name in FLOAT_MAPS)
        )
    )


def has_all_failures(errors: bytes, reference: Reference) -> bool:
    """Whether all images that cannot be decoded are recorded."""
    failed = {json.loads(line)["image"] for line in errors.splitlines()}
    return failed >= set(reference.results.failures)


def check(out: Path, before: Contents, reference: Reference, log: Path) -> None:
    """Nothing that was there is lost, and all that is there is right.

    Raises:
        Lost: what is not so.
    """
    now = Contents.of(out)
    # a session that has tried all images replaces what earlier ones said of failures
    same_errors = now.errors.startswith(before.errors) or has_all_failures(now.errors, reference)
    if not (now.predictions.startswith(before.predictions) and same_errors):
        raise Lost("an earlier line was lost or altered")
    if (out / RUN_FILE).exists():
        found = read_run(out).predictions  # raises for anything that is malformed
        if any(reference.results.predictions[name] != one for name, one in found.items()):
            raise Lost("a prediction is another than without interruptions")
    elif now.predictions:
        raise Lost("there are predictions without a record")
    if not all(same_file(out / path, reference.folder / path) for path in extra_files(out)):
        raise Lost("maps or a picture are damaged, or other than without interruptions")
    if "Traceback" in log.read_text():
        raise Lost(f"a traceback in {log}")


def check_end(out: Path, reference: Reference, complete: Sequence[str]) -> None:
    """A run that came to its end is the same as without interruptions, up to the order of its lines.

    complete: the options whose files must all be there. Of an image that is gone no picture can be made.
    """
    lines = whole_lines(out / PREDICTIONS_FILE).splitlines()
    if sorted(lines) != sorted(reference.lines):
        raise Lost("the predictions are not those of an uninterrupted run")
    if read_run(out).failures != reference.results.failures:
        raise Lost("the failures are not those of an uninterrupted run")
    suffixes = [FILES_OF[option] for option in complete]
    missing = {*extra_files(reference.folder)} - {*extra_files(out)}
    if any(path.suffix in suffixes for path in missing):
        raise Lost(f"maps or pictures are missing: {sorted(missing)[:3]}")


def phase_of(before: Contents, now: Contents) -> str:
    lines = now.predictions.count(b"\n")
    if lines == before.predictions.count(b"\n"):
        return PHASES[0]
    return PHASES[1] if lines < IMAGES else PHASES[2]


# ------------------------------------------------------------------------------------------------- table


def table(tally: Tally) -> str:
    lines = [
        f"\n{tally.kills} interruptions of {tally.runs} runs in {tally.sessions} sessions; every run ended "
        "as the uninterrupted one.",
        f"Half lines that were left behind, and not read: {tally.half_lines}.",
        f"Longest time that a decoding process outlived its run: {tally.outlived:.2f} s.\n",
        f"| interrupted by | times | {' | '.join(PHASES)} | longest until it had ended |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        phases = tally.phases[kind]
        counts = " | ".join(str(phases[phase]) for phase in PHASES)
        longest = f"{tally.longest[kind]:.2f} s" if kind in tally.longest else ""
        lines.append(f"| {kind} | {sum(phases.values())} | {counts} | {longest} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
