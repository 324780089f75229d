"""Feed damaged and hostile image files to the reader: none may crash it, hang, or use memory without bounds.

    python evaluation/fuzz_reader.py [--files 12000] [--seed 0] [--workers 2] [--keep FOLDER]

The files of fuzzing/: small real ones of each format and mode, the same with damage, and bombs that were
written for the purpose. All are decoded by the processes that decode for a run; what is reported is what a
run would record.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from fuzzing.bombs import BOMBS
from fuzzing.mutations import mutated
from fuzzing.whole_files import whole_files
from harness import MIB, argument_parser, markdown_table, run_script

from lost_reg.images.batching import DecodedImage
from lost_reg.images.decoding import SECONDS_PER_IMAGE, DecoderProcess, Decoding
from lost_reg.types import Failure

SLOW_SECONDS = 5.0
REASONS_SHOWN = 12


@dataclass
class Outcomes:
    """What became of the files.

    reasons: of those that were refused. ended: those whose process crashed or had to be ended.
    slowest, largest: the most seconds and bytes that a file took, and its name.
    """

    decoded: int = 0
    reasons: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    ended: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        return self.decoded + self.reasons.total()

    def add(self, name: str, outcome: DecodedImage | Failure, seconds: float, memory: int) -> None:
        if isinstance(outcome, Failure):
            self.reasons[kind_of(outcome.reason)] += 1
            if has_ended_process(outcome):
                self.ended.append(f"{name}: {outcome.reason}")
        else:
            assert outcome.pixels.dtype == np.uint8 and outcome.pixels.shape[2:] == (3,), name
            self.decoded += 1
        self.slowest = max(self.slowest, (seconds, name))
        self.largest = max(self.largest, (memory, name))


def kind_of(reason: str) -> str:
    """A reason without what is peculiar to one file."""
    return re.sub(r"[0-9][0-9,.]*", "N", reason.split(" (")[0])[:60]


def has_ended_process(outcome: DecodedImage | Failure) -> bool:
    return isinstance(outcome, Failure) and outcome.reason.startswith(("crashed", "took more"))


@contextlib.contextmanager
def decoding_processes(count: int) -> Iterator[SimpleQueue[DecoderProcess]]:
    """Processes that decode as those of a run do; any that takes too long is ended."""
    processes = [DecoderProcess(Decoding(True, None, 16), SECONDS_PER_IMAGE) for _ in range(count)]
    idle: SimpleQueue[DecoderProcess] = SimpleQueue()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for process in processes:
                process.end_if_late()

    threading.Thread(target=watch, daemon=True).start()
    try:
        for process in processes:
            idle.put(process)
        yield idle
    finally:
        over.set()
        for process in processes:
            process.close()


def most_memory(process: DecoderProcess) -> int:
    """The most bytes that a process has held since this was last asked."""
    running = process._process
    if running is None or running.poll() is not None:
        return 0
    folder = Path(f"/proc/{running.pid}")
    kilobytes = int(re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())[1])
    (folder / "clear_refs").write_text("5")
    return 1024 * kilobytes


def decode_all(
    files: Iterator[tuple[str, bytes]],
    workers: int,
    keep: Path | None = None,
    note: Callable[[Outcomes], None] = lambda outcomes: None,
) -> Outcomes:
    """Decode files in processes, as a run does, and measure each.

    keep: a folder for the files that crash, hang or take long.
    note: called after each file.
    """
    outcomes, lock = Outcomes(), threading.Lock()
    room = threading.Semaphore(4 * workers)  # not all files are in memory at once
    with (
        decoding_processes(workers) as idle,
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(workers) as threads,
    ):

        def work(name: str, content: bytes) -> None:
            process = idle.get()
            path = Path(folder, str(id(process)))
            path.write_bytes(content)
            began = time.monotonic()
            outcome = process.decode(name, path)
            taken = time.monotonic() - began
            with lock:
                outcomes.add(name, outcome, taken, most_memory(process))
                note(outcomes)
            if keep and (has_ended_process(outcome) or taken > SLOW_SECONDS):
                (keep / re.sub(r"\W+", "-", name)).write_bytes(content)
            idle.put(process)

        futures = []
        for name, content in files:
            room.acquire()
            futures.append(threads.submit(work, name, content))
            futures[-1].add_done_callback(lambda _: room.release())
        for future in futures:
            future.result()
    return outcomes


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the files that crash, hang or take long")
    options = parser.parse_args()

    def note(outcomes: Outcomes) -> None:
        if outcomes.files % 1000 == 0:
            ended = f"{len(outcomes.ended)} ended their process"
            print(f"{outcomes.files:,} files, {ended}", file=sys.stderr, flush=True)

    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    files = whole_files()
    bombs = ((name, make()) for name, make in BOMBS.items())
    print(f"{len(files)} kinds of files\n")
    for what, some in (("unharmed", iter(files.items())), ("bombs", bombs)):
        print(table(what, decode_all(some, options.workers, options.keep)), flush=True)
    damaged = mutated(files, options.seed, options.files)
    print(table("mutated", decode_all(damaged, options.workers, options.keep, note)))


def table(what: str, outcomes: Outcomes) -> str:
    shown = outcomes.reasons.most_common(REASONS_SHOWN)
    others = outcomes.reasons.total() - sum(count for _, count in shown)
    (seconds, slowest), (memory, largest) = outcomes.slowest, outcomes.largest
    rows = [
        ("decoded", f"{outcomes.decoded:,}"),
        *((reason, f"{count:,}") for reason, count in shown),
        *([("refused for other reasons", f"{others:,}")] if others else []),
        ("crashes and hangs, which the run survived", len(outcomes.ended)),
        ("longest", f"{seconds:.1f} s ({slowest})"),
        ("most memory of a process", f"{memory / MIB:,.0f} MiB ({largest})"),
    ]
    ended = "".join(f"\n- {line}" for line in outcomes.ended[:20])
    return f"{markdown_table([what, f'{outcomes.files:,} files'], rows)}\n{ended}"


if __name__ == "__main__":
    run_script(main)
