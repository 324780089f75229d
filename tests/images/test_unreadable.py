"""Files that cannot be used as images: refused by what they are, whatever a decoder makes of them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.reading import read_image

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [10, 20, 30], [200, 100, 50]]], np.uint8)
GREY_16 = np.random.default_rng(0).integers(0, 65536, (3, 5), dtype=np.uint16)


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_image(path, apply_exif=True)
    assert isinstance(caught.value, LostRegError)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.bmp", "a.webp"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refusal(path).startswith("cut off: " if name == "a.jpg" else "cannot be decoded: ")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_truncated_16_bit_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    cv2.imwrite(str(path), noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


def test_a_missing_file_and_a_folder_are_told_apart_from_a_damaged_one(tmp_path):
    assert refusal(tmp_path / "a.jpg") == f"no such file: '{tmp_path / 'a.jpg'}'"
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("size_wh", [(14_143, 14_143), (20_000, 20_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, size_wh):
    size, limit, cure = f"{size_wh[0] * size_wh[1] / 1e6:,.0f} million pixels", "200", "scale it down"
    (tmp_path / "a.png").write_bytes(png_header(size_wh))
    text = refusal(tmp_path / "a.png")
    assert text.startswith("too large: ") and all(part in text for part in (size, limit, cure))


def png_header(size_wh) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", *size_wh, 8, 2, 0, 0, 0)
    checked = header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + checked + struct.pack(">I", 10) + b"IDAT"


def test_a_side_that_would_grow_by_padding_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header((150_000_000, 1)))
    assert "a side of 150,000,000 pixels, and at most 100,000" in refusal(tmp_path / "a.png")


def test_a_file_that_no_image_needs_is_not_read(tmp_path):
    with (tmp_path / "a.webp").open("wb") as file:
        file.truncate(2**40)  # sparse
    assert refusal(tmp_path / "a.webp").startswith("too large: a file of 1,024.0 GiB, and at most 1 is read")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("/dev/zero")
    for name in ("a.jpg", "b.jpg"):
        assert refusal(tmp_path / name).startswith("not a regular file")


def test_what_the_file_system_says_is_not_taken_for_damage(tmp_path):
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    assert refusal(tmp_path / "a.jpg") == "cannot be read: Too many levels of symbolic links"


def test_formats_that_run_other_programs_are_refused(tmp_path):
    """Pillow hands EPS to Ghostscript, which is a whole programming language."""
    Image.fromarray(RGB).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    assert refusal(tmp_path / "a.jpg").startswith("PostScript: ")


def test_a_camera_of_150_megapixels_is_no_bomb():
    assert Image.MAX_IMAGE_PIXELS >= 150_000_000


@pytest.mark.parametrize("error", [TypeError("odd tag"), cv2.error("assertion"), struct.error("unpack")])
def test_whatever_a_decoder_raises_is_a_refusal(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error

    Image.fromarray(RGB[:, :, 0]).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", broken)
    assert refusal(tmp_path / "a.png") == f"cannot be decoded: {error}"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what Pillow thinks of such files
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, suffix):
    path, random = tmp_path / f"a.{suffix}", np.random.default_rng(2)
    Image.fromarray(GREY_16 if suffix == "tif" else RGB).save(path)
    whole = np.fromfile(path, np.uint8)
    outcomes = set()
    for _ in range(60):
        damaged = whole[: random.integers(len(whole) // 2, len(whole) + 1)].copy()
        damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
        damaged.tofile(path)
        try:
            read_image(path, apply_exif=True)
            outcomes.add("read")
        except UnreadableImage:
            outcomes.add("refused")
    assert "refused" in outcomes
