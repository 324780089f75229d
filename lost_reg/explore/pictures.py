"""The page's pictures: photos with objects on them, and maps in colours, all of one size for an image."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from lost_reg.explore.views import rescaled
from lost_reg.images.batching import DecodedImage
from lost_reg.report.pictures import ramp
from lost_reg.runs.pictures import draw_prediction
from lost_reg.types import Prediction

SIDE = 512  # pixels of the longer side
_BELOW, _ZERO, _ABOVE = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # of a scale around zero
_MARK, _MARK_EDGE = (255, 255, 255), (0, 0, 0)


def canvas_hw(original_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of all pictures of an image, in pixels, whatever size a method sees it in."""
    scale = SIDE / max(original_hw)
    height, width = (max(1, round(side * scale)) for side in original_hw)
    return height, width


def photo(image: DecodedImage) -> Image.Image:
    """The image itself."""
    height, width = canvas_hw(image.original_hw)
    return Image.fromarray(image.pixels).resize((width, height), Image.Resampling.BICUBIC)


def objects_picture(image: DecodedImage, prediction: Prediction) -> Image.Image:
    """The image with boxes, masks and the first seed; see `draw_prediction`."""
    return draw_prediction(photo(image), rescaled(prediction, canvas_hw(image.original_hw)))


def map_picture(image: DecodedImage, values: np.ndarray, patch_size: int) -> Image.Image:
    """A map from its lowest value, dark, to its highest, bright; a square for each patch.

    values: (rows, columns); what covers only padding is cut off.
    """
    low, high = float(values.min()), float(values.max())
    levels = (values - low) * ((len(ramp()) - 1) / (high - low) if high > low else 0)
    return _in_squares(image, np.array(ramp(), np.uint8)[np.rint(levels).astype(int)], patch_size)


def signed_picture(
    image: DecodedImage, values: np.ndarray, patch_size: int, patch: tuple[int, int]
) -> Image.Image:
    """A map around zero: blue below, white at zero, red above; `patch` is outlined.

    The strongest colour is that of the largest magnitude among the other patches: a patch's affinity to
    itself can be many times that.
    """
    others = np.abs(values.astype(np.float64))
    others[patch] = 0
    strength = np.clip(values / (others.max() or 1), -1, 1)[:, :, None]
    ends = np.where(strength > 0, np.array(_ABOVE), np.array(_BELOW))
    colours = _ZERO + np.abs(strength) * (ends - _ZERO)
    picture = _in_squares(image, np.rint(colours).astype(np.uint8), patch_size)
    return outlined(picture, image, patch, patch_size)


def outlined(
    picture: Image.Image, image: DecodedImage, patch: tuple[int, int], patch_size: int
) -> Image.Image:
    """A picture with a patch's outline drawn in, white on black."""
    scale_y, scale_x = (side / own for side, own in zip(canvas_hw(image.original_hw), image.size_hw))
    row, column = patch
    left, top = round(column * patch_size * scale_x), round(row * patch_size * scale_y)
    right = min(picture.width, round((column + 1) * patch_size * scale_x)) - 1
    bottom = min(picture.height, round((row + 1) * patch_size * scale_y)) - 1
    draw = ImageDraw.Draw(picture)
    around = (left - 1, top - 1, max(left, right) + 1, max(top, bottom) + 1)
    draw.rectangle(around, outline=_MARK_EDGE, width=3)
    draw.rectangle(around, outline=_MARK, width=1)
    return picture


def _in_squares(image: DecodedImage, colours: np.ndarray, patch_size: int) -> Image.Image:
    """(rows, columns, 3) uint8 as a picture in the image's proportions, without what covers only padding."""
    height, width = canvas_hw(image.original_hw)
    at_y, at_x = (
        np.minimum(((np.arange(wanted) + 0.5) / wanted * own / patch_size).astype(int), cells - 1)
        for wanted, own, cells in zip((height, width), image.size_hw, colours.shape)
    )
    return Image.fromarray(colours[at_y][:, at_x])
