"""The formats of phones, browsers and old programs, each by its suffixes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lost_reg.images.reading import HEIF_SUFFIXES, read_image, readable_suffixes

# Smooth, so that lossy formats keep it within a few levels.
SMOOTH = np.stack(
    [*np.broadcast_arrays(np.arange(48) * 4, np.arange(32)[:, None] * 6, 90)], axis=2
).astype(np.uint8)  # fmt: skip


@pytest.mark.parametrize(
    "suffix, format",
    [(".jfif", "JPEG"), (".jpe", "JPEG"), (".avif", "AVIF"), (".heic", "HEIF"), (".heif", "HEIF")],
)
def test_lossy_formats_are_read_under_each_of_their_suffixes(tmp_path, suffix, format):
    assert suffix in readable_suffixes()
    Image.fromarray(SMOOTH).save(tmp_path / f"a{suffix}", format=format, quality=95)
    found = read_image(tmp_path / f"a{suffix}", apply_exif=True)
    assert found.shape == SMOOTH.shape
    assert np.abs(found.astype(int) - SMOOTH).max() <= 8


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    for suffix in ("gif", "webp", "png", "avif"):
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], quality=100)
        found = read_image(tmp_path / f"a.{suffix}", apply_exif=True)
        assert np.abs(found.astype(int) - (255, 0, 0)).max() <= 4, suffix


def test_heic_counts_only_where_it_can_be_read(without_heif):
    assert not set(HEIF_SUFFIXES) & set(readable_suffixes())
