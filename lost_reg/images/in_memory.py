"""Images that a Python program already has in memory: arrays, PIL images and tensors, besides paths."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image as PilImage

from lost_reg.errors import LostRegError
from lost_reg.images.colours import WHITE
from lost_reg.images.decoding import NamedImage
from lost_reg.images.reading import flattened
from lost_reg.lazy import torch
from lost_reg.text import first_sentence

if TYPE_CHECKING:
    from torch import Tensor

Image = Union[str, Path, np.ndarray, PilImage.Image, "Tensor"]


def named_images(images: Image | Iterable[Image], background: str | None = WHITE) -> list[NamedImage]:
    """Names and inputs for one image or many: the path, or "[index]" for an image in memory.

    Args:
        images: paths, (H, W, 3) or (H, W) uint8 arrays, PIL images, or (3, H, W) tensors, uint8 or float in
            [0, 1].
        background: the colour under transparent PIL images; see `read_image`.

    Raises:
        LostRegError: anything else.
    """
    if isinstance(images, (str, Path, PilImage.Image)) or (
        isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim < 4
    ):
        images = [images]
    elif isinstance(images, bytes) or not isinstance(images, Iterable):
        raise _refusal(images)
    return [_named(f"[{index}]", image, background) for index, image in enumerate(images)]


def _named(place: str, image: Image, background: str | None) -> NamedImage:
    try:
        if isinstance(image, (str, Path)):
            return str(image), image
        if isinstance(image, np.ndarray):
            return place, image  # checked when it is prepared, as encoded images are
        if isinstance(image, PilImage.Image):
            return place, _pil_to_array(image, background)
        if isinstance(image, torch.Tensor):
            return place, _tensor_to_array(image)
        raise _refusal(image)
    except LostRegError as error:
        raise LostRegError(f"{place}: {error}") from None


def _refusal(image: object) -> LostRegError:
    return LostRegError(
        "expected paths, (H, W, 3) uint8 arrays, PIL images or (3, H, W) tensors, but got a "
        f"{type(image).__name__}"
    )


def _pil_to_array(image: PilImage.Image, background: str | None) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise LostRegError(f"PIL images of mode {image.mode} are not supported: convert it to RGB")
    try:
        return np.asarray(flattened(image, background))
    except Exception as error:  # its file is only read now, and may be damaged in any way
        raise LostRegError(f"cannot be decoded: {first_sentence(error)}") from None


def _tensor_to_array(image: Tensor) -> np.ndarray:
    """(3, H, W) uint8, or float in [0, 1], to (H, W, 3) uint8."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise LostRegError(f"expected a tensor of shape (3, H, W), but got {tuple(image.shape)}")
    image = image.detach().cpu()
    if image.is_floating_point():
        if not ((image >= 0) & (image <= 1)).all():
            raise LostRegError("expected a float tensor in [0, 1], before any normalisation")
        image = (image.float() * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise LostRegError(f"expected a uint8 or float tensor, but got {image.dtype}")
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
