"""Refines the masks of a prediction on the pixels of its image."""

from __future__ import annotations

from dataclasses import replace

from lost_reg.boxes import box_in_original
from lost_reg.images.batching import DecodedImage
from lost_reg.masks.grids import box_of, in_pixels, stored
from lost_reg.masks.refiners import REFINERS, Refiner
from lost_reg.types import FoundObject, Prediction


def refined(prediction: Prediction, image: DecodedImage, name: str) -> Prediction:
    """A prediction whose masks are refined on the image as it was decoded, and whose boxes are their extents.

    Objects without a mask are left as they are.

    Args:
        image: the one that the prediction is of.
        name: one of REFINERS.
    """
    if not any(one.mask for one in prediction.objects):
        return prediction
    height, width = image.size_hw
    refiner = REFINERS[name](image.pixels[:height, :width])  # without the padding
    objects = tuple(_refined(one, image, refiner) for one in prediction.objects)
    return replace(prediction, objects=objects)


def _refined(found: FoundObject, image: DecodedImage, refiner: Refiner) -> FoundObject:
    if found.mask is None:
        return found
    mask = refiner.refine(in_pixels(found.mask, image.original_hw, image.size_hw))
    if not mask.any():
        return found
    height, width = image.original_hw
    return replace(
        found,
        box_xyxy=box_in_original(box_of(mask), image.size_hw, image.original_hw),
        mask=stored(mask, (height, width)),
    )
