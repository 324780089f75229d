"""The masks of a COCO annotation file: polygons and run lengths, read by pycocotools."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lost_reg.datasets.coco_file import read_coco_file
from lost_reg.datasets.fields import wrong
from lost_reg.errors import LostRegError
from lost_reg.types import ImageTruth, Mask


def coco_masks(annotations: Path) -> Callable[[ImageTruth], tuple[Mask, ...]]:
    """A function that gives the masks of an image's objects, in the order of their boxes.

    The file is read when it is first called. It raises LostRegError for a mask that is missing or malformed.
    """

    @cache
    def read() -> dict[str, list[tuple[str, Any]]]:
        """By image id, the name of each object and its segmentation."""
        file = read_coco_file(annotations, masks=True)
        objects, starts = file.objects, file.objects.starts.tolist()
        named = list(zip(objects.names, objects.segmentations))
        return {key: named[start:end] for key, start, end in zip(file.images.ids, starts, starts[1:])}

    def masks_of(truth: ImageTruth) -> tuple[Mask, ...]:
        objects = read().get(truth.image_id, [])
        return tuple(_checked_mask(name, segmentation, truth, annotations) for name, segmentation in objects)

    return masks_of


def _checked_mask(name: str, segmentation: Any, truth: ImageTruth, annotations: Path) -> Mask:
    if truth.size_hw is None:
        raise LostRegError(f"{annotations}: {name} has a mask, but the size of the image is not known")
    try:
        return _mask(segmentation, truth.size_hw)
    except (KeyError, TypeError, OverflowError):
        reason: object = wrong("segmentation", segmentation, "polygons or run lengths")
    except ValueError as error:
        reason = f"segmentation: {error}"
    raise LostRegError(f"{annotations}: {name}: {reason}")


def _mask(segmentation: Any, size_hw: tuple[int, int]) -> Mask:
    """A segmentation as a mask of the pixels. Its runs are checked when it is decoded."""
    from pycocotools import mask as coco

    height, width = size_hw
    if isinstance(segmentation, list):
        _check_polygons(segmentation, size_hw)
        counts = coco.merge(coco.frPyObjects(segmentation, height, width))["counts"].decode("ascii")
    else:
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"a mask of {segmentation['size']} in an image of {[height, width]}")
        if isinstance(counts, list):
            _check_counts(counts, height * width)
            counts = coco.frPyObjects(segmentation, height, width)["counts"].decode("ascii")
        if not isinstance(counts, str):
            raise TypeError("counts are neither a list nor a text")
    return Mask(size_hw, counts, (float(height), float(width)))


def _check_polygons(polygons: list[Any], size_hw: tuple[int, int]) -> None:
    """pycocotools allocates what far corners ask for, and raises no certain error for too few numbers."""
    most = 2 * max(size_hw)
    if not polygons:
        raise ValueError("a mask without polygons")
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
        if not all(math.isfinite(one) and abs(one) <= most for one in polygon):
            raise ValueError("a polygon outside of its image")


def _check_counts(counts: list[Any], length: int) -> None:
    if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != length:
        raise ValueError(f"the runs of a mask do not add up to its {length} pixels")
