"""Masks of exported objects: as pixels of the image, as COCO segmentations, and as polygons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lost_reg.errors import LostRegError, one_line
from lost_reg.export.boxes import ExportedBox, ExportedImage
from lost_reg.lazy import cv2, np
from lost_reg.masks.grids import coco_segmentation, in_pixels
from lost_reg.types import Mask

T = TypeVar("T")


def pixels_of(image: ExportedImage, box: ExportedBox) -> np.ndarray:
    """An object's mask in pixels of its image: (height, width) bool.

    Raises:
        LostRegError: an object without a mask, or with a malformed one.
    """
    return _read(in_pixels, image, box)


def segmentation_of(image: ExportedImage, box: ExportedBox) -> dict[str, Any]:
    """An object's mask as a COCO segmentation: {"size": [height, width], "counts": text}.

    Raises:
        LostRegError: see `pixels_of`.
    """
    return _read(coco_segmentation, image, box)


def _read(read: Callable[[Mask, tuple[int, int]], T], image: ExportedImage, box: ExportedBox) -> T:
    name = f"object {box.index} of {one_line(image.name)}"
    if box.mask is None:
        raise LostRegError(f"{name} has no mask: `lost-reg run` with `masks` or `refine` writes them")
    try:
        return read(box.mask, image.size_hw)
    except ValueError as error:
        raise LostRegError(
            f"the mask of {name} is malformed: {error}; delete its line and `resume`"
        ) from None


def polygon_of(pixels: np.ndarray) -> np.ndarray:
    """The outline of a mask, (height, width) bool, as one polygon: (N, 2), x and y of the pixels along it.

    Each part is joined to those before it by a line to the nearest point and back. Holes are filled. N is at
    least 3, or 0 for an empty mask.
    """
    from scipy.spatial import cKDTree

    parts, _ = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygon, *others = [part.reshape(-1, 2) for part in parts] or [np.empty((0, 2), int)]
    for other in others:
        distances, nearest = cKDTree(polygon).query(other)
        start = distances.argmin()
        there, back = np.split(polygon, [nearest[start] + 1])
        around = np.roll(other, -start, axis=0)
        polygon = np.concatenate([there, around, around[:1], there[-1:], back])
    if 0 < len(polygon) < 3:  # a pixel, or a line of them
        polygon = np.concatenate([polygon, polygon, polygon])[:3]
    return polygon
