"""What a found box says of itself, without labels: signals to filter by, and shapes that no object has."""

from __future__ import annotations

from dataclasses import dataclass

from lost_reg.types import Box, FoundObject, Prediction

WHOLE_IMAGE, SINGLE_PATCH, BORDER_STRIP = "whole image", "single patch", "border strip"
IMPLAUSIBLE = (WHOLE_IMAGE, SINGLE_PATCH, BORDER_STRIP)

_WHOLE_SHARE = 0.85  # of the image's area
_STRIP_SHARE = 1 / 8  # of the image's height or width


@dataclass(frozen=True)
class Signals:
    """Signals of one box that need no labels.

    area: its share of the image's area.
    degree: the share of the image's other patches that are similar to the seed: its degree over their number.
        Of a further object, only those count as similar that no earlier object had taken.
    affinity: see `FoundObject`; None where it was not recorded.
    borders: how many of the image's four edges it touches.
    """

    area: float
    degree: float
    affinity: float | None
    borders: int


def signals(found: FoundObject, image: Prediction) -> Signals:
    """The signals of one of the objects of an image."""
    height, width = image.size_hw
    rows, columns = image.grid_hw
    wide, high = _extent(found.box_xyxy)
    return Signals(
        area=wide * high / (height * width),
        degree=found.degree / max(1, rows * columns - 1),
        affinity=found.affinity,
        borders=sum(_touched(found.box_xyxy, image.size_hw)),
    )


def implausible(found: FoundObject, image: Prediction) -> str | None:
    """Which of IMPLAUSIBLE a box is, or None.

    Whole image: over 85 % of its area. Single patch: one of the grid, or with the sliver of another that the
    image ends in. Border strip: along the whole of one edge and thinner than an eighth of the image, as
    letterbox bars are.
    """
    (height, width), (rows, columns) = image.size_hw, image.grid_hw
    wide, high = _extent(found.box_xyxy)
    left, top, right, bottom = _touched(found.box_xyxy, image.size_hw)
    if wide * high > _WHOLE_SHARE * height * width:
        return WHOLE_IMAGE
    # The grid covers the padded image, so a patch can be a little larger than a cell of the image.
    if wide * columns < 1.5 * width and high * rows < 1.5 * height:
        return SINGLE_PATCH
    lies = left and right and (top or bottom) and high < _STRIP_SHARE * height
    stands = top and bottom and (left or right) and wide < _STRIP_SHARE * width
    return BORDER_STRIP if lies or stands else None


def implausible_kinds(image: Prediction) -> list[str]:
    """The kinds of those of an image's objects whose boxes are implausible."""
    kinds = (implausible(one, image) for one in image.objects)
    return [kind for kind in kinds if kind]


def _extent(box_xyxy: Box) -> tuple[float, float]:
    xmin, ymin, xmax, ymax = box_xyxy
    return max(0, xmax - xmin), max(0, ymax - ymin)


def _touched(box_xyxy: Box, size_hw: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Whether it reaches the left, top, right and bottom edge."""
    xmin, ymin, xmax, ymax = box_xyxy
    height, width = size_hw
    return xmin <= 0, ymin <= 0, xmax >= width, ymax >= height
