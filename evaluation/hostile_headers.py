"""Image files with hostile headers: how long they take, and how much memory, wherever a run reads them.

    python evaluation/hostile_headers.py [--files 1000] [--seed 0] [--folder FOLDER] [--runs-alone]

Each is read by the process that reads headers for the forecast of a run, and then by one that decodes, as a
run's do. At the end come whole runs of folders of a hundred each. The files are those of fuzzing/headers.py;
their holes take no room on the disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fuzzing.headers import KINDS, Header, hostile_headers
from fuzzing.outcomes import Outcomes, kind_of, most_memory, table
from harness import MIB, argument_parser, markdown_table, run_script

from lost_reg.images.decoder_process import SECONDS_PER_IMAGE, DecoderProcess, watched
from lost_reg.images.decoding import Decoding
from lost_reg.images.reading import SUFFIXES
from lost_reg.images.sizes import SECONDS_PER_HEADER
from lost_reg.runs.folder import read_run
from lost_reg.types import Failure

IN_A_FOLDER = 100
RUN = ("run", "--backbone", "tiny", "--max-side", "64", "--workers", "1")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are written, one at a time")
    parser.add_argument("--runs-alone", action="store_true", help="leave out the two readings")
    options = parser.parse_args()
    headers = list(hostile_headers(options.files, options.seed))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        readings = (
            ("headers, for the forecast", "read", SECONDS_PER_HEADER, size_of),
            ("decoded", "decoded", SECONDS_PER_IMAGE, decoded),
        )
        for what, taken, seconds, read in () if options.runs_alone else readings:
            outcomes, of_kinds = measured(headers, Path(folder), seconds, read)
            print(table(what, outcomes, taken))
            print(table_of_kinds(of_kinds, taken), flush=True)
        print(table_of_runs(headers, Path(folder)))


def table_of_kinds(outcomes: dict[str, Outcomes], taken: str) -> str:
    rows = [
        (kind, one.files, one.taken, f"{one.slowest[0]:.1f} s", f"{one.largest[0] / MIB:,.0f} MiB")
        for kind, one in outcomes.items()
    ]
    return markdown_table(["kind", "files", taken, "longest", "most memory of a process"], rows) + "\n"


def size_of(process: DecoderProcess, path: Path) -> str | None:
    """Why the header of a file is not read; None if it is."""
    size = process.size(path)
    return size if isinstance(size, str) else None


def decoded(process: DecoderProcess, path: Path) -> str | None:
    """Why a file is not decoded; None if it is."""
    outcome = process.decode("", path)
    return outcome.reason if isinstance(outcome, Failure) else None


def measured(
    headers: Sequence[Header],
    folder: Path,
    seconds: float,
    read: Callable[[DecoderProcess, Path], str | None],
) -> tuple[Outcomes, dict[str, Outcomes]]:
    """What becomes of files in a process that has so many seconds for each: of all, and of each kind."""
    outcomes, of_kinds = Outcomes(), {kind: Outcomes() for kind in KINDS}
    process = DecoderProcess(Decoding(True, 64, 16), seconds)
    with watched([process]):
        for number, header in enumerate(headers):
            path = folder / f"header{header.suffix}"
            header.write(path)
            began = time.monotonic()
            reason = read(process, path)
            taken = time.monotonic() - began
            memory = most_memory(process)
            for counted in (outcomes, of_kinds[header.kind]):
                counted.add(f"{number} {header.kind}: {header.what}", reason, taken, memory)
            path.unlink()
    return outcomes, of_kinds


# --- whole runs --------------------------------------------------------------------------------------


def table_of_runs(headers: Sequence[Header], folder: Path) -> str:
    """Runs of all headers, in folders: every file must have its outcome, and the runs must end well."""
    reasons: Counter[str] = Counter()
    found, slowest, largest, ends = 0, 0.0, 0, Counter()
    for images in written_folders(headers, folder):
        out = folder / f"{images.name}-out"
        code, seconds, memory = lost_reg(*RUN, str(images), "--out", str(out))
        results = read_run(out)
        assert len(results.predictions) + len(results.failures) == len(list(images.iterdir())), images
        found += len(results.predictions)
        reasons.update(kind_of(one.reason) for one in results.failures.values())
        slowest, largest, ends = max(slowest, seconds), max(largest, memory), ends + Counter([code])
    rows = [
        ("runs that ended well", ends[0]),
        ("runs that ended otherwise", ends.total() - ends[0]),
        ("images with objects", f"{found:,}"),
        ("images that were recorded with a reason", f"{reasons.total():,}"),
        ("kinds of reasons", len(reasons)),
        ("longest run", f"{slowest:.0f} s"),
        ("most memory of a process", f"{largest / MIB:,.0f} MiB"),
    ]
    return markdown_table([f"lost-reg {' '.join(RUN)} FOLDER", f"{len(headers):,} files"], rows)


def written_folders(headers: Sequence[Header], folder: Path) -> Iterator[Path]:
    """Folders of a hundred files each."""
    for first in range(0, len(headers), IN_A_FOLDER):
        images = folder / f"images-{first}"
        images.mkdir()
        for number, header in enumerate(headers[first : first + IN_A_FOLDER]):
            suffix = (
                header.suffix if header.suffix in SUFFIXES else ".jpg"
            )  # any that is searched for will do
            header.write(images / f"{first + number:04}{suffix}")
        yield images


def lost_reg(*arguments: str) -> tuple[int, float, int]:
    """The exit code of a command, its seconds, and the most bytes of it or of a process that it started."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "lost_reg", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.monotonic() - began, 1024 * usage.ru_maxrss


if __name__ == "__main__":
    run_script(main)
