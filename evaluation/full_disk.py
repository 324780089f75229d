"""Run into a small file system that is full, again and again, and look for anything that was lost.

    python evaluation/full_disk.py [--runs 12] [--seed 0]

A file leaves a random amount of room beside the run folder for each session of `lost-reg run --resume`, until
one comes to its end. In every fourth run it is the number of files that is limited, not their bytes. Every
other session must say in one line why it ended, and leave a folder that reads and holds all that it held
before; the last must end as a run with room enough. Mounts a tmpfs: needs Linux, and root or
`unshare -rm python evaluation/full_disk.py`.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import argument_parser, describe_machine, markdown_table, run_script
from interrupted_runs import (
    ALL_FILES,
    Contents,
    Lost,
    Reference,
    check,
    check_end,
    has_half_line,
    reference_run,
    session,
)

VARIANTS = ((), ("--save-maps",), ALL_FILES)
SIZE = 2**23  # bytes of the file system: more than any run needs
PAGE = 4096  # in which a tmpfs counts them
PAGES_LEFT = (0, 0, 1, 1, 2, 4, 16, 64)
MOST_FILES_LEFT = 60
MOST_SESSIONS = 200


@dataclass
class Tally:
    """Sessions that found no room, by what they could not write."""

    full: Counter = field(default_factory=Counter)
    runs: int = 0
    half_lines: int = 0


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, tally = random.Random(options.seed), Tally()
    with reference_run("full-disk-") as reference:
        for index in range(options.runs):
            limit = leave_files if index % 4 == 3 else leave_bytes
            one_run(
                reference, VARIANTS[index % len(VARIANTS)], lambda disk, limit=limit: limit(disk, rng), tally
            )
            print(f"{tally.runs} runs, {tally.full.total()} full", file=sys.stderr, flush=True)
    print(describe_machine())
    print(report(tally))


def one_run(
    reference: Reference, options: tuple[str, ...], limit: Callable[[Path], None], tally: Tally
) -> None:
    """Resume a run with a little more room, again and again, until it comes to its end.

    limit: leaves little room in the file system that is mounted at a path.
    """
    disk = reference.folder.with_name("disk")
    with small_file_system(disk):
        for _ in range(MOST_SESSIONS):
            limit(disk)
            if comes_to_its_end(disk / "run", reference, options, tally):
                check_end(disk / "run", reference, options)
                tally.runs += 1
                return
    raise Lost("a run does not come to its end, however much room there is")


@contextmanager
def small_file_system(where: Path) -> Iterator[None]:
    """A tmpfs for as long as the context lasts."""
    where.mkdir(exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(where)]
    done = subprocess.run(mounting, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"cannot mount a small file system ({done.stderr.strip()}): run it as root or under `unshare -rm`"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


def leave_bytes(disk: Path, rng: random.Random) -> None:
    """Fill a file system so that there is room for a few pages more than what is there takes."""
    (disk / "ballast").unlink(missing_ok=True)
    state, room = os.statvfs(disk), rng.choice(PAGES_LEFT) * PAGE
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(max(0, state.f_bavail * state.f_frsize - room)))


def leave_files(disk: Path, rng: random.Random) -> None:
    """Allow only a few files more."""
    state = os.statvfs(disk)
    limit = state.f_files - state.f_ffree + rng.randrange(MOST_FILES_LEFT)
    subprocess.run(["mount", "-o", f"remount,nr_inodes={limit}", str(disk)], check=True)


def comes_to_its_end(out: Path, reference: Reference, options: tuple[str, ...], tally: Tally) -> bool:
    """One session; False if it found no room, and said so as it should."""
    reference.log.unlink(missing_ok=True)
    before = Contents.of(out)
    child = session(reference.photos, out, reference.log, "--workers", "0", *options)
    _, status = os.waitpid(child, 0)
    check(out, before, reference)
    code = os.waitstatus_to_exitcode(status)
    if not code:
        return True
    lines = reference.log.read_text().splitlines()
    printed = [line for line in lines if not line.startswith(("Note:", "Warning:"))]
    if code != 1 or len(printed) != 1 or not re.fullmatch(r"Error: .*No space left on device.*", printed[0]):
        raise Lost(f"the exit code is {code}, and it printed {printed}")
    tally.full[what_has_no_room(printed[0], out)] += 1
    tally.half_lines += has_half_line(out)
    return False


def what_has_no_room(message: str, out: Path) -> str:
    """The kind of file that there was no room for."""
    for kind in ("run.json", "maps", "picture"):
        if kind in message.replace(str(out), ""):
            return kind
    return "a line" if "--resume" in message else "the folder"


def report(tally: Tally) -> str:
    return "\n".join(
        [
            f"\n{tally.full.total()} sessions of {tally.runs} runs found no room; every run ended as one "
            "that had it.",
            f"Half lines that were left behind, and not read: {tally.half_lines}.\n",
            markdown_table(["no room for", "sessions"], tally.full.most_common()),
        ]
    )


if __name__ == "__main__":
    run_script(main)
