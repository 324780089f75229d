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
_ATTENTION = "attention_"  # and the name of the token: these arrays have several maps, the others one
_MOST_ARRAYS = 64
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

    Each map is stored in 256 levels from its lowest value to its highest; a positive affinity stays positive.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    quantised = {name: [_quantised(values)] for name, values in maps.values.items()}
    levels = {name: levels for name, ((levels, _),) in quantised.items()}
    for token, weights in maps.attention.items():
        name = _ATTENTION + token.replace(" ", "_")
        quantised[name] = [_quantised(one) for one in weights]
        levels[name] = np.stack([levels for levels, _ in quantised[name]])
    ranges = [bounds for of_array in quantised.values() for _, bounds in of_array]
    with whole_file(path, "the maps") as part, part.open("wb") as file:
        arrays: dict[str, Any] = {
            **levels,
            "ranges": np.array(ranges, np.float32).reshape(-1, 2),
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
            if len(names) > _MOST_ARRAYS:
                raise ValueError(f"expected at most {_MOST_ARRAYS} arrays of maps")
            values, attention = _read_values({name: file[name] for name in names}, file["ranges"])
            seed, covered_hw = file["seed"].tolist(), file["covered_hw"].tolist()
            return Maps(values, file["mask"] > 0, tuple(seed), tuple(covered_hw), attention)
    except FileNotFoundError:
        raise LostRegError(f"no maps at {path}: `lost-reg run --save-maps` writes them") from None
    except _DAMAGED as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise LostRegError(f"{path} does not hold maps: {reason}") from None


_Arrays = dict[str, np.ndarray]


def _read_values(arrays: _Arrays, ranges: np.ndarray) -> tuple[_Arrays, _Arrays]:
    """The maps by name, and those of attention by token, from their levels."""
    sizes = [len(levels) if levels.ndim == 3 else 1 for levels in arrays.values()]
    bounds = np.split(ranges.astype(np.float32).reshape(sum(sizes), 2), np.cumsum(sizes)[:-1])
    values, attention = {}, {}
    for (name, levels), of_array in zip(arrays.items(), bounds):
        if levels.ndim == 3 and name.startswith(_ATTENTION):
            attention[name.removeprefix(_ATTENTION).replace("_", " ")] = _values(levels, of_array)
        else:
            values[name] = _values(levels[None], of_array)[0]
    return values, attention


def _values(levels: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Values of (M, rows, columns) levels, each map with its own range: (M, 2)."""
    if levels.dtype != np.uint8 or levels.ndim != 3 or not np.isfinite(ranges).all():
        raise ValueError("expected maps of 256 levels with a finite range")
    low, high = ranges.T[:, :, None, None]
    return (low + levels * ((high - low) / np.float32(_LEVELS))).astype(np.float32)
