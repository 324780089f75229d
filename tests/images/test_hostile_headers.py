"""Headers that announce, or consist of, far more than a file needs: read in bounded time and memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from colours import colour_backbone
from helpers import refusal
from PIL import Image

from lost_reg import LoaderOptions, discover_stream
from lost_reg.errors import UnreadableImage
from lost_reg.images import reading
from lost_reg.images.decoding import Decoding
from lost_reg.images.reading import MOST_BYTES, MOST_HEADER_BYTES, image_size, read_image
from lost_reg.images.sizes import header_sizes
from lost_reg.types import Failure


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
# What begins a file of almost a GiB, whose remaining bytes are a hole that takes no room on the disk.
SPARSE = {
    "a.tif": b"II*\0\x08\0\0\0\1\0"
    + b"\0\1\3\0"
    + (MOST_BYTES // 2 - 100).to_bytes(4, "little")
    + b"\x10\0\0\0",
    "a.webp": b"RIFF" + (MOST_BYTES - 100).to_bytes(4, "little") + b"WEBPVP8 " + b"\xff\xff\xff\x3f",
    "a.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "a.png": PNG,
    "a.jpg": b"\xff\xd8\xff\xe1\xff\xff",
    "a.jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 \x3f\xff\xff\xffjp2h",
    "a.gif": b"GIF89a\x08\0\x08\0\0\0\0" + b"\x21\xfe\xff",
    "a.bmp": b"BM",
}


@pytest.fixture
def hostile(tmp_path):
    """Files of almost the largest size that is opened, by format, and some of very many small parts."""
    for name, start in SPARSE.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(MOST_BYTES)
    (tmp_path / "chunks.png").write_bytes(PNG + chunk(b"teSt") * 100_000)
    (tmp_path / "segments.jpg").write_bytes(b"\xff\xd8" + b"\xff\xe2\0\2" * 100_000)
    (tmp_path / "comments.gif").write_bytes(b"GIF89a\x08\0\x08\0\0\0\0" + b"\x21\xfe\1x\0" * 100_000)
    return sorted(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_hostile_headers_are_passed_over_and_leave_the_run_small(hostile):
    script = f"""
import resource
from pathlib import Path
from lost_reg.images.sizes import header_sizes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert list(header_sizes(map(Path, {[str(one) for one in hostile]}))) == [None] * {len(hostile)}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    own, of_process = map(int, found.stdout.split())
    assert own < 2**15 and of_process < 2**20  # KiB


@pytest.mark.parametrize("name", ["chunks.png", "segments.jpg", "comments.gif", "a.tif", "a.webp"])
def test_what_is_read_of_a_header_is_bounded(hostile, name):
    (path,) = (one for one in hostile if one.name == name)
    with pytest.raises(UnreadableImage, match="its header is longer than the 16 MiB that are read"):
        image_size(path)


def tiff(tag: int, kind: int, count: int) -> bytes:
    """A TIFF of 8 x 8 grey pixels with a tag of so many values of a type, which follow its 200 bytes."""
    usual = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    tags = {one: (one, 4, 1, value) for one, value in usual.items()} | {tag: (tag, kind, count, 200)}
    packed = b"".join(struct.pack("<HHII", *tags[one]) for one in sorted(tags))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + packed).ljust(200, b"\0")


@pytest.mark.parametrize(
    ("tag", "kind", "count", "reason"),
    [
        (256, 11, 2**24, "a TIFF whose tag 256 has 67,108,864 bytes: it is damaged"),
        (258, 1, 2**25, "a TIFF whose tag 258 has 33,554,432 bytes: it is damaged"),
        (330, 4, 2**24, "a TIFF whose tag 330 has 67,108,864 bytes: it is damaged"),  # Pillow's
        (258, 2, 2**16, "a TIFF whose tags are no numbers: it is damaged, so get it again"),
        (273, 3, 2**28, "its header is longer than the 256 MiB that are read"),
    ],
)
def test_a_tag_of_endless_values_never_becomes_numbers_or_a_reason(tmp_path, tag, kind, count, reason):
    """They once took 3.6 GiB and 51 s, and a reason was 64 MB long."""
    path = tmp_path / "a.tif"
    with path.open("wb") as file:
        file.write(tiff(tag, kind, count))
        file.truncate(MOST_BYTES)
    assert refusal(read_image, path, apply_exif=True) == reason


def test_a_long_tag_of_bytes_such_as_photoshops_is_passed_over(tmp_path):
    path = tmp_path / "a.tif"
    with path.open("wb") as file:
        file.write(tiff(37724, 7, 2**25))
        file.truncate(2**26)
    assert read_image(path, apply_exif=True).shape == (8, 8, 3)


@pytest.mark.parametrize("error", [UnreadableImage, ValueError])
def test_a_reason_is_a_line_that_is_not_long(monkeypatch, error):
    def fail(*_):
        raise error("a\0\n" * 10**6)

    monkeypatch.setattr(reading, "what_it_is", fail)
    reason = refusal(image_size, b"an image")
    assert len(reason) < 2000 and reason.isprintable()


def test_a_decoder_reads_a_longer_header_but_no_endless_one(tmp_path, monkeypatch):
    """Photos of phones have other pictures in their headers."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    content = path.read_bytes()
    segment = b"\xff\xe2\xff\xff" + bytes(2**16 - 3)
    path.write_bytes(content[:2] + segment * (MOST_HEADER_BYTES // 2**16 + 1) + content[2:])
    assert list(header_sizes([path], workers=0)) == [None]
    assert read_image(path, apply_exif=True).shape == (8, 8, 3)
    monkeypatch.setattr(reading, "MOST_BYTES_BEFORE_PIXELS", path.stat().st_size // 2)
    assert "its header is longer" in refusal(read_image, path.read_bytes(), apply_exif=True)


def test_sizes_are_told_in_order_whatever_the_images_are(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (9, 5)).save(path)
    images = [path, tmp_path / "none.png", path.read_bytes(), np.zeros((3, 4, 3), np.uint8), str(path)]
    for workers in (None, 0):
        assert list(header_sizes(images, workers=workers)) == [(5, 9), None, (5, 9), (3, 4), (5, 9)]


# --- patches -----------------------------------------------------------------------------------------

TOO_MANY = "90 x 60 pixels are 24 patches, and at most 23 are used: `max_side` scales it down"


@pytest.mark.parametrize("form", ["path", "bytes", "array"])
def test_an_image_of_too_many_patches_is_refused_before_it_is_decoded(tmp_path, monkeypatch, form):
    path = tmp_path / "a.png"
    Image.new("RGB", (90, 60)).save(path)
    image = {"path": path, "bytes": path.read_bytes(), "array": np.zeros((60, 90, 3), np.uint8)}[form]

    def prepared(most, max_side=None, square=None):
        return Decoding(True, max_side, 16, square, max_patches=most).prepare("a", image)

    assert prepared(24).size_hw == (60, 90)
    assert prepared(6, 45).size_hw == (30, 45)
    assert "2,500" in prepared(2499, square=800).reason
    monkeypatch.setattr(reading, "load", None)  # decodes
    assert prepared(23) == Failure("a", TOO_MANY)


def test_the_limit_of_a_stream_is_that_of_its_loader():
    image = np.zeros((64, 64, 3), np.uint8)
    (outcome,) = discover_stream(
        [("a", image)], colour_backbone(), "lost", loader=LoaderOptions(workers=0, max_patches=63)
    )
    assert isinstance(outcome, Failure) and "64 patches" in outcome.reason
    assert "`max_patches`" in refusal(LoaderOptions, max_patches=0)
