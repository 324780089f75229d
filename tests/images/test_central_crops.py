"""The square at an image's centre, compared with torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from lost_reg.images.crops import centre_crop
from lost_reg.images.decoding import Decoding, decode
from lost_reg.types import Failure


def photo(height: int, width: int) -> np.ndarray:
    """Smooth with some noise, so that a shift by a fraction of a pixel shows."""
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + 2 * columns) / 13)]
    noise = np.random.default_rng(0).normal(0, 0.1, (height, width, 3))
    return ((np.stack(channels, axis=2) + noise).clip(-1, 1) * 127 + 128).astype(np.uint8)


SIZES = (
    ((300, 400), 256, 224),
    ((401, 257), 256, 224),
    ((32, 32), 256, 224),
    ((97, 350), 128, 112),
    ((60, 45), 64, 64),
)


@pytest.mark.parametrize("size_hw, shorter, side", SIZES)
def test_it_is_torchvisions(size_hw, shorter, side):
    pixels = photo(*size_hw)
    resize = transforms.Resize(shorter, transforms.InterpolationMode.BICUBIC)
    cropped = transforms.Compose([resize, transforms.CenterCrop(side)])
    theirs = np.asarray(cropped(Image.fromarray(pixels)))
    ours = centre_crop(pixels, shorter, side)
    difference = np.abs(ours.astype(int) - theirs)
    assert ours.shape == (side, side, 3)
    # Pillow rounds to 8 bits between its passes, over rows and columns, whose order depends on the size
    assert difference.max() <= 6 and difference.mean() < 0.3


def test_a_narrow_image_takes_no_memory_for_what_is_cut_off():
    assert centre_crop(np.full((1, 100_000, 3), 7, np.uint8), 256, 224).tolist() == [[[7] * 3] * 224] * 224


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_any_size_are_decoded_to_it(tmp_path, workers):
    Image.fromarray(photo(90, 60)).save(tmp_path / "a.png")
    decoding = Decoding(apply_exif=False, max_side=None, patch_size=16, crop=(40, 32))
    (one,) = decode([("a", tmp_path / "a.png")], decoding, workers=workers)
    assert (one.pixels == centre_crop(photo(90, 60), 40, 32)).all()
    assert (one.size_hw, one.original_hw) == ((32, 32), (90, 60))


def test_the_limit_on_patches_counts_those_of_the_square():
    image = photo(200, 300)
    within = Decoding(False, None, 16, max_patches=4, crop=(40, 32)).prepare("a", image)
    beyond = Decoding(False, None, 16, max_patches=3, crop=(40, 32)).prepare("a", image)
    assert not isinstance(within, Failure) and "4 patches" in beyond.reason
