"""A backbone whose features are colours, and images for which LOST's answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import Preprocessing, load_backbone

PATCH = 8
_BLACK_TO_WHITE = Preprocessing(PATCH, mean=(0.5,) * 3, std=(0.5,) * 3)


def patch_means(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) to (B, N, 3): the mean colour of each patch."""
    return torch.nn.functional.avg_pool2d(images, PATCH).flatten(2).mT


def colour_backbone(function: Callable[[torch.Tensor], torch.Tensor] = patch_means) -> Backbone:
    """A backbone of images whose black is (-1, -1, -1) and whose white is (1, 1, 1)."""
    return load_backbone(function, preprocessing=_BLACK_TO_WHITE, device="cpu")


def planted(size_hw=(48, 64), box_xyxy=(16, 8, 40, 24)) -> np.ndarray:
    """A white rectangle on black."""
    pixels = np.zeros((*size_hw, 3), np.uint8)
    xmin, ymin, xmax, ymax = box_xyxy
    pixels[ymin:ymax, xmin:xmax] = 255
    return pixels


def smooth(size_hw, seed=0) -> np.ndarray:
    """Random colours in blocks of 40 pixels, in which random weights see many shapes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((40, 40, 1), np.uint8))[: size_hw[0], : size_hw[1]].copy()
