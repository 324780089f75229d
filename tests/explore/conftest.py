"""An image, and the page's features of it."""

from __future__ import annotations

import pytest

from lost_reg.backbones.loading import load_backbone
from lost_reg.explore.features import OneImage
from lost_reg.explore.reader import Reader, page_image


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny", device="cpu")


@pytest.fixture(scope="module")
def photo(tmp_path_factory, save_scene):
    """A file of 200 x 150 pixels, larger than the page's images in these tests."""
    return save_scene(tmp_path_factory.mktemp("photos") / "a.png", (150, 200), (40, 30, 150, 120))


@pytest.fixture(scope="module")
def image(of_page):
    """The photo at 131 x 98 pixels, which are no multiples of a patch's side."""
    return of_page.at[131, None]


@pytest.fixture(scope="module")
def of_page(photo):
    """The photo as the page has it at its `max_side` 131."""
    with Reader([photo]) as reader:
        return page_image(reader.listed(0), [(131, None)])


@pytest.fixture(scope="module")
def large(tmp_path_factory, save_scene):
    """A file of 1100 x 600 pixels, which presets scale down, each to its own size."""
    return save_scene(tmp_path_factory.mktemp("large") / "large.png", (600, 1100), (300, 100, 800, 450))


@pytest.fixture(scope="module")
def one(tiny, image):
    return OneImage(tiny, image)
