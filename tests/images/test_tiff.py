"""TIFF by its tags: each combination gives what tifffile reads, or is refused by name."""

from __future__ import annotations

import io
import itertools
import math
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images import reading
from lost_reg.images.reading import image_size, read_image

pytest.importorskip("tifffile", reason="comes with scikit-image")
import tifffile
from tiff_files import COLOURS, ENCODERS, PREDICTABLE, SIZE_HW, premultiplied, samples, written

EXTRAS = ((), ("assocalpha",), ("unassalpha",), ("unspecified",), ("unassalpha", "unspecified"))


def read(content: bytes) -> np.ndarray:
    return read_image(content, apply_exif=True).astype(int)


def refusal(content: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_image(content, apply_exif=True)
    return str(caught.value)


def seen(values: np.ndarray, photometric: str, bits: int, extra: tuple[str, ...]) -> np.ndarray:
    """What is to be seen on white, in floating-point arithmetic."""
    shares, colours = values / (2**bits - 1), COLOURS[photometric]
    if photometric == "separated":
        rgb = (1 - shares[:, :, :3]) * (1 - shares[:, :, 3:4])
    else:
        rgb = shares[:, :, :colours]
        rgb = 1 - rgb if photometric == "miniswhite" else rgb
    if "assocalpha" in extra:
        rgb = np.minimum(rgb + 1 - shares[:, :, colours, None], 1)
    elif "unassalpha" in extra:
        alpha = shares[:, :, colours, None]
        rgb = rgb * alpha + 1 - alpha
    return np.round(np.broadcast_to(rgb, (*SIZE_HW, 3)) * 255)


def _by_hand(tags: dict[int, int], data: bytes, colour_map: np.ndarray | None = None) -> bytes:
    """A TIFF of one strip."""
    data += b"\0" * (len(data) % 2)
    tags = {**tags, 273: 8, 279: len(data)}
    maps = b"" if colour_map is None else colour_map.astype("<u2").tobytes()
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    if maps:
        entries[320] = struct.pack("<HHII", 320, 3, len(maps) // 2, 8 + len(data))
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(maps)) + data + maps + directory


def layouts() -> list[dict[str, object]]:
    return [
        {"compression": compression, "tiled": tiled, "predictor": predictor, "order": order}
        for compression, tiled, predictor, order in itertools.product(
            ENCODERS, (False, True), (False, True), "<>"
        )
        if not predictor or compression in PREDICTABLE
    ]


@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planar"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
def test_every_layout_of_grey_and_rgb_is_read_exactly(photometric, bits, planar):
    for extra in EXTRAS:
        count = COLOURS[photometric] + len(extra)
        if count == 1 and planar:
            continue
        values = samples(count, bits)
        if "assocalpha" in extra:
            values = premultiplied(values, bits)
        expected = seen(values, photometric, bits, extra)
        for layout in layouts():
            content = written(values, photometric, planar=planar, extra=extra, **layout)
            if photometric != "rgb" and "unspecified" in extra:
                assert refusal(content).startswith(f"a TIFF with {count} bands")
            else:
                assert np.array_equal(read(content), expected), (extra, layout)


def test_what_the_tests_write_is_what_tifffile_reads():
    """Where tifffile needs no further package to decode it."""
    for planar, bits, layout in itertools.product((False, True), (8, 16), layouts()):
        if layout["compression"] in ("lzw", "zstd") or layout["predictor"]:
            continue
        values = samples(3, bits)
        found = tifffile.imread(io.BytesIO(written(values, "rgb", planar=planar, **layout)))
        assert np.array_equal(np.moveaxis(found, 0, 2) if planar else found, values), (planar, layout)


def test_the_planar_file_of_the_report(tmp_path):
    y, x = np.mgrid[:64, :64]
    planes = np.stack([x * 1040, y * 1040, 0 * x]).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    found = read_image(tmp_path / "a.tif", apply_exif=True)
    assert found.tolist() == np.round(np.moveaxis(planes, 0, 2) / 257).astype(int).tolist()


@pytest.mark.parametrize("planar", [False, True])
def test_cmyk_of_8_bits_is_read_and_other_cmyk_refused(planar):
    values = samples(4, 8)
    for layout in layouts():
        found = read(written(values, "separated", planar=planar, **layout))
        assert np.abs(found - seen(values, "separated", 8, ())).max() <= 1, layout
    assert "photometric 5" in refusal(written(samples(4, 16), "separated", planar=planar))
    for extra in EXTRAS[1:4]:
        assert "photometric 5" in refusal(written(samples(5, 8), "separated", planar=planar, extra=extra))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", [0, 1, 3])
def test_few_bits_and_palettes(bits, photometric):
    """Written by Pillow, as tifffile cannot pack bits: 16-bit colour maps, and those of 8-bit values."""
    values = np.arange(2**bits)[None].repeat(3, axis=0)
    rows = [np.packbits(((row[:, None] >> np.arange(bits)[::-1]) & 1).ravel()) for row in values]
    colours = np.random.default_rng(0).integers(0, 65536, (3, 2**bits))
    scales = (1, 256) if photometric == 3 else (1,)
    for scale, (name, encode) in itertools.product(scales, ENCODERS.items()):
        code = 1 if name == "none" else tifffile.COMPRESSION[name.upper()].value
        tags = {256: 2**bits, 257: 3, 258: bits, 259: code, 262: photometric, 277: 1, 278: 3}
        data = encode(np.concatenate(rows).tobytes())
        content = _by_hand(tags, data, colours // scale if photometric == 3 else None)
        if photometric == 3:
            expected = np.moveaxis(colours[:, values] / 257, 0, 2)
        else:
            shares = values / (2**bits - 1)
            expected = np.repeat((shares if photometric else 1 - shares)[:, :, None] * 255, 3, axis=2)
        assert np.abs(read(content) - expected).max() <= 1, (scale, name)


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_ccitt", "group3", "group4", "tiff_lzw"])
@pytest.mark.parametrize("fill_order", [1, 2])
def test_faxes(compression, fill_order):
    bits = np.random.default_rng(0).random((9, 30)) < 0.3
    if compression:
        file = io.BytesIO()
        Image.fromarray(bits).save(file, "TIFF", compression=compression, tiffinfo={266: fill_order})
        content = file.getvalue()
    else:
        data = np.packbits(bits, axis=1, bitorder="big" if fill_order == 1 else "little").tobytes()
        tags = {256: 30, 257: 9, 258: 1, 259: 1, 262: 1, 266: fill_order, 277: 1, 278: 9}
        content = _by_hand(tags, data)
    assert np.array_equal(read(content)[:, :, 0], bits * 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_jpeg_in_tiff_is_what_opencv_reads(mode):
    values = samples(3, 8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, "TIFF", compression="jpeg")
    expected = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(read(file.getvalue()) - expected).max() <= 1
    grey = values @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read(file.getvalue()) - (grey[:, :, None] if mode == "L" else values)).mean() < 4


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_that_of_pillow(bits, orientation):
    values = samples(4, bits)
    content = written(
        values, "rgb", extra=("unspecified",), extratags=[(274, 3, 1, orientation, True)], planar=bits == 16
    )
    file = io.BytesIO()
    Image.fromarray(np.round(values[:, :, :3] / (1 if bits == 8 else 257)).astype(np.uint8)).save(
        file, "TIFF", tiffinfo={274: orientation}
    )
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert np.array_equal(read(content), expected)
    assert image_size(content) == expected.shape[:2]


def test_big_tiff_and_the_first_of_several_pages(tmp_path):
    for planar, bits in itertools.product((False, True), (8, 16)):
        values = samples(3, bits)
        expected = seen(values, "rgb", bits, ())
        assert np.array_equal(read(written(values, "rgb", planar=planar, bigtiff=True)), expected)
        with tifffile.TiffWriter(tmp_path / "a.tif") as pages:
            for page in (values, values[::-1]):
                pages.write(
                    np.moveaxis(page, 2, 0) if planar else page, photometric="rgb",
                    planarconfig="separate" if planar else "contig",
                )  # fmt: skip
        assert np.array_equal(read_image(tmp_path / "a.tif", apply_exif=True), expected)


def _as(dtype, count: int = 1, photometric: str = "minisblack", **options) -> bytes:
    file = io.BytesIO()
    shape = (8, 9) if count == 1 else (8, 9, count)
    tifffile.imwrite(file, np.ones(shape, dtype), photometric=photometric, metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "content, told",
    [
        (_as("f4"), "a TIFF of float numbers (32 bits)"),
        (_as("f2", 3, "rgb"), "a TIFF of float numbers (16 bits)"),
        (_as("i2"), "a TIFF of signed numbers (16 bits)"),
        (_as("i1"), "a TIFF of signed numbers (8 bits)"),
        (_as("c8"), "a TIFF of complex numbers"),
        (_as("u4"), "a TIFF of 32 bits per sample"),
        (_as("u1", 8, planarconfig="contig"), "a TIFF with 8 bands"),
        (_as("u2", 12, planarconfig="contig"), "a TIFF with 12 bands"),
        (_as("u1", 3, "cielab"), "photometric 8"),
        (_as("u2", 3, "ycbcr", subsampling=(1, 1)), "photometric 6"),
        (_as("u1", 3, "ycbcr", subsampling=(2, 2)), "photometric 6"),
        (_as("u1", 1, "cfa", extratags=[(33421, 3, 2, (2, 2)), (33422, 1, 4, bytes(4))]), "a raw photo"),
        (_by_hand({256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 266: 2, 277: 1, 278: 1}, b"ab"), "fill order 2"),
        (_by_hand({256: 2, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}, b"ab"), "does not say its size"),
        (_by_hand({256: 2, 257: 1, 258: 8, 259: 6, 262: 6, 277: 3, 278: 1}, b"ab"), "compression 6"),
        (_by_hand({256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1}, b"abc"), "12 bits per sample"),
        (_as("u2", 5, "rgb", extrasamples=["unspecified", "unassalpha"]), "extra (0, 2)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_other_kinds_are_refused_by_name(content, told):
    assert told in refusal(content) and "\n" not in refusal(content)


def test_alpha_without_a_tag_is_alpha():
    """As OpenCV writes it."""
    values = samples(4, 16)
    content = cv2.imencode(".tif", values[:, :, [2, 1, 0, 3]])[1].tobytes()
    assert np.array_equal(read(content), seen(values, "rgb", 16, ("unassalpha",)))


def test_a_truncated_plane_is_refused():
    for compression in ENCODERS:
        content = written(samples(3, 16), "rgb", planar=True, compression=compression)
        start = tifffile.TiffFile(io.BytesIO(content)).pages[0].dataoffsets[-1]
        assert refusal(content[: start + 2]), compression


def test_planes_whose_strips_are_not_all_named_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    for bits in (8, 16):
        path.write_bytes(written(samples(3, bits), "rgb", planar=True))
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tags = tiff.pages[0].tags
            tags["StripOffsets"].overwrite(tags["StripOffsets"].value[:-1])
        assert "strips or tiles are missing" in refusal(path.read_bytes())


def test_a_photo_of_150_megapixels_is_within_the_limits_in_16_bits(monkeypatch):
    """Although it has three times as many values as pixels."""
    monkeypatch.setattr(reading, "MOST_PIXELS", math.prod(SIZE_HW))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2 * math.prod(SIZE_HW))
    for planar in (False, True):
        read(written(samples(3, 16), "rgb", planar=planar))
    assert "too large" in refusal(written(samples(5, 16), "rgb", extra=("unspecified",) * 2))
