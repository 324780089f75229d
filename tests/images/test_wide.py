"""More than 8 bits in PNG, PGM, PPM and JPEG 2000: scaled by the highest value, rounded, and not cut."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.reading import read_image

WIDE = np.random.default_rng(0).integers(0, 65536, (64, 50, 4), dtype=np.uint16)
WIDE[0, :5, :] = np.array([0, 128, 129, 65406, 65535])[:, None]  # 0, 0.498, 0.502, 254.498 and 255 of 255


def read(content: bytes, background: str | None = "white") -> np.ndarray:
    return read_image(content, apply_exif=True, background=background).astype(int)


def on(colour: int, values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composited and in 8 bits, in floating-point arithmetic."""
    shares = alpha[:, :, None] / 65535
    return np.round(values / 257 * shares + colour * (1 - shares))


def png(values: np.ndarray, colour_type: int, transparent: bytes = b"") -> bytes:
    """(H, W, C) of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + (chunk(b"tRNS", transparent) if transparent else b"")
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_grey_is_scaled_and_not_cut():
    found = read(png(WIDE[:, :, :1], 0))
    assert found[0, :5, 0].tolist() == [0, 0, 1, 254, 255]
    assert np.array_equal(found, np.round(WIDE[:, :, [0, 0, 0]] / 257))


def test_colours_are_rounded_and_not_cut():
    assert np.array_equal(read(png(WIDE[:, :, :3], 2)), np.round(WIDE[:, :, :3] / 257))


@pytest.mark.parametrize("background, level", [("white", 255), ("black", 0), ("#808080", 128)])
def test_alpha_of_16_bits_is_composited_exactly(background, level):
    alpha = WIDE[:, :, 3]
    assert np.array_equal(read(png(WIDE, 6), background), on(level, WIDE[:, :, :3], alpha))
    found = read(png(WIDE[:, :, [0, 3]], 4), background)
    assert np.array_equal(found, on(level, WIDE[:, :, [0, 0, 0]], alpha))


def test_a_colour_that_stands_for_transparent_is_transparent():
    rgb, grey = png(WIDE[:, :, :3], 2, WIDE[3, 4, :3].astype(">u2").tobytes()), WIDE[:, :, :1]
    expected = np.round(WIDE[:, :, :3] / 257)
    expected[3, 4] = 255
    assert np.array_equal(read(rgb), expected)
    found = read(png(grey, 0, grey[3, 4].astype(">u2").tobytes()))
    expected = np.where(grey == grey[3, 4], 255, np.round(grey / 257))
    assert np.array_equal(found, expected.repeat(3, axis=2))


@pytest.mark.parametrize("most", [1, 7, 100, 255, 256, 1000, 1023, 4095, 65535])
@pytest.mark.parametrize("kind, channels", [("P5", 1), ("P6", 3), ("P2", 1), ("P3", 3)])
def test_a_pgm_or_ppm_is_scaled_by_its_own_highest_value(kind, channels, most):
    values = np.round(WIDE[:, :, :channels] / 65535 * most).astype(int)
    if kind in ("P5", "P6"):
        data = values.astype("u1" if most < 256 else ">u2").tobytes()
    else:
        data = b" ".join(b"%d" % value for value in values.ravel())
    content = b"%s\n%d %d\n%d\n" % (kind.encode(), WIDE.shape[1], WIDE.shape[0], most) + data
    found = read(content)
    assert np.abs(found - values / most * 255).max() <= 0.51  # rounded; a tie may go either way
    assert {0, 255} <= set(found.ravel())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_2000_of_16_bits_does_not_wrap_around(channels):
    """Pillow's white becomes black: it adds a half before it drops the lower bits."""
    values = WIDE[:, :, :channels] | 0xF000
    stored = values if channels == 1 else values[:, :, [2, 1, 0, 3][:channels]]
    content = cv2.imencode(".jp2", stored, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
    expected = (
        on(255, values[:, :, :3], values[:, :, 3]) if channels == 4 else np.round(values[:, :, :3] / 257)
    )
    assert np.array_equal(read(content), np.broadcast_to(expected, (64, 50, 3)))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_jpeg_2000_of_8_bits_is_what_was_written(mode):
    image = Image.fromarray((WIDE >> 8).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG2000")
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    assert np.abs(read(file.getvalue()) - np.asarray(expected.convert("RGB"))).max() <= 1


def test_jpeg_2000_of_another_depth_is_refused_by_name():
    content = bytearray(cv2.imencode(".jp2", WIDE[:, :, 0])[1].tobytes())
    content[content.index(b"\xff\x4f\xff\x51") + 42] = 11  # 12 bits
    with pytest.raises(UnreadableImage, match="JPEG 2000 of a depth"):
        read(bytes(content))


def test_a_large_image_takes_little_more_than_its_pixels(tmp_path):
    """Its 16-bit pixels and the 8-bit ones together: not several copies of them in 32 bits."""
    import subprocess

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((3000, 3000, 3), np.uint16))
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((3000, 3000, 3), np.uint16))
    script = (
        "import sys, resource; from pathlib import Path; from lost_reg.images.reading import read_image;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak();"
        "read_image(Path(sys.argv[1]), apply_exif=True); print((peak() - before) * 1024 / 3000**2)"
    )
    pytest.importorskip("resource")
    for name, most in (("a.png", 16), ("a.tif", 20)):
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        bytes_per_pixel = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert bytes_per_pixel < most, name
