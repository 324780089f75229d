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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from fuzzing.bombs import BOMBS
from fuzzing.mutations import mutated
from fuzzing.outcomes import Outcomes, has_ended_process, most_memory, table
from fuzzing.whole_files import whole_files
from harness import argument_parser, run_script

from lost_reg.images.decoder_process import SECONDS_PER_IMAGE, DecoderProcess
from lost_reg.images.decoding import Decoding
from lost_reg.types import Failure

SLOW_SECONDS = 5.0


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
            reason = outcome.reason if isinstance(outcome, Failure) else None
            if reason is None:
                assert outcome.pixels.dtype == np.uint8 and outcome.pixels.shape[2:] == (3,), name
            with lock:
                outcomes.add(name, reason, taken, most_memory(process))
                note(outcomes)
            if keep and (has_ended_process(reason) or taken > SLOW_SECONDS):
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


if __name__ == "__main__":
    run_script(main)
