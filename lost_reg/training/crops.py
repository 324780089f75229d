"""The class token of each box: its crop from the normalised image, through the backbone.

As in LOST's OD (Siméoni et al. 2021): the shorter side is scaled to 256 pixels, bicubic. Here each side is
rounded to whole patches, where LOST drops the remainder, and none is longer than LONGEST_SIDE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.backbones.base import Backbone, normalized
from lost_reg.boxes import whole_pixels
from lost_reg.errors import LostRegError, UnreadableImage, one_line
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import Reading, read_image
from lost_reg.types import Box, Prediction

SHORTER_SIDE = 256  # pixels
LONGEST_SIDE = 1024  # of the crop of a long strip, whose shorter side is shorter then

Key = tuple[str, int]  # an image, and the index of one of its objects


def class_tokens(
    crops: Iterable[tuple[Key, Tensor]], backbone: Backbone, batch_size: int
) -> Iterator[tuple[Key, np.ndarray]]:
    """The class token of each crop, (D,) float32 of L2 norm 1; crops of one size run together.

    Args:
        crops: (3, H, W) each, normalised, on the backbone's device.

    Yields:
        The crop's key and token. Crops of one size run together, so the order changes.

    Raises:
        LostRegError: a token that is not finite, or a crop that does not fit in memory.
    """
    waiting: dict[torch.Size, list[tuple[Key, Tensor]]] = {}
    for key, crop in crops:
        group = waiting.setdefault(crop.shape, [])
        group.append((key, crop))
        if len(group) == batch_size:
            yield from _tokens_of(waiting.pop(crop.shape), backbone)
        elif sum(map(len, waiting.values())) > 8 * batch_size:  # rare sizes do not fill the memory
            yield from _tokens_of(waiting.pop(next(iter(waiting))), backbone)
    for group in waiting.values():
        yield from _tokens_of(group, backbone)


def _tokens_of(group: list[tuple[Key, Tensor]], backbone: Backbone) -> Iterator[tuple[Key, np.ndarray]]:
    keys, crops = zip(*group)
    try:
        tokens = backbone.class_tokens(torch.stack(crops)).float()
    except torch.OutOfMemoryError:
        raise LostRegError(
            f"out of memory on {backbone.device}: what was done is kept; continue with a smaller `batch_size`"
        ) from None
    if not tokens.isfinite().all():
        raise LostRegError(backbone.not_finite(f"class tokens of crops of {one_line(keys[0][0])} are"))
    yield from zip(keys, F.normalize(tokens, dim=1).cpu().numpy())


def crops_of(
    prediction: Prediction, indices: Iterable[int], file: Path, backbone: Backbone, reading: Reading
) -> Iterator[tuple[Key, Tensor]]:
    """The crops of some of an image's objects, normalised and scaled: (3, H, W) in whole patches.

    Raises:
        LostRegError: an image that cannot be read, or has another size than in the run.
    """
    name = one_line(prediction.image)
    try:
        pixels = read_image(file, **reading)
    except UnreadableImage as error:
        raise LostRegError(f"{name} of the run {error}: what was done is kept") from None
    size_hw = pixels.shape[:2]
    if size_hw != tuple(prediction.size_hw):
        raise LostRegError(f"{name} has another size than in the run: what was done is kept")
    image = normalized([DecodedImage(prediction.image, pixels, size_hw, size_hw)], backbone)  # (1, 3, H, W)
    for index in indices:
        box = prediction.objects[index].box_xyxy
        yield (prediction.image, index), scaled_crop(image, box, backbone.patch_size)


def scaled_crop(image: Tensor, box_xyxy: Box, patch_size: int) -> Tensor:
    """A box of a normalised image, (1, 3, H, W), scaled: (3, h, w), multiples of the patch size."""
    _, _, height, width = image.shape
    left, top, right, bottom = whole_pixels(box_xyxy, (height, width))
    size_hw = scaled_hw((bottom - top, right - left), patch_size)
    crop = image[:, :, top:bottom, left:right]
    return F.interpolate(crop, size=size_hw, mode="bicubic", antialias=True)[0]


def scaled_hw(size_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """The height and width that a crop is scaled to, in pixels: whole patches.

    Example: scaled_hw((100, 200), 16) == (256, 512)
    """
    scale = min(SHORTER_SIDE / min(size_hw), LONGEST_SIDE / max(size_hw))
    height, width = (max(1, round(side * scale / patch_size)) * patch_size for side in size_hw)
    return height, width
