"""Small files that announce, or expand to, far more than they hold."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from fuzzing.whole_files import bmp, png, saved


def ihdr(width: int, height: int, bits: int = 8, colours: int = 2) -> list[tuple[bytes, bytes]]:
    return [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))]


def end(width: int, height: int) -> list[tuple[bytes, bytes]]:
    return [(b"IDAT", zlib.compress(bytes(height * (1 + 3 * width)))), (b"IEND", b"")]


def zeros_png(width: int, height: int, bits: int = 8, colours: int = 2) -> bytes:
    """A PNG of zeros, compressed row by row."""
    channels = {0: 1, 2: 3, 6: 4}[colours]
    row, packer, packed = bytes(1 + width * channels * bits // 8), zlib.compressobj(1), []
    for _ in range(height):
        packed.append(packer.compress(row))
    data = b"".join((*packed, packer.flush()))
    return png([*ihdr(width, height, bits, colours), (b"IDAT", data), (b"IEND", b"")])


def zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 10**6), 1)


def png_with(kind: bytes, data: bytes) -> bytes:
    return png([*ihdr(8, 8), (kind, data), *end(8, 8)])


def jpeg_with(segment: bytes, times: int) -> bytes:
    jpeg = saved("RGB", "JPEG")
    return jpeg[:2] + segment * times + jpeg[2:]


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each goes over the whole image."""
    file = io.BytesIO()
    Image.new("L", (side, side), 90).save(file, format="JPEG", progressive=True)
    data = file.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * scans + data[-2:]


def saved_large(form: str, side: int, **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, format=form, **options)
    return file.getvalue()


def tiff(tags: dict[int, int], counts: dict[int, int] | None = None, next_page: int = 0) -> bytes:
    """A TIFF of grey pixels with tags as they are given; counts: how many values a tag says to have."""
    usual = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    entries = sorted({**usual, **tags}.items())
    packed = b"".join(
        struct.pack("<HHII", tag, 4, (counts or {}).get(tag, 1), value) for tag, value in entries
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next_page)
    return head.ljust(200, b"\0") + bytes(64)


# By what they are; made when they are needed.
BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 60,000 x 60,000 zeros": lambda: zeros_png(60_000, 60_000),
    "png of 14,000 x 14,000 zeros, which is allowed": lambda: zeros_png(14_000, 14_000),
    "16-bit png of 14,000 x 14,000 zeros, which is allowed": lambda: zeros_png(14_000, 14_000, 16, 6),
    "png of 1 x 100,000,000": lambda: zeros_png(100_000_000, 1),
    "png with 100 MB of compressed text": lambda: png_with(b"zTXt", b"a\0\0" + zeros(100)),
    "png with 100 MB of colour profile": lambda: png_with(b"iCCP", b"a\0\0" + zeros(100)),
    "png with 100,000 chunks": lambda: png([*ihdr(8, 8), *[(b"tEXt", b"a\0b")] * 100_000, *end(8, 8)]),
    "jpeg with 16 MB of colour profile": lambda: jpeg_with(b"\xff\xe2\xff\xff" + bytes(65_533), 255),
    "jpeg with 16 MB of EXIF": lambda: jpeg_with(b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527), 255),
    "jpeg of 14,000 x 14,000 in 400 scans": lambda: many_scans(14_000, 400),
    "webp of 16,383 x 16,383": lambda: saved_large("WEBP", 16_383, lossless=True, method=0),
    "gif of 65,535 x 65,535": lambda: b"GIF89a\xff\xff\xff\xff" + saved("P", "GIF")[10:],
    "ppm of 999,999,999 x 999,999,999": lambda: b"P6 999999999 999999999 255\n" + bytes(100),
    "ppm of endless digits": lambda: b"P6 " + b"9" * 5_000_000,
    "ppm-text of 1,000,000 numbers": lambda: b"P3 577 577 255\n" + b"1 " * 1_000_000,
    "tiff of 4,294,967,295 x 1": lambda: tiff({256: 0xFFFFFFFF, 257: 1}),
    "tiff in one strip of 4 GiB": lambda: tiff({256: 8, 257: 8, 279: 0xFFFFFFFF}),
    "tiff with tiles of 2 GiB": lambda: tiff({322: 0x7FFFFFF0, 323: 0x7FFFFFF0, 324: 8, 325: 8}),
    "tiff with a tag of 4,294,967,295 values": lambda: tiff({256: 8, 257: 8}, counts={273: 0xFFFFFFFF}),
    "tiff whose pages are a circle": lambda: tiff({256: 8, 257: 8}, next_page=8),
    "tiff of deflated zeros, 14,000 x 14,000": lambda: saved_large(
        "TIFF", 14_000, compression="tiff_deflate"
    ),
    "bmp of 2,147,483,647 x 1": lambda: bmp(
        struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 1, 1, 24, *[0] * 6), 54
    ),
    "zeros": lambda: bytes(10_000_000),
}
