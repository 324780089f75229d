"""What Ray costs: a run by --engine ray beside a plain run, its command alone, and behind a slow writer.

    python evaluation/ray_overhead.py PHOTOS [--copies 1] [--actors N]
    python evaluation/ray_overhead.py PHOTOS --command [--outcomes 200000]
    python evaluation/ray_overhead.py PHOTOS --slow-writer

The first runs `tiny` twice on the same photos, one command after the other. Its seconds are of whole
commands, start included; the core seconds are those of all processes; the rate counts from the first outcomes
on. The second gives the command the outcomes of one photo again and again, as actors would, to see how many a
second it writes. The third makes outcomes of 4 MB, together three times as many as the object store holds,
and reads them slowly.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from harness import (
    MIB,
    argument_parser,
    describe_machine,
    resident_bytes,
    run_script,
    table_head,
    table_row,
)

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import load_backbone
from lost_reg.discovery.features import FeatureConfig
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import Decoding
from lost_reg.images.sources import list_images
from lost_reg.notebook.discover import discover
from lost_reg.ray import RayEngine
from lost_reg.ray.cluster import OBJECT_STORE_BYTES
from lost_reg.ray.inputs import as_table, rows_of
from lost_reg.ray.workers import Report
from lost_reg.runs.batches import decoding_of
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files
from lost_reg.types import Failure, Prediction

ROWS = 256  # images of a block, as on GPUs
HEAVY = 4 * 10**6  # bytes
PAUSE = 0.02  # seconds for each outcome


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--copies", type=int, default=1, help="of each photo, as hard links")
    parser.add_argument("--actors", type=int, help="by default as many as `--engine ray` chooses")
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--outcomes", type=int, default=200_000)
    parser.add_argument("--slow-writer", action="store_true")
    given = parser.parse_args()
    print(describe_machine())
    if given.command:
        measure_command(given.photos, given.outcomes)
    elif given.slow_writer:
        measure_slow_writer(given.photos, given.actors)
    else:
        measure_overhead(given)


# --- beside a plain run ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """seconds: of the whole command. cores: seconds of all its processes. steady: images per second from the
    first outcomes on. peak: in bytes, of the command's own process."""

    images: int
    seconds: float
    cores: float
    steady: float
    peak: int


def measure_overhead(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=given.photos.parent) as folder:
        photos = linked(given.photos, Path(folder) / "photos", given.copies)
        actors = ("--actors", str(given.actors)) if given.actors else ()
        kinds = {"plain": (), "ray": ("--engine", "ray", *actors)}
        head = ["run", "images", "seconds", "core seconds", "images/s once it runs", "MiB of the command"]
        print("\n" + table_head(head))
        for name, options in kinds.items():
            one = timed(photos, Path(folder) / name, *options)
            numbers = [f"{number:.1f}" for number in (one.seconds, one.cores, one.steady)]
            print(table_row([name, f"{one.images:,}", *numbers, f"{one.peak / MIB:.0f}"]), flush=True)
        same = {tuple(sorted((Path(folder) / name / "predictions.jsonl").open())) for name in kinds}
        print("\nsame predictions:", "yes" if len(same) == 1 else "no")


def linked(photos: Path, folder: Path, copies: int) -> Path:
    """A folder with each photo several times."""
    for path in photos.rglob("*.jpg"):
        for copy in range(copies):
            target = folder / f"{copy}" / path.relative_to(photos)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return folder


def timed(photos: Path, out: Path, *options: str) -> Timed:
    """Run a command and watch its run folder, its memory and its processes."""
    command = [sys.executable, "-m", "lost_reg", "run", str(photos), "-b", "tiny", "--device", "cpu"]
    lines, peak, times, cores = out / "predictions.jsonl", 0, [], {}
    began = time.perf_counter()
    process = psutil.Popen([*command, "--out", str(out), *options], stdout=-3, stderr=-3)

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss - process.memory_info().shared)
                for one in (process, *process.children(recursive=True)):
                    cores[one.pid] = sum(one.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
            count = lines.read_bytes().count(b"\n") if lines.exists() else 0
            if count and (not times or count > times[-1][1]):
                times.append((time.perf_counter(), count))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit(f"failed: {' '.join([*command, *options])}")
    watcher.join()
    seconds, images = time.perf_counter() - began, lines.read_bytes().count(b"\n")
    (first, before), (last, after) = times[0], times[-1]
    steady = (after - before) / max(last - first, 1e-9)
    return Timed(images, seconds, sum(cores.values()), steady, peak)


# --- the command -------------------------------------------------------------------------------------


class Replayed:
    """An engine whose actors have done all: it gives reports on 256 images each, pickled."""

    parquet, facts = None, {}

    def __init__(self, prediction: Prediction, count: int):
        self._prediction, self._blocks = prediction, -(-count // ROWS)
        self.seconds, self.memory = 0.0, list[int]()

    def outcomes(self, images: object, job: object, backbone: object) -> Iterator[Prediction]:
        for block in range(self._blocks):
            found = [replace(self._prediction, image=f"{block:06}/{row:06}.jpg") for row in range(ROWS)]
            table = as_table(Report(found))
            began = time.process_time()
            yield from chain.from_iterable(report.outcomes for report in rows_of(table))
            self.seconds += time.process_time() - began
            self.memory.append(resident_bytes())

    def check(self, images: object, limit: object) -> None:
        """All is well."""

    def done(self) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


def measure_command(photos: Path, count: int) -> None:
    backbone, found = load_backbone("tiny", device="cpu"), list_images([photos])
    source = source_of_files(found, [str(photos)])
    (prediction,) = discover(found.root / found.names[0], backbone=backbone)
    with tempfile.TemporaryDirectory() as folder:
        engine = Replayed(prediction, count)
        run(source, backbone, Path(folder) / "out", options=RunOptions(engine=engine))
        size = (Path(folder) / "out" / "predictions.jsonl").stat().st_size
    outcomes = engine._blocks * ROWS
    print(
        f"\n{outcomes:,} outcomes, {size / outcomes:.0f} bytes each, were read and written in "
        f"{engine.seconds:.1f} core seconds: {outcomes / engine.seconds:,.0f} a second; "
        f"{engine.memory[0] / MIB:.0f} MiB after the first {ROWS}, {engine.memory[-1] / MIB:.0f} at the end"
    )


# --- a slow writer -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heavy:
    """A job with an outcome of HEAVY bytes for each image."""

    loader: LoaderOptions

    def decoding(self, patch_size: int) -> Decoding:
        return decoding_of(patch_size, FeatureConfig(), self.loader)

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[Any]:
        for batch in batches:
            yield from () if isinstance(batch, Failure) else (bytes(HEAVY) for _ in batch)


def measure_slow_writer(photos: Path, actors: int) -> None:
    found = list_images([photos])
    copies = -(-3 * OBJECT_STORE_BYTES // (HEAVY * found.count))
    named = [(name, found.root / name) for name in found.names] * copies
    load = partial(load_backbone, "tiny", device="cpu")
    engine, spilled, outcomes = RayEngine(load, actors=actors), 0, 0
    for _ in engine.outcomes(named, Heavy(LoaderOptions(workers=1)), load()):
        outcomes += 1
        spilled = max(spilled, bytes_spilled())
        time.sleep(PAUSE)
    engine.close()
    print(
        f"\n{outcomes} outcomes of {HEAVY / 1e6:.0f} MB through an object store of "
        f"{OBJECT_STORE_BYTES / 1e6:.0f} MB; at most {spilled / 1e6:.0f} MB were spilled to the disk"
    )


def bytes_spilled() -> int:
    """What Ray has on the disk because its object store was full."""
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    return sum(file.stat().st_size for file in session.glob("ray_spilled_objects*/*"))


if __name__ == "__main__":
    run_script(main)
