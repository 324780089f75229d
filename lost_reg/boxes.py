"""Boxes: IoU, the centred box of the trivial baseline, and conversion between image sizes.

Boxes are [xmin, ymin, xmax, ymax], half-open, in pixels. Coordinates are continuous, without the + 1 that
some code adds to widths and heights.
"""

from __future__ import annotations

from collections.abc import Sequence

from lost_reg.lazy import np
from lost_reg.types import Box, SizeHW

IOU_THRESHOLD = 0.5  # CorLoc's


def is_found(box: Box, truth_boxes: np.ndarray | Sequence[Box]) -> bool:
    """Whether a box has IoU >= 0.5 with any of the (N, 4) ground-truth boxes."""
    return bool(found_objects(box, truth_boxes).any())


def found_objects(box: Box | np.ndarray, truth_boxes: np.ndarray | Sequence[Box]) -> np.ndarray:
    """Which of (N, 4) ground-truth boxes have IoU >= 0.5 with a box: (N,) bool; (S, N) for (S, 4) boxes."""
    return iou(box, truth_boxes) >= IOU_THRESHOLD


def iou(box: Box | np.ndarray, others: np.ndarray | Sequence[Box]) -> np.ndarray:
    """Intersection over union of a box with each of (N, 4) boxes, all xyxy: (N,); for (S, 4) boxes, (S, N).

    Empty boxes give 0.
    """
    box = np.asarray(box, dtype=float)[..., None, :]  # (1, 4) or (S, 1, 4)
    return paired_iou(box, np.asarray(others, dtype=float).reshape(-1, 4))


def paired_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) and others (..., 4), all xyxy, pair by pair: (...).

    Empty boxes give 0.
    """
    overlap = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    intersection = overlap.clip(min=0).prod(axis=-1)
    areas = [(both[..., 2:] - both[..., :2]).prod(axis=-1) for both in (boxes, others)]
    union = areas[0] + areas[1] - intersection
    shares: np.ndarray = np.zeros_like(intersection)
    np.divide(intersection, union, out=shares, where=union > 0)
    return shares


def centred_box(size_hw: SizeHW, side: float) -> Box:
    """The centred box whose height and width are `side` times those of the image."""
    xmin, ymin, xmax, ymax = centred_boxes(np.array([size_hw]), side)[0].tolist()
    return xmin, ymin, xmax, ymax


def centred_boxes(sizes_hw: np.ndarray, side: float) -> np.ndarray:
    """`centred_box` of images of (N, 2) sizes: (N, 4). An empty box for an empty image."""
    height, width = sizes_hw.T
    x, y = width * (1 - side) / 2, height * (1 - side) / 2
    return np.stack([x, y, width - x, height - y], axis=1)


def box_in_original(
    box_xyxy: Sequence[float],
    size_hw: tuple[int, int],
    original_hw: tuple[int, int],
    *,
    clipped: bool = True,
) -> Box:
    """Clip a box to its image, and map it to the original if the image was scaled.

    Args:
        box_xyxy: half-open pixels of the image of size `size_hw`; it may reach into the padding.
        clipped: False keeps what reaches into the padding.

    Returns:
        The box in pixels of the original; whole numbers if nothing was scaled.
    """
    (height, width), (original_height, original_width) = size_hw, original_hw
    xmin, ymin, xmax, ymax = box_xyxy
    if clipped:
        xmax, ymax = min(xmax, width), min(ymax, height)
    if size_hw == original_hw:
        return xmin, ymin, xmax, ymax
    # multiply first, so that the image's edge maps exactly to the original's
    return (
        xmin * original_width / width,
        ymin * original_height / height,
        xmax * original_width / width,
        ymax * original_height / height,
    )


def whole_pixels(box_xyxy: Box, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box rounded to whole pixels, half-open: at least one pixel in size, and inside its image."""
    xmin, ymin, xmax, ymax = box_xyxy
    height, width = size_hw
    (left, right), (top, bottom) = _whole(xmin, xmax, width), _whole(ymin, ymax, height)
    return left, top, right, bottom


def _whole(least: float, most: float, length: int) -> tuple[int, int]:
    start = min(max(0, round(least)), length - 1)
    return start, max(start + 1, min(round(most), length))
