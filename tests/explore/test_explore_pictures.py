"""The page's pictures: one size for an image, a square for each patch, without the padding."""

from __future__ import annotations

import numpy as np
import pytest

from lost_reg.explore.pictures import canvas_hw, map_picture, objects_picture, outlined, photo, signed_picture
from lost_reg.explore.views import rescaled
from lost_reg.images.batching import DecodedImage
from lost_reg.report.pictures import ramp
from lost_reg.runs.pictures import BOX_COLOUR
from lost_reg.types import FoundObject, Prediction


@pytest.fixture
def wide():
    """60 x 20 pixels: with patches of 16, a grid of 2 x 4, whose last row and column are mostly padding."""
    pixels = np.full((20, 60, 3), 90, np.uint8)
    return DecodedImage("a", pixels, (20, 60), (200, 600))


def at(picture, image, row: float, column: float) -> tuple[int, ...]:
    """The colour at a place given in pixels of the image."""
    scale = picture.width / image.size_hw[1]
    return picture.getpixel((round(column * scale), round(row * scale)))


def test_all_have_one_size(wide):
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert canvas_hw(wide.original_hw) == (171, 512)
    for picture in (photo(wide), map_picture(wide, values, 16), signed_picture(wide, values, 16, (0, 0))):
        assert picture.size == (512, 171)


def test_a_picture_has_the_images_proportions_also_where_a_method_sees_a_square(wide):
    square = DecodedImage("a", np.full((48, 48, 3), 90, np.uint8), (48, 48), (200, 600))
    values = np.zeros((3, 3), np.float32)
    values[0, 2] = 1
    picture = map_picture(square, values, 16)
    assert photo(square).size == picture.size == (512, 171)
    colours = [picture.getpixel(place) for place in ((500, 50), (350, 50), (330, 50), (500, 65))]
    assert colours == [ramp()[-1], ramp()[-1], ramp()[0], ramp()[0]]
    marked = outlined(picture, square, (0, 2), 16)  # from (341, 0) to (511, 56)
    assert {marked.getpixel((400, y)) for y in range(54, 60)} >= {(0, 0, 0), (255, 255, 255)}


def test_a_map_has_a_square_for_each_patch(wide):
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    picture = map_picture(wide, values, 16)
    for row, column in np.ndindex(2, 4):
        level = round(values[row, column] / 7 * (len(ramp()) - 1))
        for y, x in ((0.7, 0.7), (3, 11)):  # the last row shows four of its sixteen pixels
            assert at(picture, wide, 16 * row + y, 16 * column + x) == ramp()[level]
    assert at(picture, wide, 15.4, 15.4) == ramp()[0] != at(picture, wide, 0.5, 16.5)
    assert at(map_picture(wide, np.full((2, 4), 3.0), 16), wide, 5, 5) == ramp()[0]


def test_signs_have_colours_and_the_patch_an_outline(wide):
    values = np.array([[100.0, 2, -2, 0], [1, -1, 0, 0]], np.float32)
    picture = signed_picture(wide, values, 16, (0, 0))
    assert at(picture, wide, 8, 24) == (178, 24, 43)  # as strong as it gets, besides the patch itself
    assert at(picture, wide, 8, 40) == (33, 102, 172)
    assert at(picture, wide, 8, 56) == (247, 247, 247)
    red, green, blue = at(picture, wide, 18, 8)
    assert red > green and red > blue and green > 24  # half as strong
    across = {picture.getpixel((x, 68)) for x in range(130, 140)}  # from the patch into the next, at 136.5
    assert {(0, 0, 0), (255, 255, 255)} < across


def test_nothing_to_divide_by_is_no_error(wide):
    picture = signed_picture(wide, np.zeros((2, 4), np.float32), 16, (1, 3))
    assert at(picture, wide, 8, 24) == (247, 247, 247)


def test_boxes_are_where_they_belong(wide):
    found = FoundObject((16, 4, 48, 16), 0.5, (0, 1))
    picture = objects_picture(wide, Prediction("a", (20, 60), (2, 4), (found,)))
    assert at(picture, wide, 10, 16.1) == BOX_COLOUR and at(picture, wide, 10, 30) == (90, 90, 90)
    larger = rescaled(Prediction("a", (20, 60), (2, 4), (found,)), wide.original_hw)
    assert larger.size_hw == (200, 600) and larger.objects[0].box_xyxy == (160, 40, 480, 160)
