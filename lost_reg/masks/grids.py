"""Masks as arrays, and as they are stored: run-length encoded by pycocotools."""

from __future__ import annotations

from typing import Any

from lost_reg.lazy import np
from lost_reg.types import Mask


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
        ValueError: runs that do not add up to the number of cells.
    """
    from pycocotools import mask as coco

    rows, columns = mask.size_hw
    _check_runs(mask.counts, rows * columns)
    decoded: np.ndarray = coco.decode({"size": [rows, columns], "counts": mask.counts.encode("ascii")}) > 0
    return decoded


def in_pixels(mask: Mask, size_hw: tuple[int, int]) -> np.ndarray:
    """The pixels of an image whose centres lie in a stored mask: (height, width) bool.

    Args:
        size_hw: of the image, in pixels.

    Raises:
        ValueError: runs that do not add up to the number of cells.
    """
    grid = cells(mask)
    if mask.size_hw == tuple(size_hw) == mask.spans_hw:
        return grid
    at = [
        np.minimum(((np.arange(length) + 0.5) * count / span).astype(int), count - 1)
        for length, count, span in zip(size_hw, mask.size_hw, mask.spans_hw)
    ]
    pixels: np.ndarray = grid[at[0]][:, at[1]]  # several times as fast as both at once
    return pixels


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
