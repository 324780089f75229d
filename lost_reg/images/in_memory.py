"""Images that a Python program already has in memory: arrays, PIL images and tensors, besides paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image as PilImage

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.colours import WHITE
from lost_reg.images.decoding import NamedImage
from lost_reg.images.reading import flattened
from lost_reg.images.sources import list_images
from lost_reg.lazy import torch
from lost_reg.text import first_sentence, type_of
from lost_reg.types import Failure

if TYPE_CHECKING:
    from torch import Tensor

Image = Union[str, Path, np.ndarray, PilImage.Image, "Tensor"]


def named_images(
    images: Image | Iterable[Image], background: str | None = WHITE, *, skip: bool = False
) -> list[NamedImage | Failure]:
    """Names and inputs for one image or many: the path, or "[index]" for an image in memory.

    Args:
        images: paths of files, or of folders, which stand for the images below them; arrays, (H, W, 3) or
            (H, W), uint8, bool, or float in [0, 1]; PIL images; or (3, H, W) tensors, uint8 or float in
            [0, 1].
        background: the colour under transparent PIL images; see `read_image`.
        skip: give a Failure for what cannot be used, in place of an error.

    Raises:
        LostRegError: anything else.
    """
    if isinstance(images, (str, Path, PilImage.Image)) or (
        isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim < 4
    ):
        images = [images]
    elif isinstance(images, (bytes, Mapping)) or not isinstance(images, Iterable):
        raise _refusal(images)
    named: list[NamedImage | Failure] = []
    for index, image in enumerate(images):
        try:
            named += _named(f"[{index}]", image, background)
        except LostRegError as error:
            if not skip:
                raise
            named.append(Failure(_name(f"[{index}]", image), str(error)))
    return named


def _named(place: str, image: Image, background: str | None) -> list[NamedImage | Failure]:
    """One image; or all of a folder, with a Failure for each folder in it that cannot be listed."""
    if isinstance(image, (str, Path)):
        return _in_folder(image) if os.path.isdir(image) else [(str(image), image)]
    try:
        if isinstance(image, np.ndarray):
            return [(place, _to_uint8(image))]  # its shape is checked when it is prepared
        if isinstance(image, PilImage.Image):
            return [(place, _pil_to_array(image, background))]
        if isinstance(image, torch.Tensor):
            return [(place, _tensor_to_array(image))]
        raise _refusal(image)
    except LostRegError as error:
        raise UnreadableImage(f"{place}: {error}") from None


def _name(place: str, image: object) -> str:
    return str(image) if isinstance(image, (str, Path)) else place


def _in_folder(folder: str | Path) -> list[NamedImage | Failure]:
    found = list_images([folder])
    outcomes = found.todo(())
    return [
        replace(one, image=str(Path(folder, one.image)))
        if isinstance(one, Failure)
        else (str(Path(folder, one[0])), one[1])
        for one in outcomes
    ]


def _refusal(image: object) -> LostRegError:
    return LostRegError(
        f"expected paths, (H, W, 3) arrays, PIL images or (3, H, W) tensors, but got {type_of(image)}"
    )


def _pil_to_array(image: PilImage.Image, background: str | None) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise LostRegError(f"PIL images of mode {image.mode} are not supported: convert it to RGB")
    try:
        return np.asarray(flattened(image, background))
    except Exception as error:  # its file is only read now, and may be damaged in any way
        raise LostRegError(f"cannot be decoded: {first_sentence(error)}") from None


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """An array of bool, or of floats in [0, 1], as uint8; a grey one with a channel as one without.

    Others stay as they are, to be refused.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        return array
    if not ((array >= 0) & (array <= 1)).all():
        raise LostRegError("expected a float array in [0, 1], before any normalisation")
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


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
