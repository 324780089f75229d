"""Estimates, before a run starts, of whether it fits in memory and how long it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F

from lost_reg.backbones.base import PRECISIONS, Backbone
from lost_reg.discovery.method import Method
from lost_reg.discovery.methods import Setting
from lost_reg.images.decoding import ImageInput
from lost_reg.images.reading import patches_of, scaled_size
from lost_reg.images.sizes import header_sizes
from lost_reg.runs.options import LoaderOptions
from lost_reg.text import counted

# Patches that keep a device busy: about eight photos of 640 x 480 in patches of 16 on a CPU.
_BUSY_PATCHES = {"cpu": 2**13, "cuda": 2**15}
_SHARE_OF_FREE_MEMORY = 0.6
SAMPLED = 64  # image headers that are read to estimate the cost of a run
_SECONDS_FOR_HEADERS = 30.0  # for all of them: a slow drive delays a run no longer
LONG_RUN_SECONDS = 3600.0
_SMALL_SIDE, _SLOW = 512, 1.5
_WORTH_MEASURING = 1e14  # operations below which no run is long: minutes at 100 billion per second
# Whole backbones reach about this share of the rate of one large matrix product (evaluation/results).
_USUAL_SHARE_OF_RATE = 0.6


def setting_operations(backbone: Backbone, setting: Setting, size_hw: tuple[int, int]) -> float:
    """Operations of a setting for one image, for features and method together; 0 if not known.

    Args:
        size_hw: height and width in pixels of the image that the backbone gets.
    """
    cost, features = backbone.cost, setting.features
    if cost is None:
        return 0.0
    deepest = max(backbone.block_index(layer) for layer in features.layers)
    width = cost.width * len(features.parts)
    of_features = cost.feature_operations(size_hw, deepest, facets=len(features.parts))
    return of_features + setting.method.operations(cost.patches(size_hw), width, setting.config)


def free_bytes(device: torch.device) -> float:
    """Free memory on a device, including what torch has reserved."""
    if device.type != "cuda":
        return float(psutil.virtual_memory().available)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + reserved)


def pixels_at_once(backbone: Backbone, methods: Iterable[Method]) -> float:
    """How many pixels per batch keep the device busy and fit in its free memory, with any of the methods."""
    busy = _BUSY_PATCHES.get(backbone.device.type, _BUSY_PATCHES["cpu"]) * backbone.patch_size**2
    if backbone.cost is None:
        return busy
    # Memory is linear in pixels, since attention never stores an N x N matrix: any size will do.
    side, images = 32 * backbone.patch_size, 64
    needed = backbone.cost.peak_bytes((side, side), images)
    needed += max(method.peak_bytes(images, backbone.cost.patches((side, side))) for method in methods)
    per_pixel = needed / (images * side**2)
    return min(busy, _SHARE_OF_FREE_MEMORY * free_bytes(backbone.device) / per_pixel)


@dataclass(frozen=True)
class Forecast:
    """The cost of a run, estimated from the sizes of a sample of its images.

    images: how many are left to do.
    seconds: at the device's measured rate, or None if the run is too small to be long.
    largest_hw: the sample's largest image. needed_bytes: its memory; free: the memory available.
    precision: the run's. slowdown: how many times slower than float32 its arithmetic is, or None if it is
        not slower.
    """

    images: int
    seconds: float | None
    largest_hw: tuple[int, int]
    needed_bytes: float
    free: float
    precision: str = "fp32"
    slowdown: float | None = None

    def warnings(self, max_side: int | None) -> list[str]:
        """A line for each problem to expect in the run, with the parameter that helps.

        max_side: the run's.
        """
        lines = []
        height, width = self.largest_hw
        if self.needed_bytes > self.free:
            lines.append(
                f"images of {width} x {height} pixels need about {self.needed_bytes / 2**30:.1f} GiB each, "
                f"and {self.free / 2**30:.1f} GiB are free: `max_side` scales them down"
            )
        if self.slowdown:
            lines.append(
                f"{self.precision} arithmetic is about {self.slowdown:.1f} times slower than fp32 on this "
                "processor: `precision` fp32 is faster"
            )
        if self.seconds and self.seconds > LONG_RUN_SECONDS:
            smaller = max(1, min(max_side or max(self.largest_hw), max(self.largest_hw)) // 2)
            lines.append(
                f"expected run time: {self.seconds / 3600:.1f} hours for {counted(self.images, 'image')} "
                f"here; `max_side` {smaller} would take less than a quarter of it, at another resolution"
            )
        return lines


def forecast(
    sample: Iterable[ImageInput],
    images: int | None,
    backbone: Backbone,
    setting: Setting,
    loader: LoaderOptions | None = None,
) -> Forecast | None:
    """Estimate the cost of a run from the headers of a few of its images.

    Args:
        sample: paths or encoded images, usually SAMPLED of them.
        images: how many there are, or None if not known.
        loader: images that have more than its `max_patches` do not count, since a run refuses them.

    Returns:
        None for a user's function as backbone, whose cost is not known, or if no header can be read.
    """
    if backbone.cost is None:
        return None
    sizes = list(_sizes(sample, backbone.patch_size, setting, loader or LoaderOptions()))
    if not sizes:
        return None
    operations = sum(setting_operations(backbone, setting, size) for size in sizes) / len(sizes)
    total = operations * (images or 0)
    seconds, slowdown = None, precision_slowdown(backbone.device, backbone.precision)
    if total > _WORTH_MEASURING:
        seconds = total / (_USUAL_SHARE_OF_RATE * matrix_rate(backbone.device, backbone.precision))
    largest = max(sizes, key=math.prod)
    needed = backbone.cost.peak_bytes(largest) + setting.method.peak_bytes(1, backbone.cost.patches(largest))
    return Forecast(
        images or 0, seconds, largest, needed, free_bytes(backbone.device), backbone.precision, slowdown
    )


def precision_slowdown(device: torch.device, precision: str) -> float | None:
    """How many times slower than float32 a precision is on a processor that emulates it.

    Returns:
        None if it is as fast, or nearly, as on GPUs.
    """
    if precision == "fp32" or device.type != "cpu":
        return None
    exact, asked = (matrix_rate(device, one, side=_SMALL_SIDE) for one in ("fp32", precision))
    return exact / asked if exact > _SLOW * asked else None


def matrix_rate(device: torch.device, precision: str, side: int = 0, repeats: int = 3) -> float:
    """Operations per second in a large matrix product on a device, the best of `repeats`.

    side: of the square matrices; 0 chooses one for the device.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        _wait_for(device)
        began = time.perf_counter()
        F.linear(a, b)  # what models use; in emulated float16 ten times as fast as a @ b
        _wait_for(device)
        seconds.append(time.perf_counter() - began)
    return 2.0 * side**3 / min(seconds[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sizes(
    sample: Iterable[ImageInput], patch_size: int, setting: Setting, loader: LoaderOptions
) -> Iterator[tuple[int, int]]:
    """The sizes, once scaled, of the images that a run takes, as far as headers tell."""
    end = time.monotonic() + _SECONDS_FOR_HEADERS
    for size_hw in header_sizes(sample, workers=loader.workers):
        if size_hw:
            scaled_hw = scaled_size(size_hw, setting.features.max_side, setting.features.square)
            if loader.max_patches is None or patches_of(scaled_hw, patch_size) <= loader.max_patches:
                yield scaled_hw
        if time.monotonic() > end:
            return
