"""Masks as arrays, and as they are stored: run-length encoded by pycocotools."""

from __future__ import annotations

import math
from typing import Any

from lost_reg.lazy import np
from lost_reg.types import Mask

MOST_CELLS = 200_000_000  # as many pixels as the largest image that is read
_PROBES = 4  # points along each side of a cell at which a mask is looked up
_FEW_CELLS = 1_000_000  # a mask may have them whatever its image: a small one can have been scaled up


def stored(cells: np.ndarray, spans_hw: tuple[float, float]) -> Mask:
    """A (rows, columns) bool array as it is stored; `spans_hw` as in `Mask`."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(cells, dtype=np.uint8))
    height, width = spans_hw
    rows, columns = cells.shape
    return Mask((rows, columns), encoded["counts"].decode("ascii"), (float(height), float(width)))


def cells(mask: Mask) -> np.ndarray:
    """The cells of a stored mask: (rows, columns) bool.

    Raises:
        ValueError: more cells than `MOST_CELLS`, or runs that do not add up to them.
    """
    from pycocotools import mask as coco

    _check_cell_count(mask.size_hw)
    rows, columns = mask.size_hw
    _check_runs(mask.counts, rows * columns)
    decoded: np.ndarray = coco.decode({"size": [rows, columns], "counts": mask.counts.encode("ascii")}) > 0
    return decoded


def in_pixels(mask: Mask, size_hw: tuple[int, int], scaled_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of an image whose centres lie in a stored mask: (height, width) bool.

    Args:
        size_hw: of the image, in pixels.
        scaled_hw: of the image after scaling, if the pixels of that are wanted.

    Raises:
        ValueError: an image of more than `MOST_CELLS` pixels, a mask of many more cells than that has pixels,
            or runs that do not add up to the cells.
    """
    wanted_hw = scaled_hw or size_hw
    _check_cell_count(wanted_hw)
    _check_cell_count(mask.size_hw, most=max(_FEW_CELLS, math.prod(size_hw)))
    grid = cells(mask)
    if mask.size_hw == tuple(wanted_hw) == mask.spans_hw:
        return grid
    at = [
        np.minimum((np.arange(wanted) + 0.5) / wanted * length * count / span, count - 1).astype(int)
        for wanted, length, count, span in zip(wanted_hw, size_hw, mask.size_hw, mask.spans_hw)
    ]
    pixels: np.ndarray = grid[at[0]][:, at[1]]  # several times as fast as both at once
    return pixels


def on_grid(mask: Mask, grid_hw: tuple[int, int], spans_hw: tuple[float, float]) -> np.ndarray:
    """The cells of another grid of which a stored mask covers at least half: (rows, columns) bool.

    Args:
        grid_hw: rows and columns of the other grid.
        spans_hw: the height and width that it covers, as in `Mask`.

    Raises:
        ValueError: see `cells`.
    """
    grid = cells(mask)
    at = [
        (np.arange(count * _PROBES) + 0.5) / (count * _PROBES) * span / mask_span * mask_count
        for count, span, mask_span, mask_count in zip(grid_hw, spans_hw, mask.spans_hw, mask.size_hw)
    ]
    rows, columns = (one.astype(int).clip(max=count - 1) for one, count in zip(at, mask.size_hw))
    probes = grid[rows][:, columns].reshape(grid_hw[0], _PROBES, grid_hw[1], _PROBES)
    covered: np.ndarray = probes.mean(axis=(1, 3)) >= 0.5
    return covered


def box_of(cells: np.ndarray) -> tuple[int, int, int, int]:
    """The extent of a mask, (rows, columns) bool with any true cell: half-open xyxy, in cells."""
    (top, bottom), (left, right) = (np.flatnonzero(cells.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    return left, top, right + 1, bottom + 1


def unless_far(refined: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """A refined mask, or the coarse one that it was made from, if their IoU is below 0.5; both are bool."""
    return refined if 2 * (refined & coarse).sum() >= (refined | coarse).sum() else coarse


def coco_segmentation(mask: Mask, size_hw: tuple[int, int]) -> dict[str, Any]:
    """A stored mask as a COCO segmentation of an image of this size: {"size": [h, w], "counts": text}.

    Raises:
        ValueError: see `in_pixels`.
    """
    height, width = size_hw
    if tuple(size_hw) == mask.size_hw == mask.spans_hw:
        _check_runs(mask.counts, height * width)
        return {"size": [height, width], "counts": mask.counts}
    return {"size": [height, width], "counts": stored(in_pixels(mask, size_hw), (height, width)).counts}


def _check_cell_count(size_hw: tuple[int, int], most: int = MOST_CELLS) -> None:
    """Check this before the cells need memory."""
    rows, columns = size_hw
    if rows * columns > most:
        raise ValueError(f"a mask of {rows:,} x {columns:,} cells is too large")


def _check_runs(counts: str, length: int) -> None:
    """pycocotools itself writes past its memory for runs of another length: check before it decodes."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        byte = ord(character) - 48
        if not 0 <= byte < 64 or shift > 60:
            raise ValueError("these are not the runs of a mask")
        value |= (byte & 31) << shift
        shift += 5
        if byte & 32:
            continue
        if byte & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or sum(runs) != length or any(run < 0 for run in runs):
        raise ValueError(f"the runs of a mask do not add up to its {length} cells")
