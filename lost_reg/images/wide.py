"""Images of more than 8 bits, of which Pillow's conversion drops the lower ones; `tiff.py` has TIFF."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.colours import Samples
from lost_reg.lazy import cv2

_WITH_ALPHA = ("LA", "RGBA")
_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: its start, and that of its sizes
_BITS_AT = 40  # bytes after those two markers: of the first component; each takes three bytes
_SEARCHED = 2**16


def is_wide(image: Image.Image, file: BinaryIO) -> bool:
    """Whether an image that is not loaded yet has more than 8 bits.

    Raises:
        UnreadableImage: a JPEG 2000 of another depth than 8 or 16 bits.
    """
    if image.format == "PNG":
        tiles = getattr(image, "tile", None)  # how it is stored
        return bool(tiles) and ";16" in str(tiles[0][3])
    if image.format == "JPEG2000":
        return _bits_of_jpeg_2000(file) == 16
    return image.format == "PPM" and image.mode == "I"


def wide_samples(image: Image.Image, file: BinaryIO) -> Samples:
    """Its samples, once it is loaded: 16 bits, or scaled to 16.

    Raises:
        UnreadableImage: pixels that OpenCV does not decode.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # grey, of which Pillow keeps all bits; it scales a PGM to 16
        pixels = np.asarray(image).astype(np.uint16, copy=False)[:, :, None]
    else:
        pixels = _by_opencv(image, file)
    if image.mode in _WITH_ALPHA or transparent is None:
        return Samples(pixels, 65535)
    colours = pixels[:, :, :3]
    alpha = ~(colours == np.array(transparent)).all(axis=2, keepdims=True) * np.uint16(65535)
    return Samples(np.concatenate([colours, alpha], axis=2), 65535)


def _by_opencv(image: Image.Image, file: BinaryIO) -> np.ndarray:
    """(H, W, C) uint16: RGB, RGB and alpha, or grey and alpha as RGB and alpha."""
    size_hw = image.height, image.width
    image.im = None  # frees its pixels before new ones are allocated
    file.seek(0)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), flags)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != size_hw or pixels.ndim != 3:
        raise UnreadableImage("cannot be decoded: its 16-bit pixels are damaged")
    to_rgb = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(pixels, to_rgb, dst=pixels)


def _bits_of_jpeg_2000(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(_SEARCHED)
    at = head.find(_CODESTREAM) + len(_CODESTREAM) - 2
    sizes = head[at:]
    (count,) = struct.unpack_from(">H", sizes, _BITS_AT - 2)
    kinds = {one + 1 for one in sizes[_BITS_AT : _BITS_AT + 3 * count : 3]}
    if len(kinds) != 1 or not kinds <= {8, 16}:  # signed ones have bit 7 set
        raise UnreadableImage("JPEG 2000 of a depth that is not supported: convert it to 8 or 16 bits")
    return kinds.pop()
