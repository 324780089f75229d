"""What images cost before they are run: arithmetic operations and memory; and whether a machine has them.

Operations count a multiplication and an addition as two, and only those of matrix products: all else in a
vision transformer is a few per cent of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F
from torch import nn

from lost_reg.backbones.vit import PRECISIONS, Backbone, VitBackbone, facet_layer
from lost_reg.discovery.lost import AFFINITIES_AT_ONCE
from lost_reg.errors import UnreadableImage
from lost_reg.images.decoding import ImageInput
from lost_reg.images.reading import image_size, scaled_size
from lost_reg.types import Protocol

# Patches that keep a device busy: about eight photos of 640 x 480 in patches of 16 on a CPU.
_BUSY_PATCHES = {"cpu": 2**13, "cuda": 2**15}
_SHARE_OF_FREE_MEMORY = 0.6
SAMPLED = 64  # image headers that are looked at to judge a run
LONG_RUN_SECONDS = 3600.0
_SMALL_SIDE, _SLOW = 512, 1.5
_WORTH_MEASURING = 1e14  # operations below which no run is long: minutes at 100 billion a second
# Whole backbones reach about this share of the rate of one large matrix product (evaluation/results).
_USUAL_SHARE_OF_RATE = 0.6


def patch_count(padded_hw: tuple[int, int], patch_size: int) -> int:
    """Patches of an image of this size in pixels, rounded up to whole patches."""
    return math.prod(-(-side // patch_size) for side in padded_hw)


def feature_operations(backbone: VitBackbone, size_hw: tuple[int, int], layer: int = -1) -> float:
    """Operations for one facet of a layer's qkv, for one image; only what is needed for it counts."""
    model = backbone.model
    patches = patch_count(size_hw, backbone.patch_size)
    tokens = patches + backbone.prefix_tokens
    index = backbone.block_index(layer)
    weights = patches * model.patch_embed.proj.weight.numel()
    weights += tokens * sum(_linear_weights(block) for block in model.blocks[:index])
    weights += patches * _facet_weights(model.blocks[index])
    attention = index * 2 * tokens**2 * model.embed_dim  # queries with keys, and weights with values
    return 2.0 * (weights + attention)


def forward_operations(backbone: VitBackbone, size_hw: tuple[int, int]) -> float:
    """Operations of the whole model, for one image."""
    model, patches = backbone.model, patch_count(size_hw, backbone.patch_size)
    tokens = patches + backbone.prefix_tokens
    last = tokens * _linear_weights(model.blocks[-1]) + 2 * tokens**2 * model.embed_dim
    facet = patches * _facet_weights(model.blocks[-1])
    return feature_operations(backbone, size_hw) + 2.0 * (last - facet)


def gram_operations(backbone: VitBackbone, size_hw: tuple[int, int]) -> float:
    """Operations of LOST's one Gram matrix."""
    return 2.0 * patch_count(size_hw, backbone.patch_size) ** 2 * backbone.model.embed_dim


def peak_bytes(backbone: VitBackbone, padded_hw: tuple[int, int], images: int = 1) -> float:
    """Memory that a batch takes at its peak, beside the weights: an estimate on the large side.

    The most is held either by a block's attention or by its MLP. Affinities are never held all at once.
    """
    model = backbone.model
    patches = patch_count(padded_hw, backbone.patch_size)
    tokens = patches + backbone.prefix_tokens
    hidden = max(m.out_features for m in model.blocks[0].modules() if isinstance(m, nn.Linear))
    width = 2 * model.embed_dim + 2 * max(hidden, 3 * model.embed_dim)
    activations = tokens * width * PRECISIONS[backbone.precision].itemsize
    if getattr(model, "rope", None) is not None:  # queries and keys, turned in float32, and what that takes
        activations += 4 * tokens * model.embed_dim * 4
    pixels = 3 * math.prod(padded_hw) * (1 + 4 + PRECISIONS[backbone.precision].itemsize)
    features = 3 * patches * model.embed_dim * 4
    affinities = 2 * 4 * max(min(AFFINITIES_AT_ONCE, images * patches**2), images * patches)
    return images * (pixels + max(activations, features)) + affinities


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device, what torch keeps in reserve included."""
    if device.type != "cuda":
        return float(psutil.virtual_memory().available)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + reserved)


def pixels_at_once(backbone: Backbone) -> float:
    """Pixels in a batch that keep the device busy and fit its free memory."""
    busy = _BUSY_PATCHES.get(backbone.device.type, _BUSY_PATCHES["cpu"]) * backbone.patch_size**2
    if not isinstance(backbone, VitBackbone):
        return busy
    # memory grows with pixels, as attention never holds a square of the patches: any size tells
    side = 32 * backbone.patch_size
    per_pixel = peak_bytes(backbone, (side, side), 64) / (64 * side**2)
    return min(busy, _SHARE_OF_FREE_MEMORY * free_bytes(backbone.device) / per_pixel)


@dataclass(frozen=True)
class Forecast:
    """What a run will take, by the sizes of a sample of its images.

    seconds: at the device's measured rate, or None where no run of this size is long.
    largest_hw: of the sample; its_bytes: what it needs; free: what there is.
    precision: the one that is asked for; slowdown: how many times slower than float32 its arithmetic is, or
        None if it is not.
    """

    images: int
    seconds: float | None
    largest_hw: tuple[int, int]
    its_bytes: float
    free: float
    precision: str = "fp32"
    slowdown: float | None = None

    def warnings(self, protocol: Protocol) -> list[str]:
        """A line for each thing to know before the run starts, with the option that helps."""
        lines = []
        height, width = self.largest_hw
        if self.its_bytes > self.free:
            lines.append(
                f"images of {width} x {height} pixels need about {self.its_bytes / 2**30:.1f} GiB each and "
                f"{self.free / 2**30:.1f} GiB are free: --max-side scales them down"
            )
        if self.slowdown:
            lines.append(
                f"{self.precision} arithmetic is about {self.slowdown:.1f} times slower than fp32 on this "
                "processor: --precision fp32 is quicker"
            )
        if self.seconds and self.seconds > LONG_RUN_SECONDS:
            smaller = max(1, min(protocol.max_side or max(self.largest_hw), max(self.largest_hw)) // 2)
            lines.append(
                f"about {self.seconds / 3600:.1f} hours for {self.images:,} images on this device; "
                f"--max-side {smaller} would take less than a quarter of it, at another resolution"
            )
        return lines


def forecast(
    sample: Iterable[ImageInput], images: int | None, backbone: Backbone, protocol: Protocol, devices: int = 1
) -> Forecast | None:
    """Judge a run by the headers of a few of its images.

    Args:
        sample: paths or encoded images, such as SAMPLED of them.
        images: how many there are, or None if that is not known.
        devices: how many share them.

    Returns:
        None for a function as backbone, of which nothing is known, or if no header can be read.
    """
    sizes = [size for image in sample if (size := _header_size(image))]
    if not sizes or not isinstance(backbone, VitBackbone):
        return None
    sizes = [scaled_size(size, protocol.max_side) for size in sizes]
    grams = protocol.max_objects  # one for each object that is looked for
    work = [
        feature_operations(backbone, s, protocol.layer) + grams * gram_operations(backbone, s) for s in sizes
    ]
    total = sum(work) / len(work) * (images or 0) / devices
    largest = max(sizes, key=math.prod)
    seconds, slowdown = None, precision_slowdown(backbone.device, backbone.precision)
    if total > _WORTH_MEASURING:
        seconds = total / (_USUAL_SHARE_OF_RATE * matrix_rate(backbone.device, backbone.precision))
    return Forecast(
        images or 0, seconds, largest, peak_bytes(backbone, largest), free_bytes(backbone.device),
        backbone.precision, slowdown,
    )  # fmt: skip


def precision_slowdown(device: torch.device, precision: str) -> float | None:
    """How many times slower than float32 the arithmetic of a precision is on a processor that emulates it.

    Returns:
        None where it is as fast, or nearly; that of GPUs is.
    """
    if precision == "fp32" or device.type != "cpu":
        return None
    exact, asked = (matrix_rate(device, one, side=_SMALL_SIDE) for one in ("fp32", precision))
    return exact / asked if exact > _SLOW * asked else None


def matrix_rate(device: torch.device, precision: str, side: int = 0, repeats: int = 3) -> float:
    """Operations a second of a large matrix product on a device, the best of a few.

    side: of the square matrices; 0 chooses by the device.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        _wait_for(device)
        began = time.perf_counter()
        F.linear(a, b)  # of emulated float16, what models run is ten times as fast as a @ b
        _wait_for(device)
        seconds.append(time.perf_counter() - began)
    return 2.0 * side**3 / min(seconds[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _facet_weights(block: nn.Module) -> int:
    return facet_layer(block.attn, "k")[0].numel()


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _header_size(source: ImageInput) -> tuple[int, int] | None:
    try:
        return image_size(source)
    except UnreadableImage:  # the run itself says what is wrong with it
        return None
