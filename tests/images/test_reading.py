"""Decoding to RGB by every way a file can be stored, and sizes."""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.reading import array_to_rgb, pad_to_patches, read_image, scaled, scaled_size

ORIENTATION = 0x0112
RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [10, 20, 30], [200, 100, 50]]], np.uint8)
WIDE = np.random.default_rng(0).integers(0, 65536, (3, 5, 4), dtype=np.uint16)


def read(path: Path) -> np.ndarray:
    """Read a file, a warning being an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path, apply_exif=True)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return pixels


def as_grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def in_8_bits(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257).astype(np.uint8)


# Formats and modes


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tiff", "a.PNG", "a.Tif"])
def test_lossless_formats_give_their_pixels(tmp_path, name):
    Image.fromarray(RGB).save(tmp_path / name)
    assert read(tmp_path / name).tolist() == RGB.tolist()


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp", "a.JPG"])
def test_lossy_formats_give_about_their_pixels(tmp_path, name):
    pixels = np.full((32, 48, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, quality=95)
    found = read(tmp_path / name)
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).max() <= 3


def test_the_content_decides_the_format_and_not_the_suffix(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", format="PNG")
    assert read(tmp_path / "a.jpg").tolist() == RGB.tolist()


def test_grey_is_repeated_in_each_channel(tmp_path):
    grey = np.array([[0, 1, 254], [255, 7, 100]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").tolist() == as_grey(grey).tolist()


def test_one_bit_is_black_and_white(tmp_path):
    bits = np.array([[0, 1, 1], [1, 0, 0]], bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    assert read(tmp_path / "a.png").tolist() == as_grey(bits * 255).tolist()


def test_palette_images_give_their_palettes_colours(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 200, 0, 9, 8, 7])
    image.putdata([2, 0, 1])
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert read(tmp_path / "a.png").tolist() == [[[9, 8, 7], [255, 0, 0], [0, 200, 0]]]


def test_cmyk_jpeg_is_converted_as_pillow_does(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)  # pure red
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() <= 4


def test_a_bitmap_of_16_bits_for_all_three_colours_is_no_16_bit_image(tmp_path):
    row = struct.pack("<HH", 0xF800, 0x07E0)  # pure red and pure green, in 5, 6 and 5 bits
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, len(row), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(header) + len(masks)
    (tmp_path / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", start + len(row), 0, 0, start) + header + masks + row
    )
    assert read(tmp_path / "a.bmp").tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_one_pixel_is_an_image(tmp_path):
    Image.fromarray(RGB[:1, :1]).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize("suffix", ["gif", "ppm"])
def test_other_common_formats_are_read(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}", apply_exif=True).shape == RGB.shape


def test_nothing_is_printed_or_warned_of(tmp_path, recwarn, capfd):
    """A folder of odd files must not flood the terminal."""
    image = Image.fromarray(RGB).convert("P")
    image.info["transparency"] = b"\x00\x80"
    image.save(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\xff\0\0\0")
    for name in ("a.png", "b.jpg"):
        read_image(tmp_path / name, apply_exif=True)
    shown = [one for one in recwarn.list if not issubclass(one.category, ResourceWarning)]  # of other tests
    assert not shown and capfd.readouterr() == ("", "")


# EXIF orientation

# What a viewer does with pixels that are stored under each orientation.
TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[:, ::-1],  # a quarter clockwise
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p.swapaxes(0, 1)[::-1],  # a quarter counter-clockwise
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied_or_not(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).resize((48, 32), Image.Resampling.NEAREST).save(path, exif=_exif(orientation))
    stored = np.asarray(Image.open(path).convert("RGB"))
    assert read_image(path, apply_exif=False).tolist() == stored.tolist()
    assert read_image(path, apply_exif=True).tolist() == TURNS[orientation](stored).tolist()


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied_or_not_to_a_16_bit_png(tmp_path, orientation):
    grey = WIDE[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png", exif=_exif(orientation))
    stored = as_grey(in_8_bits(grey))
    assert read_image(tmp_path / "a.png", apply_exif=False).tolist() == stored.tolist()
    assert read_image(tmp_path / "a.png", apply_exif=True).tolist() == TURNS[orientation](stored).tolist()


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("apply_exif", [True, False])
def test_the_orientation_of_a_tiff_is_applied_once_and_always(tmp_path, apply_exif, orientation):
    Image.fromarray(RGB).save(tmp_path / "8.tif", exif=_exif(orientation))
    found = read_image(tmp_path / "8.tif", apply_exif=apply_exif)
    assert found.tolist() == TURNS[orientation](RGB).tolist()
    grey = WIDE[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "16.tif", exif=_exif(orientation))
    found = read_image(tmp_path / "16.tif", apply_exif=apply_exif)
    assert found.tolist() == TURNS[orientation](as_grey(in_8_bits(grey))).tolist()


@pytest.mark.parametrize("pixels", [RGB, WIDE[:, :, 0]], ids=["8 bits", "16 bits"])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    assert read(tmp_path / "a.png").tolist() == read(tmp_path / "plain.png").tolist()


# Arrays


def test_an_rgb_array_is_taken_as_it_is_and_a_grey_one_repeated():
    assert array_to_rgb(RGB) is RGB
    assert array_to_rgb(RGB[:, :, 0]).tolist() == as_grey(RGB[:, :, 0]).tolist()


@pytest.mark.parametrize(
    "array, told",
    [
        (np.zeros((4, 5, 3), np.float32), "(4, 5, 3) and float32"),
        (np.zeros((4, 5, 4), np.uint8), "(4, 5, 4) and uint8"),
        (np.zeros((3, 4, 5), np.uint8), "(3, 4, 5) and uint8"),
        (np.zeros((1, 4, 5, 3), np.uint8), "(1, 4, 5, 3) and uint8"),
        (np.zeros(4, np.uint8), "(4,) and uint8"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3) and uint8"),
    ],
    ids=str,
)
def test_arrays_of_another_shape_or_type_are_refused(array, told):
    with pytest.raises(UnreadableImage, match=re.escape(f"but got {told}")):
        array_to_rgb(array)


# Sizes


@pytest.mark.parametrize(
    "size_hw, max_side, expected_hw",
    [
        ((30, 60), None, (30, 60)),
        ((30, 60), 60, (30, 60)),
        ((30, 60), 100, (30, 60)),  # never scaled up
        ((30, 60), 20, (10, 20)),
        ((60, 30), 20, (20, 10)),
        ((50, 75), 40, (27, 40)),  # 26.67
        ((1, 100), 10, (1, 10)),  # not below a pixel
        ((7, 7), 1, (1, 1)),
    ],
)
def test_the_longest_side_is_limited_and_the_aspect_kept(size_hw, max_side, expected_hw):
    assert scaled(np.zeros((*size_hw, 3), np.uint8), max_side).shape == (*expected_hw, 3)


def test_scaling_down_averages_areas():
    checks = as_grey(np.indices((8, 8)).sum(axis=0) % 2 * 200)
    assert scaled(checks, 4).tolist() == np.full((4, 4, 3), 100).tolist()


@pytest.mark.parametrize(
    "size_hw, padded_hw",
    [((16, 32), (16, 32)), ((17, 31), (32, 32)), ((1, 1), (16, 16)), ((15, 48), (16, 48))],
)
def test_padding_is_at_the_bottom_and_the_right(size_hw, padded_hw):
    pixels = np.full((*size_hw, 3), 9, np.uint8)
    padded = pad_to_patches(pixels, 16)
    assert padded.shape == (*padded_hw, 3)
    assert (padded[: size_hw[0], : size_hw[1]] == 9).all()
    assert padded.sum() == pixels.sum()


def test_a_square_has_both_sides_and_lanczos_pixels():
    assert scaled_size((48, 200), None, 32) == (32, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 200, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.LANCZOS)
    assert (scaled(pixels, None, 32) == np.asarray(expected)).all()
    assert scaled(pixels[:32, :32], None, 32).tolist() == pixels[:32, :32].tolist()
