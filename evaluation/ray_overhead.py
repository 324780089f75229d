"""A run by --engine ray beside a plain run of the same photos: speed, and the driver's memory.

    python evaluation/ray_overhead.py PHOTOS [--copies 1] [--actors 2]

Both run `tiny` in processes of their own, one after the other. The seconds are of the whole command, the rate
counts from the first outcomes on, so without the start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Timed:
    """seconds: of the whole command. steady: images per second from the first outcomes on. peak: in bytes,
    of the command's own process."""

    images: int
    seconds: float
    steady: float
    peak: int


def timed(photos: Path, out: Path, *options: str) -> Timed:
    """Run a command and watch its run folder and its memory."""
    command = [sys.executable, "-m", "lost_reg", "run", str(photos), "-b", "tiny", "--device", "cpu"]
    lines, peak, times = out / "predictions.jsonl", 0, []
    began = time.perf_counter()
    process = psutil.Popen([*command, "--out", str(out), *options], stdout=-3, stderr=-3)

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss - process.memory_info().shared)
            except psutil.NoSuchProcess:
                return
            count = lines.read_bytes().count(b"\n") if lines.exists() else 0
            if count and (not times or count > times[-1][1]):
                times.append((time.perf_counter(), count))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit(f"failed: {' '.join([*command, *options])}")
    watcher.join()
    seconds, images = time.perf_counter() - began, lines.read_bytes().count(b"\n")
    (first, before), (last, after) = times[0], times[-1]
    return Timed(images, seconds, (after - before) / max(last - first, 1e-9), peak)


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--copies", type=int, default=1, help="of each photo, as hard links")
    parser.add_argument("--actors", default="2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.photos.parent) as folder:
        photos = Path(folder) / "photos"
        for path in given.photos.rglob("*.jpg"):
            for copy in range(given.copies):
                target = photos / f"{copy}" / path.relative_to(given.photos)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
        kinds = {"plain": (), "ray": ("--engine", "ray", "--actors", given.actors)}
        print("| run | images | seconds | images/s once it runs | driver's peak, MB |\n|---|---|---|---|---|")
        for name, options in kinds.items():
            one = timed(photos, Path(folder) / name, *options)
            print(f"| {name} | {one.images} | {one.seconds:.1f} | {one.steady:.1f} | {one.peak / 1e6:.0f} |")
        same = [
            sorted((Path(folder) / name / "predictions.jsonl").read_bytes().splitlines()) for name in kinds
        ]
        print("same predictions:", "yes" if same[0] == same[1] else "no")
        shutil.rmtree(photos)


if __name__ == "__main__":
    subprocess.run([sys.executable, "-c", "import ray.data"], check=True)
    main()
