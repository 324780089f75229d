"""Kill runs at random moments, resume them, and look for anything that was lost.

    python evaluation/kill_and_resume.py [--kills 200] [--seed 0]

A session of `lost-reg run --resume` gets SIGKILL, SIGTERM or SIGINT at a random moment, or the folder of its
images goes away, as a network drive does. After each the run folder must read, and hold all that it held
before. Once a session comes to its end, the run must be the same as one that nothing happened to. Needs
Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from harness import argument_parser, describe_machine, markdown_table, run_script
from interrupted_runs import (
    ALL_FILES,
    IMAGES,
    Contents,
    Reference,
    check,
    check_end,
    file_size,
    has_ended,
    has_half_line,
    reference_run,
    session,
    wait_until,
)

from lost_reg.runs.folder import PREDICTIONS_FILE

KINDS = {"SIGKILL": 0.6, "SIGTERM": 0.15, "SIGINT": 0.15, "images gone": 0.1}
PHASES = ("before its first line", "amid its lines", "after its last line")
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Tally:
    """Interruptions by kind and phase, and the longest times.

    longest: seconds from a signal to the end of the session, by kind.
    outlived: seconds that a decoding process outlived its run.
    half_lines: lines that were cut off.
    """

    phases: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    runs: int = 0
    sessions: int = 0
    half_lines: int = 0
    outlived: float = 0.0

    @property
    def kills(self) -> int:
        return sum(phases.total() for phases in self.phases.values())


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a killed session leaves becomes our child
    rng, tally = random.Random(options.seed), Tally()
    with reference_run("kill-and-resume-") as reference:
        while tally.kills < options.kills:
            out = reference.folder.with_name(f"run{tally.runs}")
            one_run(out, reference, rng, tally)
            tally.runs += 1
            shutil.rmtree(out)
            print(f"{tally.runs} runs, {tally.kills} interruptions", file=sys.stderr, flush=True)
    print(describe_machine())
    print(report(tally))


def one_run(out: Path, reference: Reference, rng: random.Random, tally: Tally) -> None:
    """Interrupt the sessions of one run until one of them comes to its end, and compare."""
    reference.log.unlink(missing_ok=True)
    kinds = set()
    while True:
        before = Contents.of(out)
        child = session(reference.photos, out, reference.log, *ALL_FILES, "--workers", rng.choice("02"))
        tally.sessions += 1
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        reached = moment(out, before, rng)
        wait_until(lambda child=child, reached=reached: reached() or is_over(child))
        at_its_end = is_over(child)
        if at_its_end:
            has_ended(child)
        else:
            interrupt(child, kind, reference.photos, tally)
        check(out, before, reference)
        tally.half_lines += has_half_line(out)
        if at_its_end:
            break
        kinds.add(kind)
        tally.phases[kind][phase_of(before, Contents.of(out))] += 1
    check_end(out, reference, ALL_FILES[:1] if "images gone" in kinds else ALL_FILES)


def interrupt(child: int, kind: str, photos: Path, tally: Tally) -> None:
    """Interrupt a session, and wait until it and its processes have ended."""
    if kind == "images gone":
        photos.rename(gone := photos.with_name("gone"))
        wait_until(lambda: has_ended(child))
        gone.rename(photos)
        return
    if kind == "SIGINT":
        os.killpg(child, signal.SIGINT)  # as a terminal does
    else:
        os.kill(child, signal.Signals[kind])
    seconds = wait_until(lambda: has_ended(child))
    tally.longest[kind] = max(tally.longest[kind], seconds)
    left = wait_until(no_children, why="a decoding process outlives its run")
    tally.outlived = max(tally.outlived, left)


def is_over(child: int) -> bool:
    """Whether a child has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def no_children() -> bool:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return not psutil.Process().children()


def moment(out: Path, before: Contents, rng: random.Random) -> Callable[[], bool]:
    """Whether a random moment has come: after a time, or after so many more bytes of results."""
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


def phase_of(before: Contents, now: Contents) -> str:
    lines = now.predictions.count(b"\n")
    if lines == before.predictions.count(b"\n"):
        return PHASES[0]
    return PHASES[1] if lines < IMAGES else PHASES[2]


def report(tally: Tally) -> str:
    rows = []
    for kind in KINDS:
        phases = tally.phases[kind]
        longest = f"{tally.longest[kind]:.2f} s" if kind in tally.longest else ""
        rows.append([kind, phases.total(), *(phases[phase] for phase in PHASES), longest])
    return "\n".join(
        [
            f"\n{tally.kills} interruptions of {tally.runs} runs in {tally.sessions} sessions; every run "
            "ended as the uninterrupted one.",
            f"Half lines that were left behind, and not read: {tally.half_lines}.",
            f"Longest time that a decoding process outlived its run: {tally.outlived:.2f} s.\n",
            markdown_table(["interrupted by", "times", *PHASES, "longest until it had ended"], rows),
        ]
    )


if __name__ == "__main__":
    run_script(main)
