"""Runs into a small file system that is full, again and again, and looks for anything that was lost.

    python evaluation/full_disk.py [--runs 12] [--seed 0]

A file leaves a random amount of room beside the run folder for each session of `lost-reg run --resume`, until
one comes to its end. In every fourth run it is not bytes but files of which there can be no more. A session
that does not come to its end must say why in one line, and leave a folder that reads and holds all that it
held before; the last must end as a run with room enough. Mounts a tmpfs: needs Linux, and root or
`unshare -rm python evaluation/full_disk.py`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from benchmark import machine
from kill_and_resume import (
    ALL_FILES,
    Contents,
    Lost,
    Reference,
    arguments,
    check,
    check_end,
    get_ready_to_fork,
    has_half_line,
    make_images,
    session,
    uninterrupted,
)

VARIANTS = ((), ("--save-maps",), ALL_FILES)
SIZE = 2**23  # bytes of the file system: more than any run needs
PAGE = 4096  # in which a tmpfs counts them
PAGES_LEFT = (0, 0, 1, 1, 2, 4, 16, 64)
MOST_SESSIONS = 200


@dataclass
class Tally:
    """What was seen: sessions that found no room, by what they could not write."""

    full: Counter = field(default_factory=Counter)
    runs: int = 0
    half_lines: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    get_ready_to_fork()
    folder = Path(tempfile.mkdtemp(prefix="full-disk-"))
    rng = random.Random(options.seed)
    make_images(folder / "photos", random.Random(0))
    reference = uninterrupted(folder / "photos", folder / "reference")
    tally = Tally()
    try:
        for index in range(options.runs):
            one_run(folder, VARIANTS[index % len(VARIANTS)], index % 4 == 3, reference, rng, tally)
            print(f"{tally.runs} runs, {tally.full.total()} full", file=sys.stderr, flush=True)
    except Lost as error:
        sys.exit(f"{error}; the log is in {folder}")
    shutil.rmtree(folder)
    print(machine(torch.device("cpu")))
    print(table(tally))


@contextmanager
def small_file_system(where: Path, *options: str):
    """A tmpfs for as long as the context lasts."""
    where.mkdir(exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={SIZE}", *options)), "tmpfs", str(where)]
    done = subprocess.run(mounting, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"cannot mount a small file system ({done.stderr.strip()}): run it as root or under `unshare -rm`"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


def one_run(
    folder: Path,
    options: tuple[str, ...],
    files: bool,
    reference: Reference,
    rng: random.Random,
    tally: Tally,
) -> None:
    """Resume a run with a little more room, again and again, until it comes to its end.

    files: whether it is files that there is no room for, instead of bytes.
    """
    disk = folder / "disk"
    with small_file_system(disk):
        for _ in range(MOST_SESSIONS):
            if files:
                leave_files(disk, rng.randrange(60))
            else:
                leave_bytes(disk, rng.choice(PAGES_LEFT) * PAGE)
            if has_come_to_its_end(folder, disk / "run", options, reference, tally):
                check_end(disk / "run", reference, options)
                tally.runs += 1
                return
    raise Lost("a run does not come to its end, however much room there is")


def leave_bytes(disk: Path, room: int) -> None:
    """Fill a file system but for so many bytes more than what is there takes."""
    (disk / "ballast").unlink(missing_ok=True)
    state = os.statvfs(disk)
    free = state.f_bavail * state.f_frsize
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(max(0, free - room)))


def leave_files(disk: Path, room: int) -> None:
    """Let there be only so many files more."""
    state = os.statvfs(disk)
    limit = state.f_files - state.f_ffree + room
    subprocess.run(["mount", "-o", f"remount,nr_inodes={limit}", str(disk)], check=True)


def has_come_to_its_end(
    folder: Path, out: Path, options: tuple[str, ...], reference: Reference, tally: Tally
) -> bool:
    """One session; False if it found no room, and said so as it should."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    before = Contents.of(out)
    _, status = os.waitpid(session(arguments(folder / "photos", out, "--workers", "0", *options), log), 0)
    check(out, before, reference, log)
    code = os.waitstatus_to_exitcode(status)
    if not code:
        return True
    said = [line for line in log.read_text().splitlines() if not line.startswith(("Note:", "Warning:"))]
    if code != 1 or len(said) != 1 or not re.fullmatch(r"Error: .*No space left on device.*", said[0]):
        raise Lost(f"the exit code is {code}, and it said {said}")
    tally.full[what(said[0], str(out))] += 1
    tally.half_lines += has_half_line(out)
    return False


def what(said: str, out: str) -> str:
    """The kind of file that there was no room for."""
    for kind in ("run.json", "maps", "picture"):
        if kind in said.replace(out, ""):
            return kind
    return "a line" if "--resume" in said else "the folder"


def table(tally: Tally) -> str:
    lines = [
        f"\n{tally.full.total()} sessions of {tally.runs} runs found no room; every run ended as one "
        f"that had it.\nHalf lines that were left behind, and not read: {tally.half_lines}.\n",
        "| no room for | sessions |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in tally.full.most_common()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
