"""The small files that maps are stored in: numpy archives (.npz) without pickles, in 256 levels."""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lost_reg.discovery.maps import Maps
from lost_reg.errors import LostRegError, one_line
from lost_reg.files import open_regular, path_within, whole_file

SUFFIX = ".npz"
_LEVELS = 255
_NOT_VALUES = ("ranges", "mask", "seed", "covered_hw")  # the other arrays of a file
_ATTENTION = "attention_"  # and the name of the token: these arrays have several maps, the others one
# What a file may hold. A map of the largest image that is decoded has a million values.
_MOST_ARRAYS = 64
_MOST_BYTES = 2**26  # of all arrays together; also of the file
_MOST = 1e30  # the largest value of a map
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that numpy writes
# What numpy and zipfile raise for files that are damaged, encrypted, or of another kind.
_DAMAGED = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, RuntimeError,
    ArithmeticError, SyntaxError, zipfile.BadZipFile, zlib.error,
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
    with whole_file(path, "the maps", among_many=True) as part, part.open("wb") as file:
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

    What the file claims is checked before memory is taken for it: 64 MiB of arrays at most.

    Raises:
        LostRegError: a file that is missing, or does not contain maps.
    """
    try:
        arrays = _read_arrays(path)
        others = {name: arrays.pop(name) for name in _NOT_VALUES}
        values, attention = _read_values(arrays, others["ranges"])
        seed, covered_hw = others["seed"], others["covered_hw"]
        if seed.shape != (2,) or seed.dtype.kind not in "iu" or covered_hw.shape != (2,):
            raise ValueError("expected a seed and a share of two numbers")
        return Maps(values, others["mask"] > 0, tuple(seed.tolist()), tuple(covered_hw.tolist()), attention)
    except FileNotFoundError:
        raise LostRegError(f"no maps at {path}: `lost-reg run --save-maps` writes them") from None
    except _DAMAGED as error:
        reason = one_line(f"{type(error).__name__} {error}".splitlines()[0])
        raise LostRegError(f"{path} does not hold maps: {reason}") from None


_Arrays = dict[str, np.ndarray]


def _read_arrays(path: Path) -> _Arrays:
    """The arrays of a numpy archive by name."""
    with open_regular(path) as opened:
        if os.fstat(opened.fileno()).st_size > _MOST_BYTES:
            raise ValueError(f"expected a file of at most {_MOST_BYTES:,} bytes")
        return _arrays_of(opened)


def _arrays_of(opened: BinaryIO) -> _Arrays:
    """Raises ValueError for more than maps need."""
    with zipfile.ZipFile(opened) as file:
        members = file.infolist()
        if len(members) > _MOST_ARRAYS + len(_NOT_VALUES):
            raise ValueError(f"expected at most {_MOST_ARRAYS} arrays of maps")
        if sum(one.file_size for one in members) > _MOST_BYTES:
            raise ValueError(f"expected at most {_MOST_BYTES:,} bytes in all arrays")
        if any(one.compress_type not in _PLAIN for one in members):
            raise ValueError("a compression that numpy does not write")
        arrays = {one.filename.removesuffix(".npy"): _read_array(file, one) for one in members}
    if len(arrays) < len(members):
        raise ValueError("two arrays of one name")
    return arrays


def _read_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array of numbers, whose header must claim exactly the bytes that follow it."""
    with file.open(member) as stored:
        # with a size: without one, zipfile decompresses all there is, whatever the archive claims
        content = stored.read(member.file_size + 1)
    buffer = io.BytesIO(content)
    read_header = _HEADERS.get(np.lib.format.read_magic(buffer))
    if not read_header:
        raise ValueError("a version of the format that numpy does not write for numbers")
    shape, by_columns, dtype = read_header(buffer)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ValueError(f"expected numbers, but got {dtype}")
    if math.prod(shape) * dtype.itemsize != len(content) - buffer.tell() or min(shape, default=1) < 0:
        raise ValueError(f"an array of {shape} does not fit its {len(content):,} bytes")
    values = np.frombuffer(content, dtype, offset=buffer.tell())
    return values.reshape(shape, order="F" if by_columns else "C")


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


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
    if levels.dtype != np.uint8 or levels.ndim != 3 or not len(levels):
        raise ValueError("expected maps of 256 levels")
    if not (np.abs(ranges) <= _MOST).all():
        raise ValueError("expected maps with a finite range")
    low, high = ranges.T[:, :, None, None]
    return (low + levels * ((high - low) / np.float32(_LEVELS))).astype(np.float32)
