"""Label-free signals of a box: numbers to filter by, and shapes that no object has."""

from __future__ import annotations

from dataclasses import dataclass

from lost_reg.types import Box, FoundObject, Prediction

WHOLE_IMAGE, SINGLE_PATCH, BORDER_STRIP = "whole image", "single patch", "border strip"
IMPLAUSIBLE = (WHOLE_IMAGE, SINGLE_PATCH, BORDER_STRIP)

_WHOLE_SHARE = 0.85  # of the image's area
_STRIP_SHARE = 1 / 8  # of the image's height or width


@dataclass(frozen=True)
class Signals:
    """Signals of one box.

    area: its share of the image's area.
    degree: the share of the image's other patches that are similar to the seed, for a method that counts them
        (LOST's degree; for a further object, patches taken by earlier ones do not count); else None.
    score: see `FoundObject`.
    borders: how many of the image's four edges it touches.
    """

    area: float
    degree: float | None
    score: float | None
    borders: int


def signals(found: FoundObject, image: Prediction) -> Signals:
    """The signals of one of the objects of an image."""
    height, width = image.size_hw
    rows, columns = image.grid_hw
    box_width, box_height = _extent(found.box_xyxy)
    degree = found.details.get("degree")
    return Signals(
        area=box_width * box_height / (height * width),
        degree=None if degree is None else degree / max(1, rows * columns - 1),
        score=found.score,
        borders=sum(_touched(found.box_xyxy, image.size_hw)),
    )


def implausible(box_xyxy: Box, size_hw: tuple[float, float], grid_hw: tuple[int, int]) -> str | None:
    """Which of IMPLAUSIBLE a box is, or None.

    Whole image: over 85 % of its area. Single patch: one patch of the grid, or one plus a sliver of the
    partial patch at the image's edge. Border strip: along the whole of one edge and thinner than an eighth of
    the image, like a letterbox bar.

    Args:
        box_xyxy: within the image, in the unit of `size_hw`: pixels or patches.
        size_hw: the image's height and width.
        grid_hw: its patch grid, which covers the padded image.
    """
    (height, width), (rows, columns) = size_hw, grid_hw
    box_width, box_height = _extent(box_xyxy)
    left, top, right, bottom = _touched(box_xyxy, size_hw)
    if box_width * box_height > _WHOLE_SHARE * height * width:
        return WHOLE_IMAGE
    # The grid covers the padding too, so a patch can be slightly larger than width / columns.
    if box_width * columns < 1.5 * width and box_height * rows < 1.5 * height:
        return SINGLE_PATCH
    is_horizontal = left and right and (top or bottom) and box_height < _STRIP_SHARE * height
    is_vertical = top and bottom and (left or right) and box_width < _STRIP_SHARE * width
    return BORDER_STRIP if is_horizontal or is_vertical else None


def implausible_kinds(image: Prediction) -> list[str]:
    """The kind of each implausible box among an image's objects."""
    kinds = (implausible(one.box_xyxy, image.size_hw, image.grid_hw) for one in image.objects)
    return [kind for kind in kinds if kind]


def _extent(box_xyxy: Box) -> tuple[float, float]:
    """Width and height."""
    xmin, ymin, xmax, ymax = box_xyxy
    return max(0, xmax - xmin), max(0, ymax - ymin)


def _touched(box_xyxy: Box, size_hw: tuple[float, float]) -> tuple[bool, bool, bool, bool]:
    """Whether a box touches the left, top, right and bottom edge."""
    xmin, ymin, xmax, ymax = box_xyxy
    height, width = size_hw
    return xmin <= 0, ymin <= 0, xmax >= width, ymax >= height
