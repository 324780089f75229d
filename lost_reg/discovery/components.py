"""Connected components of masks on the patch grid."""

from __future__ import annotations

from lost_reg.lazy import cv2, np

PatchBox = tuple[int, int, int, int]


def component_of(mask: np.ndarray, seed: tuple[int, int]) -> tuple[np.ndarray, PatchBox]:
    """The 4-connected component of a mask that contains the seed.

    Args:
        mask: (rows, columns) bool or uint8; contains the seed.
        seed: (row, column).

    Returns:
        The component, (rows, columns) bool, and its box in patches, half-open xyxy.
    """
    filled = np.array(mask, dtype=np.uint8, order="C")
    # floodFill returns the rectangle that it filled; 4-connected is its default.
    x, y, width, height = cv2.floodFill(filled, None, (seed[1], seed[0]), 2)[3]
    return filled == 2, (x, y, x + width, y + height)


def largest_component(mask: np.ndarray) -> np.ndarray | None:
    """The 4-connected component of a (rows, columns) mask with most patches; the first of several such.

    Returns:
        (rows, columns) bool; None if the mask is empty.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count == 1:
        return None
    component: np.ndarray = labels == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()
    return component


def component_labels(mask: np.ndarray) -> np.ndarray:
    """The 4-connected components of a (rows, columns) mask, numbered from 1, with 0 for what is not in it."""
    labels: np.ndarray = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    return labels
