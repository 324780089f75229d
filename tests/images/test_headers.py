"""What a file is that is no image: its reason says so, by its first bytes, and says what to do."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.reading import image_size, read_image


def refusal(content: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_image(content, apply_exif=True)
    with pytest.raises(UnreadableImage) as by_size:
        image_size(content)
    assert str(by_size.value) == str(caught.value)
    return str(caught.value)


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", b"x")
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return file.getvalue()


def _numpy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _saved(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, form)
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CONTENTS = {
    "an empty file": b"",
    "a file of zeros": bytes(1000),
    "an HTML page": b"<html>404: not found</html>",
    "an HTML page: ": b"\n  <!DOCTYPE html>\n<html lang=en>",
    "Git LFS pointer": POINTER,
    "`git lfs pull`": POINTER,
    "an SVG drawing": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an SVG drawing: ": b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg/>',
    "an XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a PDF": _saved("PDF"),
    "PostScript": _saved("EPS"),
    "an icon": _saved("ICO"),
    "a ZIP archive": _zip(),
    "an archive": gzip.compress(b"x"),
    "an archive: ": _tar(),
    "a video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(60),
    "a NumPy array": _numpy(),
    "a float image (PFM)": b"Pf\n2 1\n-1.0\n" + bytes(8),
    "a PAM image": b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(6),
    "a DICOM file": bytes(128) + b"DICM" + bytes(50),
    "a Photoshop document": b"8BPS\0\1" + bytes(20),
    "a JPEG XL image": b"\xff\x0a" + bytes(range(20)),
    "what macOS notes": b"\0\x05\x16\x07\0\2\0\0Mac OS X" + bytes(16),
    "but a text file": b"no image",
    "a JPEG file whose header is damaged or cut off": b"\xff\xd8\xff",
    "a PNG file whose header is damaged or cut off": b"\x89PNG\r\n\x1a\n",
    "not an image, or of a format that is not supported": b"\x01\x02\x03\x04\x80",
}


@pytest.mark.parametrize("told", CONTENTS)
def test_the_reason_says_what_the_file_is(told):
    text = refusal(CONTENTS[told])
    assert told in text and "\n" not in text


def test_a_heic_photo_names_what_reads_it(without_heif):
    assert refusal(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(99)) == (
        "a HEIC photo: `pip install 'lost-reg[heif]'` makes it readable"
    )


def test_an_avif_of_the_general_brand_is_no_heic(without_heif):
    content = bytearray(_saved("AVIF"))
    content[8:12] = b"mif1"
    assert read_image(bytes(content), apply_exif=True).shape == (16, 16, 3)


def test_no_image_is_taken_for_something_else():
    """Whatever its first pixels are: of formats whose header is short."""
    random = np.random.default_rng(0)
    for _ in range(200):
        pixels = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        for form in ("PPM", "BMP", "TIFF", "GIF"):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, form)
            read_image(file.getvalue(), apply_exif=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("\ufeff<html>".encode(), "an HTML page"),
        ("<!DOCTYPE html>".encode("utf-16"), "an HTML page"),
        ("just words".encode("utf-16"), "a text file"),
        (
            b"\0\0\x02\0\0\0\0\0\0\0\0\0\x08\0\x08\0\x18\0" + bytes(192),
            "not an image, or of a format",
        ),  # a TGA
        (b"RIFF\x24\0\0\0WAVEfmt ", "a sound"),
        (b"MM\0+\0\x08\0\0" + bytes(50), "a BigTIFF in big-endian order"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(20), "a HEIC photo whose header is damaged"),
    ],
)
def test_further_kinds(content, told):
    assert told in refusal(content)
