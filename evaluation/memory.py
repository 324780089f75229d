"""Whether memory is bounded: what a run over many files, hard links to a few, holds on the way.

python evaluation/memory.py [--images 20000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import psutil
import torch
from benchmark import machine, make_photos, uss

from lost_reg.backbones.loading import load_backbone
from lost_reg.images.files import list_images
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    print(machine(torch.device("cpu")))
    print("\n| images done | MiB in this process | MiB of its decoding processes alone |\n|---|---|---|")
    backbone = load_backbone("tiny", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        link_photos(photos, options.images)
        source = source_of_files(list_images([photos]), [])
        run(source, backbone, Path(folder, "out"), progress=print_every_tenth)


def link_photos(folder: Path, count: int) -> None:
    """So many names for 20 photos, a quarter of the benchmark's in width and height."""
    originals = folder.parent / "originals"
    originals.mkdir()
    folder.mkdir()
    make_photos(originals, 20, shrink=4)
    files = sorted(originals.iterdir())
    for index in range(count):
        os.link(files[index % len(files)], folder / f"{index:07}.jpg")


def print_every_tenth(done: int, failed: int, total: int) -> None:
    if done and done % (total // 10) == 0:
        process = psutil.Process()
        workers = sum(uss(child) for child in process.children(recursive=True))
        print(f"| {done:,} | {process.memory_info().rss / 2**20:,.0f} | {workers / 2**20:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
