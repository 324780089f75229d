"""Position embeddings at other sizes than the model's own, as each family was trained."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def resample_position(position: Tensor, grid_hw: tuple[int, int], offset: float | None) -> Tensor:
    """Resample the position embedding of a square native grid to another grid, as the model was trained.

    Args:
        position: (1, N0, D), N0 a square number.
        grid_hw: the grid wanted (rows, columns).
        offset: see `BackboneSpec.position_offset`.

    Returns:
        (1, rows * columns, D), in the dtype of `position`.
    """
    native = math.isqrt(position.shape[1])
    if (native, native) == grid_hw:
        return position
    image = position.float().unflatten(1, (native, native)).permute(0, 3, 1, 2)  # (1, D, native, native)
    if offset is None:
        resampled = F.interpolate(image, size=grid_hw, mode="bicubic", antialias=True)
    else:
        # The scale factor itself is handed over: interpolate computes its coordinates from it, and
        # the offset moves them. Its floor is the size wanted.
        scale = tuple((side + offset) / native for side in grid_hw)
        resampled = F.interpolate(image, scale_factor=scale, mode="bicubic")
    return resampled.flatten(2).mT.to(position.dtype)
