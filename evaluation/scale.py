"""Memory and speed over many images: photos in a folder, a million paths of a list, tar shards.

    python evaluation/scale.py                             all of it
    python evaluation/scale.py photos [--photos 20000]     only a part: photos, listing, list, shards
    python evaluation/scale.py list shards --ray           spread by Ray, with two actors

- photos: a run of `tiny` on many names of 20 photos, a quarter of benchmark.py's in width and height
- listing: the time and memory that it takes to list a folder
- list, shards: tiny images by a function that costs next to nothing, so that what is measured is all that is
  around a backbone: reading the list, decoding in processes, batches, LOST, and writing results

Prints, as a run goes on, the memory of its own process and of those that decode, and the speed.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import (
    MIB,
    argument_parser,
    bytes_of_children,
    describe_machine,
    make_photos,
    resident_bytes,
    run_script,
    seconds,
    source_of_folder,
    table_head,
    table_row,
)
from PIL import Image

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.images.shards import find_shards
from lost_reg.images.sources import ListedFiles, list_images
from lost_reg.ray import RayEngine
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import Source, source_of_files

ROWS = 10  # of a table, about
SIDE = 32  # pixels of a tiny image, which is 4 x 4 patches
IN_A_FOLDER = 1000  # links to one file or folder: a file system has a limit


def main() -> None:
    options = parse()
    print(describe_machine())
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--photos", type=int, default=20_000, help="names of photos")
    parser.add_argument("--files", type=int, default=200_000, help="files in the folder that is listed")
    parser.add_argument("--entries", type=int, default=1_000_000, help="paths in the list")
    parser.add_argument("--shard-images", type=int, default=100_000)
    parser.add_argument("--ray", action="store_true", help="spread the list and the shards by Ray")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: choose among {', '.join(PARTS)}")
    return options


# --- the parts ---------------------------------------------------------------------------------------


def measure_photos(folder: Path, options: argparse.Namespace) -> None:
    originals, photos = folder / "originals", folder / "photos"
    originals.mkdir()
    make_photos(originals, 20, shrink=4)
    photos.mkdir()
    files = sorted(originals.iterdir())
    for index in range(options.photos):
        (photos / f"{index:07}.jpg").hardlink_to(files[index % len(files)])
    title, backbone = f"{options.photos:,} photos, `tiny`", load_backbone("tiny", device="cpu")
    source = source_of_folder(photos)
    measure_run(title, source, options.photos, backbone, folder / "out", RunOptions())


def measure_listing(folder: Path, options: argparse.Namespace) -> None:
    """What it takes to hold the names of a folder's files."""
    for number in range(-(-options.files // IN_A_FOLDER)):
        image = make_tiny_images(folder / f"{number:04}", 1)[0]
        for name in range(1, min(IN_A_FOLDER, options.files - IN_A_FOLDER * number)):
            (image.parent / f"{name:06}.jpg").hardlink_to(image)
    before, began = resident_bytes(), time.perf_counter()
    listed = list_images([folder])
    taken = time.perf_counter() - began
    each = (resident_bytes() - before) / listed.count
    print(
        f"\nListing a folder of {listed.count:,} files: {taken:.1f} s and {each:.0f} bytes each", flush=True
    )


def measure_list(folder: Path, options: argparse.Namespace) -> None:
    """Many different paths to a thousand images, through links to their folder."""
    names = [path.name for path in make_tiny_images(folder / "images", IN_A_FOLDER)]
    listed = folder / "list"
    with listed.open("w") as file:
        for number in range(-(-options.entries // IN_A_FOLDER)):
            (folder / f"link{number}").symlink_to(folder / "images")
            left = options.entries - IN_A_FOLDER * number
            file.writelines(f"{folder}/link{number}/{name}\n" for name in names[:left])
    source = source_of_files(ListedFiles.read(str(listed)), ["list"])
    title = f"A list of paths, {options.entries:,} images of {SIDE} x {SIDE} pixels"
    measure_run(title, source, options.entries, cheap_backbone(), folder / "out", many_at_once(options))


def measure_shards(folder: Path, options: argparse.Namespace) -> None:
    make_shards(folder / "shards", options.shard_images)
    source = source_of_files(find_shards([str(folder / "shards" / "*.tar")]), ["shards"])
    title = f"Tar shards, {options.shard_images:,} images of {SIDE} x {SIDE} pixels"
    measure_run(title, source, options.shard_images, cheap_backbone(), folder / "out", many_at_once(options))


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "photos": measure_photos,
    "listing": measure_listing,
    "list": measure_list,
    "shards": measure_shards,
}


def many_at_once(options: argparse.Namespace) -> RunOptions:
    engine = RayEngine(cheap_backbone, actors=2) if options.ray else None
    return RunOptions(LoaderOptions(batch_size=64), engine=engine)


def measure_run(
    title: str, source: Source, count: int, backbone: Backbone, out: Path, options: RunOptions
) -> None:
    """Run over `count` images and print a row now and then; then what resuming takes with all done."""
    print(f"\n{title}\n")
    print(table_head(["images", "MiB in this process", "MiB of its decoding processes", "images/s so far"]))
    began, every = time.perf_counter(), max(1, count // ROWS)

    def progress(done: int, failed: int, total: int | None) -> None:
        if done % every == 0 or done == 1:
            rate = done / (time.perf_counter() - began)
            print(table_row([f"{done:,}", *memory(), f"{rate:,.0f}"]), flush=True)

    summary = run(source, backbone, out, options=options, progress=progress)
    assert (summary.done, summary.failed) == (count, 0)
    resuming = replace(options, resume=True)
    taken = seconds(lambda: run(source, backbone, out, options=resuming))
    print(f"\n`--resume` with all done: {taken:.0f} s, {memory()[0]} MiB", flush=True)


def memory() -> list[str]:
    """MiB of this process, and of those that decode."""
    return [f"{size / MIB:,.0f}" for size in (resident_bytes(), bytes_of_children())]


# --- tiny images and what they cost ------------------------------------------------------------------


def cheap_backbone() -> Backbone:
    torch.set_num_threads(1)  # on small tensors, threads cost more than they give
    return load_backbone(patch_means, device="cpu", preprocessing=Preprocessing(patch_size=8))


def patch_means(images: torch.Tensor) -> torch.Tensor:
    """(B, N, 3) mean colours of patches of 8 x 8 pixels."""
    return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT


def make_tiny_images(folder: Path, count: int) -> list[Path]:
    """Files of noise."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for path, content in zip(paths, tiny_jpegs()):
        path.write_bytes(content)
    return paths


def make_shards(folder: Path, count: int) -> None:
    """Shards of a thousand images each, all the same."""
    folder.mkdir()
    content = next(tiny_jpegs())
    for number in range(-(-count // IN_A_FOLDER)):
        with tarfile.open(folder / f"shard-{number:04}.tar", "w") as tar:
            for key in range(min(IN_A_FOLDER, count - IN_A_FOLDER * number)):
                member = tarfile.TarInfo(f"{number:04}{key:04}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def tiny_jpegs() -> Iterator[bytes]:
    """Encoded images of noise without end, the same in each call."""
    random = np.random.default_rng(0)
    while True:
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(stream, "JPEG")
        yield stream.getvalue()


if __name__ == "__main__":
    run_script(main)
