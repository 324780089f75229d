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
