"""What the scripts of this folder share: options, the machine in words, timing, memory, tables, photos."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil
import timm
import torch

from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import find_device
from lost_reg.backbones.vit import VitBackbone
from lost_reg.errors import LostRegError, one_line
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import pad_to_patches, read_image
from lost_reg.images.sources import list_images
from lost_reg.runs.sources import Source, source_of_files

# (width, height) of photos: how many of 20 have it, about as in VOC (the first three) and COCO
PHOTO_SIZES = {(500, 375): 6, (375, 500): 2, (500, 333): 2, (640, 480): 6, (480, 640): 2, (640, 427): 2}
MIB = 2**20

# --- options and errors ------------------------------------------------------------------------------


def argument_parser(description: str, *, device: bool = False) -> argparse.ArgumentParser:
    """A parser whose help shows a script's docstring as it is written.

    device: whether there is an option --device, read as a torch.device.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    if device:
        parser.add_argument(
            "--device", type=find_device, default="auto", help="default: cuda if there is any"
        )
    return parser


def run_script(main: Callable[[], None]) -> None:
    """Run a script; what its user can mend becomes one line instead of a traceback."""
    try:
        main()
    except (LostRegError, OSError) as error:
        sys.exit(f"Error: {one_line(str(error))}")


# --- the machine and time ----------------------------------------------------------------------------


def describe_machine(device: torch.device | None = None) -> str:
    """What figures were measured on: the processor, the GPU if `device` is one, and versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")}
    gpu = f", {torch.cuda.get_device_name(device)}" if device is not None and device.type == "cuda" else ""
    return (
        f"{', '.join(models) or platform.processor()}, {os.cpu_count()} cores{gpu}; "
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    )


def seconds(work: Callable[[], object], device: torch.device | None = None) -> float:
    """How long `work` takes, until the device has finished it."""
    _wait_for(device)
    began = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rounds(tasks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Values that are measured side by side: in each round every task has its turn.

    A machine's speed drifts, so ratios are to be taken within rounds: see `ratios`.

    Returns:
        For each task its value in each round.
    """
    taken = [{name: measure() for name, measure in tasks.items()} for _ in range(rounds)]
    return {name: [one[name] for one in taken] for name in tasks}


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """The quotient of two tasks in each round."""
    return [value / other for value, other in zip(values, others, strict=True)]


def median_and_range(values: Sequence[float], form: str = ".2f") -> str:
    """Such as "2.62 (2.16 to 2.68)"."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


# --- memory ------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """The memory that this process holds."""
    return psutil.Process().memory_info().rss


def bytes_of_children() -> int:
    """The memory of this process's own processes, such as those that decode; what they share is left out."""
    return sum(_unshared_bytes(child) for child in psutil.Process().children(recursive=True))


def _unshared_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_full_info().uss
    return 0


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """A function that gives the most bytes that this process and its children have held meanwhile."""
    peak, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            peak = max(peak, resident_bytes() + bytes_of_children())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        stop.set()
        thread.join()


# --- tables ------------------------------------------------------------------------------------------


def table_head(header: Sequence[str]) -> str:
    """The first two lines of a Markdown table."""
    return f"{table_row(header)}\n|{'---|' * len(header)}"


def table_row(cells: Sequence[object]) -> str:
    """A line of a Markdown table."""
    texts = (str(cell).replace("|", "/") for cell in cells)
    return "|" + "".join(f" {text} |" if text else " |" for text in texts)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A whole Markdown table."""
    return "\n".join([table_head(header), *map(table_row, rows)])


# --- images and models to measure with ---------------------------------------------------------------


def make_photos(folder: Path, count: int, shrink: int = 1) -> None:
    """Write JPEG files of PHOTO_SIZES in their shares, with detail at every scale.

    Their half a byte a pixel is that of COCO's.

    shrink: by how much width and height are divided.
    """
    random = np.random.default_rng(0)
    sizes = [size for size, share in PHOTO_SIZES.items() for _ in range(share)]
    for index in range(count):
        # 7 and 20 have no common factor, so the shares are kept
        width, height = (side // shrink for side in sizes[index * 7 % len(sizes)])
        pixels = np.full((height, width, 3), 128, np.float32)
        for cells in 2 ** np.arange(2, 10):
            grid = random.standard_normal((cells, cells, 3), dtype=np.float32)
            pixels += 70 / cells**0.35 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        path = str(folder / f"{index:05}.jpg")
        cv2.imwrite(path, pixels.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])


def source_of_folder(folder: Path) -> Source:
    """The images of a folder, for `run` and `sweep`."""
    return source_of_files(list_images([folder]), [])


def decoded(path: Path, patch_size: int) -> DecodedImage:
    """An image as a run decodes it for a dataset: EXIF orientation not applied, padded to whole patches."""
    pixels = read_image(path, apply_exif=False)
    return DecodedImage(path.name, pad_to_patches(pixels, patch_size), pixels.shape[:2], pixels.shape[:2])


def timm_model(backbone: VitBackbone) -> torch.nn.Module:
    """timm's own model of a backbone's architecture, on its device and in its precision."""
    spec = backbone.spec
    with backbone.device:  # where random numbers are made fastest
        model = timm.create_model(spec.architecture, num_classes=0, dynamic_img_size=True, **spec.model_args)
    return model.eval().requires_grad_(False).to(backbone.device, PRECISIONS[backbone.precision])
