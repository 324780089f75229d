"""`read_values`: what PNG files of one channel store, unscaled."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.reading import read_values

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def grey_png(bits: int, row: bytes, width: int) -> bytes:
    """One row of grey, packed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def test_grey_and_palettes_of_any_depth():
    palette = Image.fromarray(VALUES, "P")
    palette.putpalette([*range(255, -1, -1)] * 3)
    for content in (encoded(Image.fromarray(VALUES)), encoded(palette), encoded(palette, bits=4)):
        found = read_values(content)
        assert found.dtype == np.uint8 and (found == VALUES).all()
    wide = VALUES.astype(np.uint16) * 5000
    found = read_values(cv2.imencode(".png", wide)[1].tobytes())
    assert found.dtype == np.uint16 and (found == wide).all()
    assert read_values(grey_png(4, bytes([0x1F, 0x37]), 4)).tolist() == [[1, 15, 3, 7]]
    assert read_values(grey_png(2, bytes([0b00011011]), 4)).tolist() == [[0, 1, 2, 3]]
    assert read_values(grey_png(1, bytes([0b10100000]), 4)).tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA"])
def test_several_channels_are_refused(mode):
    with pytest.raises(UnreadableImage, match="several channels"):
        read_values(encoded(Image.new(mode, (3, 3))))
