"""The small files that maps are stored in: numpy archives (.npz) without pickles, in 256 levels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.discovery.maps import Maps
from lost_reg.errors import LostRegError
from lost_reg.files import path_within, whole_file

SUFFIX = ".npz"
_LEVELS = 255
_NOT_VALUES = ("ranges", "mask", "seed", "covered_hw")  # the other arrays of a file
_MOST_MAPS = 16
# What numpy and zipfile raise for files that are damaged, encrypted, or of another kind (RuntimeError,
# AttributeError), and for arrays with impossible sizes (MemoryError).
_DAMAGED = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, MemoryError,
    ArithmeticError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def maps_path(folder: Path, image: str) -> Path:
    """The file of an image's maps in a folder of maps; "a.png" and "a.jpg" get two files."""
    return path_within(folder, image + SUFFIX)


def write_maps(path: Path, maps: Maps) -> None:
    """Write maps completely, or not at all.

    Values are stored in 256 levels from their lowest to their highest; a positive affinity stays positive.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    quantised = {name: _quantised(values) for name, values in maps.values.items()}
    with whole_file(path, "the maps") as part, part.open("wb") as file:
        arrays: dict[str, Any] = {
            **{name: levels for name, (levels, _) in quantised.items()},
            "ranges": np.array([bounds for _, bounds in quantised.values()], np.float32).reshape(-1, 2),
            "mask": maps.mask.astype(np.uint8),
            "seed": np.array(maps.seed, np.int32),
            "covered_hw": np.array(maps.covered_hw, np.float32),
        }
        np.savez_compressed(file, **arrays)


def _quantised(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """uint8 levels from the lowest to the highest value; if the lowest is 0, positive ones stay positive."""
    low, high = float(values.min()), float(values.max())
    levels = np.rint((values - low) * (_LEVELS / (high - low) if high > low else 0)).astype(np.uint8)
    if low == 0:
        levels[(values > 0) & (levels == 0)] = 1
    return levels, (low, high)


def read_maps(path: Path) -> Maps:
    """Read what `write_maps` wrote. Nothing in the file is executed.

    Raises:
        LostRegError: a file that is missing, or does not contain maps.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name not in _NOT_VALUES]
            if len(names) > _MOST_MAPS:
                raise ValueError(f"expected at most {_MOST_MAPS} maps")
            ranges = file["ranges"].astype(np.float32).reshape(len(names), 2)
            values = {name: _values(file[name], *bounds) for name, bounds in zip(names, ranges)}
            seed, covered_hw = file["seed"].tolist(), file["covered_hw"].tolist()
            return Maps(values, file["mask"] > 0, tuple(seed), tuple(covered_hw))
    except FileNotFoundError:
        raise LostRegError(f"no maps at {path}: `lost-reg run --save-maps` writes them") from None
    except _DAMAGED as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise LostRegError(f"{path} does not hold maps: {reason}") from None


def _values(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    if levels.dtype != np.uint8 or levels.ndim != 2 or not np.isfinite([low, high]).all():
        raise ValueError("expected maps of 256 levels with a finite range")
    return (low + levels * np.float32((high - low) / _LEVELS)).astype(np.float32)
