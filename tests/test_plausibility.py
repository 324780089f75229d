"""Signals of a box that need no labels, worked by hand."""

from __future__ import annotations

import pytest
from helpers import found_object
from helpers import prediction as predicted
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.plausibility import (
    BORDER_STRIP,
    IMPLAUSIBLE,
    SINGLE_PATCH,
    WHOLE_IMAGE,
    Signals,
    implausible,
    implausible_kinds,
    signals,
)
from lost_reg.types import FoundObject

SIZE_HW, GRID_HW = (160, 320), (10, 20)  # in patches of 16


def kind_of(box_xyxy, size_hw=SIZE_HW, grid_hw=GRID_HW) -> str | None:
    return implausible(box_xyxy, size_hw, grid_hw)


def signals_of(one: FoundObject, size_hw=SIZE_HW, grid_hw=GRID_HW) -> Signals:
    """The signals of the second of two objects of an image."""
    return signals(one, predicted("a.jpg", (32, 32, 96, 96), one, size_hw=size_hw, grid_hw=grid_hw))


def test_signals_of_a_box():
    one = found_object((0, 32, 64, 160), degree=50, score=0.25)
    # 64 x 128 of 320 x 160 pixels; 50 of 199 other patches; the left edge and the lower one
    assert signals_of(one) == Signals(area=0.16, degree=50 / 199, score=0.25, borders=2)


def test_signals_are_those_of_the_object_that_is_named():
    one = FoundObject((320 - 16, 0, 320, 16), None, (0, 19), {"degree": 199})
    assert signals_of(one) == Signals(area=1 / 200, degree=1.0, score=None, borders=2)


def test_objects_of_a_method_without_degrees_have_none():
    one = FoundObject((0, 32, 64, 160), 0.5, (2, 0), {"loss": 3.0})
    assert signals_of(one) == Signals(area=0.16, degree=None, score=0.5, borders=2)


@pytest.mark.parametrize(
    "box, borders",
    [
        ((1, 1, 319, 159), 0),
        ((0, 1, 319, 159), 1),
        ((1, 0, 319, 159), 1),
        ((1, 1, 320, 159), 1),
        ((1, 1, 319, 160), 1),
        ((0, 0, 320, 160), 4),
    ],
)
def test_each_edge_counts(box, borders):
    assert signals_of(found_object(box)).borders == borders


def test_an_image_of_one_patch_has_signals():
    one = found_object((0, 0, 5, 3), degree=0)
    assert signals_of(one, (3, 5), (1, 1)) == Signals(1.0, 0.0, 0.25, 4)
    assert kind_of((0, 0, 5, 3), (3, 5), (1, 1)) == WHOLE_IMAGE


@pytest.mark.parametrize(
    "box, kind",
    [
        ((0, 0, 320, 160), WHOLE_IMAGE),
        ((0, 0, 320, 144), WHOLE_IMAGE),  # nine tenths
        ((0, 0, 272, 160), None),  # exactly 85 %
        ((0, 0, 273, 160), WHOLE_IMAGE),
        ((32, 32, 48, 48), SINGLE_PATCH),
        ((32, 32, 64, 48), None),  # two patches side by side, or one above the other
        ((32, 32, 48, 64), None),
        ((32, 32, 55, 55), SINGLE_PATCH),  # less than one and a half patches on each side
        ((32, 32, 56, 48), None),  # one and a half of them on one side
        ((32, 32, 48, 56), None),
        ((0, 0, 16, 16), SINGLE_PATCH),  # in a corner
        ((0, 0, 320, 16), BORDER_STRIP),  # along each of the edges
        ((0, 144, 320, 160), BORDER_STRIP),
        ((0, 0, 32, 160), BORDER_STRIP),
        ((288, 0, 320, 160), BORDER_STRIP),
        ((0, 0, 320, 20), None),  # an eighth of the image
        ((0, 0, 40, 160), None),
        ((0, 0, 304, 16), None),  # not along the whole of the edge
        ((0, 64, 320, 80), None),  # through the middle, as a snake or a train may lie
        ((160, 0, 176, 160), None),
        ((64, 32, 192, 128), None),
    ],
)
def test_implausible_shapes(box, kind):
    assert kind_of(box) == kind


def test_a_patch_that_the_image_ends_in_is_a_single_patch():
    # 150 x 310 pixels: the last row and column of patches are partly padding
    assert kind_of((304, 144, 310, 150), size_hw=(150, 310)) == SINGLE_PATCH
    assert kind_of((32, 32, 48, 48), size_hw=(150, 310)) == SINGLE_PATCH
    # a patch and the sliver of another are no more than one and a half; two and a sliver are more
    assert kind_of((288, 144, 310, 150), size_hw=(150, 310)) == SINGLE_PATCH
    assert kind_of((272, 144, 310, 150), size_hw=(150, 310)) is None


def test_a_single_patch_of_an_image_that_was_scaled_down():
    assert kind_of((100, 100, 150, 150), size_hw=(500, 1000)) == SINGLE_PATCH
    assert kind_of((100, 100, 200, 150), size_hw=(500, 1000)) is None


def test_all_objects_of_an_image_are_judged():
    of = {"size_hw": SIZE_HW, "grid_hw": GRID_HW}
    several = predicted("a.jpg", (0, 0, 320, 160), (0, 0, 320, 16), (32, 32, 96, 96), **of)
    assert implausible_kinds(several) == [WHOLE_IMAGE, BORDER_STRIP]
    assert implausible_kinds(predicted("a.jpg", (32, 32, 96, 96), **of)) == []
    assert implausible_kinds(predicted("a.jpg", **of)) == []


def test_boxes_are_judged_alike_in_pixels_and_in_patches():
    # 150 x 310 pixels: 9.375 x 19.375 patches of 16 on a grid of 10 x 20
    for box in [(0, 0, 20, 10), (0, 9, 19.375, 9.375), (18, 9, 19.375, 9.375), (2, 2, 3, 3), (2, 2, 6, 6)]:
        in_pixels = tuple(16 * side for side in box)
        assert kind_of(box, (9.375, 19.375)) == kind_of(in_pixels, (150, 310))


@given(st.tuples(*[st.integers(0, 20), st.integers(0, 10)] * 2))
def test_a_box_turned_over_is_as_plausible(corners):
    left, top, right, bottom = (16 * side for side in corners)
    box = min(left, right), min(top, bottom), max(left, right) + 16, max(top, bottom) + 16
    turned = box[1], box[0], box[3], box[2]
    size_hw, grid_hw = (176, 336), (11, 21)
    kind = kind_of(box, size_hw=size_hw, grid_hw=grid_hw)
    assert kind in (None, *IMPLAUSIBLE)
    assert kind_of(turned, size_hw=size_hw[::-1], grid_hw=grid_hw[::-1]) == kind
    mirrored = 336 - box[2], box[1], 336 - box[0], box[3]
    assert kind_of(mirrored, size_hw=size_hw, grid_hw=grid_hw) == kind
