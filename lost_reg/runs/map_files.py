"""Maps: how LOST came to its box in one image, patch by patch, and the small files they are kept in.

A file is a numpy archive (.npz) without pickles: maps of the patch grid in 256 levels, a few kilobytes.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.runs.folder import path_within

SUFFIX = ".npz"
_LEVELS = 255
_QUANTISED = ("norms", "degrees", "affinities")


@dataclass(frozen=True)
class Maps:
    """What LOST saw in one image; each map is (rows, columns) of its patch grid.

    norms: float32, the L2 norm of each patch's token as it enters the block whose qkv layer gives the
        features: before that block's LayerNorm, which hides outliers. At the last layer these are the
        output tokens of the block before. For a function as backbone, the norms of its features.
    degrees: float32, each patch's degree.
    affinities: float32, the positive part of each patch's affinity to the seed.
    mask: bool, the expansion mask; the box is the extent of its component that holds the seed.
    seed: (row, column).
    covered_hw: the share of the grid's height and width that the image covers; the rest is padding.
    """

    norms: np.ndarray
    degrees: np.ndarray
    affinities: np.ndarray
    mask: np.ndarray
    seed: tuple[int, int]
    covered_hw: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Raises ValueError for maps of several shapes, or a seed outside of them."""
        shapes = {getattr(self, name).shape for name in (*_QUANTISED, "mask")}
        (rows, columns), (row, column) = self.mask.shape, self.seed
        if len(shapes) != 1 or not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"expected maps of one shape, the seed inside, but got {shapes}, {self.seed}")
        if not all(0 < share <= 1 for share in self.covered_hw):
            raise ValueError(f"expected shares of the grid in (0, 1], but got {self.covered_hw}")


def maps_path(folder: Path, image: str) -> Path:
    """The file of an image's maps in a folder of maps: "a.png" and "a.jpg" have two."""
    return path_within(folder, image + SUFFIX)


def write_maps(path: Path, maps: Maps) -> None:
    """Write maps as a whole, or not at all.

    Norms, degrees and affinities are kept in 256 levels from their lowest to their highest value; an affinity
    that is positive stays positive.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    levels, ranges = zip(*(_quantised(getattr(maps, name)) for name in _QUANTISED))
    with whole_file(path, "the maps") as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            **dict(zip(_QUANTISED, levels)),
            ranges=np.array(ranges, np.float32),  # (3, 2)
            mask=maps.mask.astype(np.uint8),
            seed=np.array(maps.seed, np.int32),
            covered_hw=np.array(maps.covered_hw, np.float32),
        )


def _quantised(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """uint8 levels from the lowest to the highest value; a positive value never falls to a lowest of 0."""
    low, high = float(values.min()), float(values.max())
    levels = np.rint((values - low) * (_LEVELS / (high - low) if high > low else 0)).astype(np.uint8)
    if low == 0:
        levels[(values > 0) & (levels == 0)] = 1
    return levels, (low, high)


def read_maps(path: Path) -> Maps:
    """Read what `write_maps` wrote. Nothing in the file is executed.

    Raises:
        LostRegError: a file that is missing, or that does not hold maps.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ranges = file["ranges"].astype(np.float32).reshape(3, 2)
            values = [_values(file[name], *bounds) for name, bounds in zip(_QUANTISED, ranges)]
            seed, covered_hw = file["seed"].tolist(), file["covered_hw"].tolist()
            return Maps(*values, file["mask"] > 0, tuple(seed), tuple(covered_hw))
    except FileNotFoundError:
        raise LostRegError(f"no maps at {path}: `lost-reg run --save-maps` writes them") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise LostRegError(f"{path} does not hold maps: {reason}") from None


def _values(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    if levels.dtype != np.uint8 or levels.ndim != 2 or not np.isfinite([low, high]).all():
        raise ValueError("expected maps of 256 levels with a finite range")
    return (low + levels * np.float32((high - low) / _LEVELS)).astype(np.float32)
