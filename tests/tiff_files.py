"""TIFF files of every combination of tags, written with tifffile, and what is to be seen in them.

LZW, PackBits and Zstandard are encoded here, in ways that do not compress: tifffile needs a further package.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import tifffile

SIZE_HW = (19, 35)  # odd, so that strips and tiles do not come out even
COLOURS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
ROWS_PER_STRIP, TILE = 10, 16


def samples(count: int, bits: int) -> np.ndarray:
    """(H, W, count): ramps in several directions, from 0 to the highest value."""
    y, x = (axis / (axis.max()) for axis in np.mgrid[: SIZE_HW[0], : SIZE_HW[1]].astype(float))
    ramps = np.stack([x, y, x * 0 + 0.25, (x + y) / 2, 1 - x, 1 - y], axis=2)
    return np.round(ramps[:, :, :count] * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def premultiplied(values: np.ndarray, bits: int) -> np.ndarray:
    """The same with the colours multiplied by their alpha, the last channel."""
    alpha = values[:, :, -1:] / (2**bits - 1)
    return np.concatenate(
        [np.round(values[:, :, :-1] * alpha).astype(values.dtype), values[:, :, -1:]], axis=2
    )


def written(
    values: np.ndarray,
    photometric: str,
    *,
    planar: bool = False,
    compression: str = "none",
    tiled: bool = False,
    predictor: bool = False,
    order: str = "<",
    extra: tuple[str, ...] = (),
    **options,
) -> bytes:
    """The content of a TIFF of (H, W, C) values."""
    values = values.astype(values.dtype.newbyteorder(order))
    parts = [values[:, :, [index]] for index in range(values.shape[2])] if planar else [values]
    segments = [one for part in parts for one in _segments(part, tiled, predictor)]
    encode = ENCODERS[compression]
    encoded = [encode(np.ascontiguousarray(one).tobytes()) for one in segments]
    shape = values.shape[:2] if values.shape[2] == 1 else values.shape
    if planar:
        shape = (values.shape[2], *values.shape[:2])
    planes = None if values.shape[2] == 1 else "separate" if planar else "contig"
    file = io.BytesIO()
    tifffile.imwrite(
        file, iter(encoded), shape=shape, dtype=values.dtype, byteorder=order, photometric=photometric,
        planarconfig=planes, compression=None if compression == "none" else "zlib",
        predictor=predictor or None, extrasamples=extra or None, metadata=None,
        **({"tile": (TILE, TILE)} if tiled else {"rowsperstrip": ROWS_PER_STRIP}), **options,
    )  # fmt: skip
    file.seek(0)
    if compression != "none":
        with tifffile.TiffFile(file, mode="r+b") as tiff:
            tiff.pages[0].tags["Compression"].overwrite(tifffile.COMPRESSION[compression.upper()].value)
    return file.getvalue()


def _segments(values: np.ndarray, tiled: bool, predictor: bool) -> Iterator[np.ndarray]:
    height, width = values.shape[:2]
    rows, columns = (TILE, TILE) if tiled else (ROWS_PER_STRIP, width)
    if tiled:
        values = np.pad(values, ((0, -height % TILE), (0, -width % TILE), (0, 0)))
    for top in range(0, values.shape[0], rows):
        for left in range(0, values.shape[1], columns):
            one = values[top : top + rows, left : left + columns]
            if predictor:
                one = np.concatenate([one[:, :1], one[:, 1:] - one[:, :-1]], axis=1).astype(values.dtype)
            yield one


def _lzw(data: bytes) -> bytes:
    """Each byte as a code of its own, 9 bits long: the table is cleared before codes grow."""
    codes = [code for start in range(0, len(data), 250) for code in (256, *data[start : start + 250])]
    bits = np.array([*codes, 257])[:, None] >> np.arange(9)[::-1] & 1
    return np.packbits(bits.ravel().astype(bool)).tobytes()


def _packbits(data: bytes) -> bytes:
    runs = (data[start : start + 128] for start in range(0, len(data), 128))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def _zstd(data: bytes) -> bytes:
    """A frame of one block that is stored as it is."""
    return (
        b"\x28\xb5\x2f\xfd\xa0"
        + struct.pack("<I", len(data))
        + (len(data) << 3 | 1).to_bytes(3, "little")
        + data
    )


ENCODERS = {
    "none": bytes,
    "deflate": zlib.compress,
    "adobe_deflate": zlib.compress,
    "lzma": partial(lzma.compress, preset=0),
    "lzw": _lzw,
    "packbits": _packbits,
    "zstd": _zstd,
}
PREDICTABLE = ("deflate", "adobe_deflate", "lzma", "lzw", "zstd")
