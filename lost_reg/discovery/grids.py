"""Where patches lie in their grid: rim and centre."""

from __future__ import annotations

from lost_reg.lazy import np


def rim(grid_hw: tuple[int, int], *, bottom: bool = True) -> np.ndarray:
    """The patches in the outermost rows and columns: (N,) bool.

    bottom: whether the last row counts; objects stand on the lower edge of photos, or are cut by it.
    """
    outer = np.zeros(grid_hw, dtype=bool)
    outer[0] = outer[:, 0] = outer[:, -1] = True
    outer[-1] |= bottom
    return outer.ravel()


def nearness_to_centre(grid_hw: tuple[int, int]) -> np.ndarray:
    """1 at the centre of the image, falling linearly to 0 at each edge, as a product over rows and columns.

    Returns:
        (N,) float32.
    """
    rows, columns = (1 - np.abs((2 * np.arange(side) + 1) / side - 1) for side in grid_hw)
    nearness: np.ndarray = np.outer(rows, columns).ravel().astype(np.float32)
    return nearness
