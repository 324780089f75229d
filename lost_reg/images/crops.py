"""The square at an image's centre, as the usual evaluation of classifiers takes it."""

from __future__ import annotations

import numpy as np
from PIL import Image


def centre_crop(pixels: np.ndarray, shorter: int, side: int) -> np.ndarray:
    """Scale an image to a shorter side, bicubically, and cut a square from its centre.

    These are the pixels of torchvision's Resize(shorter, BICUBIC) and CenterCrop(side), up to rounding. Only
    the square is computed: a long narrow image would become very large.

    Args:
        pixels: (H, W, 3) uint8.
        shorter: in pixels, at least `side`.

    Returns:
        (side, side, 3) uint8.
    """
    height, width = pixels.shape[:2]
    whole_hw = [shorter * length // min(height, width) for length in (height, width)]
    top, left = (round((length - side) / 2) for length in whole_hw)
    per_row, per_column = height / whole_hw[0], width / whole_hw[1]
    box = left * per_column, top * per_row, (left + side) * per_column, (top + side) * per_row
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
