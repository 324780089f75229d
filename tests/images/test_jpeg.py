"""JPEG files that are cut off, and the colour models of JPEG."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.jpeg import NO_END_MARKER
from lost_reg.images.reading import read_image, read_noted

END = b"\xff\xd9"
NOISE = np.random.default_rng(0).integers(-20, 20, (90, 120, 3))
PIXELS = np.clip(np.mgrid[:90, :120].sum(axis=0)[:, :, None] + NOISE, 0, 255).astype(np.uint8)
KINDS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_blocks": 2},
    {"quality": 30},
]


def jpeg(form: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, **options)
    return file.getvalue()


def by_opencv(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def refusal(content: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_image(content, apply_exif=True)
    return str(caught.value)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize(
    "rest", [b"", b"\xff", bytes(16), bytes(5000)], ids=["nothing", "half", "zeros", "block"]
)
def test_a_file_without_its_end_marker_is_taken_with_a_note(options, rest):
    content = jpeg(**options)
    found, note = read_noted(content.removesuffix(END) + rest, apply_exif=True)
    assert note == NO_END_MARKER == "without its end marker"
    assert np.array_equal(found, read_image(content, apply_exif=True))
    assert np.abs(found.astype(int) - by_opencv(content)).max() <= 1


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_whole_file_has_no_note_whatever_follows_its_end(options):
    for rest in (b"", b"\0" * 100, b"a trailer of some camera"):
        found, note = read_noted(jpeg(**options) + rest, apply_exif=True)
        assert note is None and np.abs(found.astype(int) - by_opencv(jpeg(**options))).max() <= 1


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("zeros", [0, 4000])
def test_a_file_that_is_cut_in_its_rows_is_refused(options, zeros):
    """Also if the rest of the file was allotted, as by programs that download it."""
    content = jpeg(**options).removesuffix(END)
    start = content.rindex(b"\xff\xda") + 14  # the data of the last scan
    for left in (len(content) - 4, len(content) - 40, (start + len(content)) // 2, start + 10):
        assert refusal(content[:left] + bytes(zeros)).startswith("cut off: its last rows are missing"), left


def test_a_file_that_is_cut_between_two_restarts_is_refused():
    content = jpeg(restart_marker_blocks=2)
    restarts = [at for at in range(len(content)) if content[at] == 0xFF and 0xD0 <= content[at + 1] <= 0xD7]
    for at in restarts[-16:]:
        assert refusal(content[:at]).startswith("cut off"), at


def test_the_end_of_a_thumbnail_is_not_that_of_the_file():
    thumbnail = b"Exif\0\0" + jpeg(quality=5)
    content = jpeg()
    size = (len(thumbnail) + 2).to_bytes(2, "big")
    with_thumbnail = content[:2] + b"\xff\xe1" + size + thumbnail + content[2:]
    assert read_noted(with_thumbnail + bytes(99), apply_exif=True)[1] is None
    assert read_noted(with_thumbnail[:-2], apply_exif=True)[1] == NO_END_MARKER
    assert refusal(with_thumbnail[: len(with_thumbnail) - 300] + bytes(99)).startswith("cut off")


def test_a_file_that_is_cut_in_its_header_is_refused():
    content = jpeg()
    for left in (3, 30, 300):
        assert "cut off" in refusal(content[:left]) or refusal(content[:left]).startswith("cannot be decoded")


def test_several_pictures_in_one_file_are_judged_by_the_first():
    frames = {"save_all": True, "append_images": [Image.fromarray(PIXELS[::-1])]}
    content = jpeg("MPO", **frames)
    found, note = read_noted(content[: len(content) - 500], apply_exif=True)
    assert note is None and np.abs(found.astype(int) - PIXELS).mean() < 10
    assert refusal(content[: len(content) // 4]).startswith("cut off")


def _marked(content: bytes, transform: int | None) -> bytes:
    """A CMYK file with another Adobe marker, or without any."""
    at = content.index(b"\xff\xee")
    size = 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    marker = b"" if transform is None else content[at : at + size - 1] + bytes([transform])
    return content[:at] + marker + content[at + size :]


@pytest.mark.parametrize("transform", [None, 0, 2], ids=["unmarked", "CMYK", "YCCK"])
def test_cmyk_and_ycck_are_what_opencv_reads(transform):
    """Their values are stored inverted, as Adobe does."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(file, "JPEG", quality=95)
    content = _marked(file.getvalue(), transform)
    found = read_image(content, apply_exif=True).astype(int)
    assert np.abs(found - by_opencv(content)).max() <= 3
    if transform != 2:
        assert np.abs(found - PIXELS).mean() < 8


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_end_marker_after_a_cut_does_not_hide_it(options):
    """As tools that mend files add one: a decoder makes what is missing grey, without a word.

    A cut in the last interval between restarts is not noticed, here two units of 16 x 16 pixels; without
    restarts, one in the last unit.
    """
    content = jpeg(**options)
    whole = read_image(content, apply_exif=True)
    start = content.index(b"\xff\xda")
    for left in range(start + 20, len(content) - 2, 97):
        try:
            pixels, note = read_noted(content[:left] + END, apply_exif=True)
        except UnreadableImage as error:
            assert str(error).startswith("cut off: its last"), left
        else:
            assert note is None, left
            rows, columns = (pixels != whole).any(axis=2).nonzero()
            assert rows.min(initial=99) >= 79 and columns.min(initial=99) >= 95, (
                left,
                rows.min(),
                columns.min(),
            )


@pytest.mark.parametrize("end", [b"", END])
def test_a_progressive_image_without_its_last_scans_is_refused(end):
    content = jpeg(progressive=True)
    scans = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        tables = content.rindex(b"\xff\xc4", 0, at)  # the scan's own tables come before it
        assert refusal(content[:tables] + end).startswith("cut off: its last scans are missing"), at


def test_a_whole_image_that_ends_grey_is_read():
    grey = np.full((64, 64, 3), 128, np.uint8)
    for form in ({}, {"progressive": True}, {"subsampling": 0}):
        file = io.BytesIO()
        Image.fromarray(grey).save(file, "JPEG", **form)
        pixels, note = read_noted(file.getvalue(), apply_exif=True)
        assert note is None and (abs(pixels.astype(int) - 128) <= 1).all()
