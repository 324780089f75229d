"""Memory of a run over a million paths of a list, and over 100,000 tiny images in tar shards.

    python evaluation/scale.py [--entries 1000000] [--shard-images 100000]

Prints markdown: the memory of the run's own process as it goes, and the speed. The backbone is a function
that costs next to nothing, so that what is measured is all that is around it: reading the list, decoding in
processes, batches, LOST, and writing results.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.images.files import list_images
from lost_reg.images.lists import ListedFiles
from lost_reg.images.shards import find_shards
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files

PARTS = 10  # rows of the table
SIDE = 32  # pixels of an image, which is 4 x 4 patches


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        measure_listing(folder / "links", options.links)
        measure(
            "a list of paths",
            ListedFiles.read(str(make_list(folder, options.entries))),
            options.entries,
            folder,
        )
        make_shards(folder / "shards", options.shard_images)
        shards = find_shards([str(folder / "shards" / "*.tar")])
        measure("tar shards", shards, options.shard_images, folder)


def measure(what: str, images, count: int, folder: Path) -> None:
    """Run over the images, and print a row now and then."""
    process, began = psutil.Process(), time.perf_counter()
    print(f"\n{what}, {count:,} images of {SIDE} x {SIDE} pixels\n")
    print("| images | memory, MB | images/s so far |\n|---|---|---|", flush=True)
    every = max(1, count // PARTS)

    def progress(done: int, failed: int, _: int | None) -> None:
        if done % every == 0 or done == 1:
            rate = done / (time.perf_counter() - began)
            print(f"| {done:,} | {process.memory_info().rss / 1e6:.0f} | {rate:,.0f} |", flush=True)

    backbone = load_backbone(patch_means, patch_size=8, device="cpu")
    out = folder / what.replace(" ", "-")
    summary = run(source_of_files(images, [what]), backbone, out, batch_size=64, progress=progress)
    assert (summary.done, summary.failed) == (count, 0)
    began = time.perf_counter()
    summary = run(source_of_files(images, [what]), backbone, out, batch_size=64, resume=True)
    assert (summary.done, summary.done_before) == (0, count)
    taken, memory = time.perf_counter() - began, process.memory_info().rss / 1e6
    print(f"\n`--resume` of it, with all done: {taken:.0f} s, {memory:.0f} MB", flush=True)


def measure_listing(folder: Path, count: int) -> None:
    """What it takes to hold the names of a folder's files."""
    for number in range(count // 1000):
        image = make_images(folder / f"{number:04}", 1)[0]
        for name in range(1, 1000):  # a file system has a limit of links to one file
            (image.parent / f"{name:06}.jpg").hardlink_to(image)
    process, began = psutil.Process(), time.perf_counter()
    before = process.memory_info().rss
    listed = list_images([folder])
    grown = process.memory_info().rss - before
    seconds = time.perf_counter() - began
    each = grown / listed.count
    print(
        f"a folder of {listed.count:,} files: {seconds:.1f} s and {each:.0f} bytes each to list", flush=True
    )


def patch_means(images: torch.Tensor) -> torch.Tensor:
    """(B, N, 3) mean colours of patches of 8 x 8 pixels."""
    return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT


def make_list(folder: Path, count: int) -> Path:
    """A list of so many different paths to a thousand images, through links to their folder."""
    names = [path.name for path in make_images(folder / "images", 1000)]
    listed = folder / "list"
    with listed.open("w") as file:
        for number in range(-(-count // 1000)):
            (folder / f"link{number}").symlink_to(folder / "images")
            file.writelines(f"{folder}/link{number}/{name}\n" for name in names[: count - 1000 * number])
    return listed


def make_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.jpg")
    return sorted(folder.iterdir())


def make_shards(folder: Path, count: int) -> None:
    """Shards of a thousand images each."""
    folder.mkdir()
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
        stream, "JPEG"
    )
    for number in range(-(-count // 1000)):
        with tarfile.open(folder / f"shard-{number:04}.tar", "w") as tar:
            for key in range(min(1000, count - 1000 * number)):
                member = tarfile.TarInfo(f"{number:04}{key:04}.jpg")
                member.size = len(stream.getvalue())
                tar.addfile(member, io.BytesIO(stream.getvalue()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="paths in the list")
    parser.add_argument("--shard-images", type=int, default=100_000)
    parser.add_argument("--links", type=int, default=200_000, help="files in the folder that is listed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
