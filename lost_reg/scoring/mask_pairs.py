"""The masks of a run and of its ground truth, in pixels of the images, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lost_reg.datasets.base import Dataset
from lost_reg.errors import LostRegError
from lost_reg.images.reading import MOST_PIXELS
from lost_reg.masks.grids import coco_segmentation, in_pixels
from lost_reg.types import FoundObject, Mask, Prediction

Segmentation = dict[str, Any]


def true_segmentations(image: str, dataset: Dataset) -> list[Segmentation]:
    """The true objects of an image as COCO run lengths.

    Raises:
        LostRegError: a malformed mask.
    """
    try:
        masks = dataset.masks_of(dataset.truths[image])
        return [coco_segmentation(mask, mask.size_hw) for mask in masks]
    except ValueError as error:
        raise LostRegError(f"malformed mask of {image} in {dataset.name}: {error}") from None


def found_segmentation(image: str, found: FoundObject, dataset: Dataset) -> Segmentation:
    """A found object as COCO run lengths, of the size of the true masks.

    Raises:
        LostRegError: a malformed mask.
    """
    try:
        return coco_segmentation(_checked(found.mask), dataset.truths[image].size_hw)
    except ValueError as error:
        raise LostRegError(f"malformed mask of {image}: {error}") from None


def mask_pairs(
    truths: Mapping[str, Sequence[Segmentation]], predictions: Mapping[str, Prediction], dataset: Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each image with a true object: the first found object's pixels, and those of the largest true one.

    (H, W) bool each. Nothing found, or an image that could not be used, is an empty mask.

    Raises:
        LostRegError: a malformed mask.
    """
    from pycocotools import mask as coco

    for image, segmentations in truths.items():
        areas = [int(coco.area(one)) for one in segmentations]
        if not any(areas):
            continue
        truth = coco.decode(segmentations[int(np.argmax(areas))]) > 0
        prediction = predictions.get(image)
        objects = prediction.objects if prediction else ()
        yield _pixels(image, objects[0], truth.shape) if objects else np.zeros_like(truth), truth


def _pixels(image: str, found: FoundObject, size_hw: tuple[int, int]) -> np.ndarray:
    try:
        return in_pixels(_checked(found.mask), size_hw)
    except ValueError as error:
        raise LostRegError(f"malformed mask of {image}: {error}") from None


def _checked(mask: Mask) -> Mask:
    """Raises ValueError for a mask that no run writes, before memory is allocated for it."""
    rows, columns = mask.size_hw
    if rows * columns > MOST_PIXELS:
        raise ValueError(f"{rows} x {columns} cells are too many")
    if min(mask.spans_hw) < 1:
        raise ValueError(f"it spans only {mask.spans_hw[0]:g} x {mask.spans_hw[1]:g} pixels")
    return mask
