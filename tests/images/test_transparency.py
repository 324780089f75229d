"""Transparent images are composited on a background, in every format that can be transparent."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lost_reg.errors import LostRegError
from lost_reg.images.colours import Samples, background_of, to_rgb
from lost_reg.images.in_memory import named_images
from lost_reg.images.reading import read_image

RGBA = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
RGBA[0, :3, 3] = (0, 255, 128)
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "#80ff01": (128, 255, 1)}


def saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def on(background: str, rgba: np.ndarray) -> np.ndarray:
    """Composited in floating-point arithmetic."""
    alpha = rgba[:, :, 3:] / 255
    return np.round(rgba[:, :, :3] * alpha + np.array(BACKGROUNDS[background]) * (1 - alpha))


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize(
    "form, options",
    [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("JPEG2000", {})],
)
def test_alpha_is_composited(form, options, background):
    content = saved(Image.fromarray(RGBA), form, **options)
    found = read_image(content, apply_exif=True, background=background)
    assert np.array_equal(found, on(background, RGBA))


def test_the_background_is_white_unless_one_is_given():
    content = saved(Image.fromarray(RGBA), "PNG")
    assert np.array_equal(read_image(content, apply_exif=True), on("white", RGBA))


def test_without_a_background_the_hidden_colours_are_shown():
    """As in runs before a background was recorded."""
    content = saved(Image.fromarray(RGBA), "PNG")
    assert np.array_equal(read_image(content, apply_exif=True, background=None), RGBA[:, :, :3])
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 200, 0])
    palette.putdata([0, 1])
    content = saved(palette, "PNG", transparency=0)
    assert read_image(content, apply_exif=True, background=None).tolist() == [[[255, 0, 0], [0, 200, 0]]]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_grey_with_alpha(background):
    content = saved(Image.fromarray(RGBA[:, :, [0, 3]], mode="LA"), "PNG")
    assert Image.open(io.BytesIO(content)).mode == "LA"
    found = read_image(content, apply_exif=True, background=background)
    assert np.array_equal(found, on(background, RGBA[:, :, [0, 0, 0, 3]]))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette(form):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 200, 0, 9, 8, 7])
    image.putdata([2, 0, 1])
    content = saved(image, form, transparency=0)
    assert read_image(content, apply_exif=True).tolist() == [[[9, 8, 7], [255, 255, 255], [0, 200, 0]]]


def test_opacities_of_a_palette():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 200, 0, 9, 8, 7])
    image.putdata([2, 0, 1])
    content = saved(image, "PNG", transparency=bytes([0, 128, 255]))
    assert read_image(content, apply_exif=True).tolist() == [[[9, 8, 7], [255, 255, 255], [127, 227, 127]]]


def test_a_transparent_colour_of_grey_and_rgb():
    rgb = RGBA[:, :, :3].copy()
    content = saved(Image.fromarray(rgb), "PNG", transparency=tuple(map(int, rgb[3, 4])))
    rgb[3, 4] = 255
    assert np.array_equal(read_image(content, apply_exif=True), rgb)
    grey = RGBA[:, :, 0]
    content = saved(Image.fromarray(grey), "PNG", transparency=int(grey[3, 4]))
    expected = np.where(grey == grey[3, 4], 255, grey)
    assert np.array_equal(read_image(content, apply_exif=True)[:, :, 1], expected)


def bitmap(rgba: np.ndarray) -> bytes:
    """A version 4 bitmap with a mask for alpha."""
    height, width = rgba.shape[:2]
    pixels = np.ascontiguousarray(rgba[:, :, [2, 1, 0, 3]]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 14 + 108) + header + pixels


def test_the_alpha_of_a_bitmap_counts_unless_it_is_zero_everywhere():
    """Programs that know no alpha leave it zero."""
    assert np.array_equal(read_image(bitmap(RGBA), apply_exif=True), on("white", RGBA))
    unset = np.dstack([RGBA[:, :, :3], 0 * RGBA[:, :, 3]])
    assert np.array_equal(read_image(bitmap(unset), apply_exif=True), RGBA[:, :, :3])


def test_heic_and_avif_with_alpha():
    flat = np.full((32, 32, 4), (200, 100, 50, 128), np.uint8)
    pytest.importorskip("pillow_heif")
    read_image(saved(Image.new("RGB", (2, 2)), "PNG"), apply_exif=True)
    from lost_reg.images.reading import heif_is_readable

    assert heif_is_readable()
    for form in ("HEIF", "AVIF"):
        content = saved(Image.fromarray(flat), form, quality=95)
        found = read_image(content, apply_exif=True, background="black")
        assert np.abs(found.astype(int) - on("black", flat)).max() <= 4, form


def test_the_orientation_of_a_transparent_image_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(RGBA), "PNG", exif=exif)
    assert np.array_equal(read_image(content, apply_exif=True), np.rot90(on("white", RGBA), -1))
    assert np.array_equal(read_image(content, apply_exif=False), on("white", RGBA))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_pil_images_are_composited_as_files_are(mode):
    image = Image.fromarray(RGBA)
    if mode == "La":
        image = image.convert("LA")
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    ((_, found),) = named_images(image, "#80ff01")
    expected = np.asarray((image.convert("LA") if mode == "La" else image).convert("RGBA"))
    assert np.array_equal(found, on("#80ff01", expected))
    ((_, on_white),) = named_images(image)
    assert np.array_equal(on_white, on("white", expected))


def test_a_pil_image_is_left_as_it_was():
    image = Image.fromarray(RGBA[:, :, 0])
    image.info["transparency"] = 3
    for background in ("white", None):
        named_images(image, background)
    assert image.info["transparency"] == 3


def test_every_value_of_16_bits_is_rounded():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    found = to_rgb(Samples(values, 65535), None)[:, :, 0]
    assert np.array_equal(found, np.round(values[:, :, 0] / 257))


@given(
    st.sampled_from([255, 65535]).flatmap(lambda most: st.tuples(*[st.integers(0, most)] * 2, st.just(most))),
    st.booleans(),
)
def test_compositing_is_rounded_arithmetic(values, is_premultiplied):
    """In both depths."""
    value, alpha, most = values
    value = min(value, alpha) if is_premultiplied else value
    kind = np.uint8 if most < 256 else np.uint16
    found = to_rgb(Samples(np.array([[[value, alpha]]], kind), most, is_premultiplied), "#404040")[0, 0, 0]
    share = alpha / most
    exact = value / most * (1 if is_premultiplied else share) * 255 + 64 * (1 - share)
    assert abs(found - exact) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "given, expected",
    [("white", "#ffffff"), ("Black", "#000000"), ("#FFF", "#ffffff"), ("rgb(1,2,3)", "#010203")],
)
def test_a_colour_has_one_name(given, expected):
    assert background_of(given) == expected


@pytest.mark.parametrize("wrong", ["whit", "", "#12345", "#ffffff80", "255,255,255"])
def test_what_is_no_opaque_colour_is_one_line(wrong):
    with pytest.raises(LostRegError) as caught:
        background_of(wrong)
    assert repr(wrong) in str(caught.value) and "`background`" in str(caught.value)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits(depth):
    """The grey of a tRNS chunk counts in the file's own levels: Pillow scales the pixels and not it."""
    most = 2**depth - 1
    levels = (np.arange(8)[None] % (most + 1)).astype(np.uint8)
    packed = np.packbits(np.unpackbits(levels[:, :, None], axis=2)[:, :, -depth:].reshape(1, -1), axis=1)
    for transparent in range(min(most + 1, 6)):
        content = _png(depth, packed.tobytes(), transparent)
        grey = np.where(levels == transparent, 255, levels * (255 // most))
        assert np.array_equal(read_image(content, apply_exif=False)[:, :, 0], grey), transparent


def _png(depth: int, row: bytes, transparent: int) -> bytes:
    """A grey PNG of 8 pixels in one row, written by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checked

    header = struct.pack(">IIBBBBB", 8, 1, depth, 0, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(b"\0" + row)),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in (*chunks, (b"IEND", b"")))
