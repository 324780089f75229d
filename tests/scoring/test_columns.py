"""Scores of columns are those of one image at a time; columns hold what was put into them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import found_object, prediction, refusal
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.boxes import centred_box, centred_boxes, found_objects, iou, is_found, paired_iou
from lost_reg.datasets.truths import Truths
from lost_reg.scoring.columns import AlignedBoxes, Columns, found_images, matching_objects
from lost_reg.scoring.corloc import objects_that_count
from lost_reg.scoring.prediction_files import image_names
from lost_reg.types import ImageTruth

SIDE = 12
corner = st.integers(0, SIDE) | st.sampled_from([0.5, 1 / 3, 7.25])
box = st.tuples(corner, corner, corner, corner).map(
    lambda one: (min(one[0], one[2]), min(one[1], one[3]), max(one[0], one[2]), max(one[1], one[3]))
)
marked = st.tuples(box, st.sampled_from("abc"), st.booleans(), st.booleans())


@st.composite
def images(draw) -> list[ImageTruth]:
    """Images with any number of objects, none included, and with or without sizes."""
    of_images = draw(st.lists(st.lists(marked, max_size=4), min_size=1, max_size=6))
    with_marks = draw(st.booleans())
    return [
        ImageTruth(
            image=f"{number}.jpg",
            image_id=str(number),
            size_hw=draw(st.none() | st.tuples(st.integers(1, SIDE), st.integers(1, SIDE))),
            boxes_xyxy=tuple(one[0] for one in objects),
            labels=tuple(one[1] for one in objects),
            hard=tuple(one[2] for one in objects),
            difficult=tuple(one[3] for one in objects) if with_marks else (),
        )
        for number, objects in enumerate(of_images)
    ]


@given(images())
def test_truths_are_what_they_were_made_of(images):
    truths = Truths.of(images)
    assert list(truths.values()) == images and list(truths) == [one.image for one in images]
    counting = truths.counting(count_hard=False)
    assert list(counting.values()) == [objects_that_count(one, count_hard=False) for one in images]


@given(images(), st.data())
def test_what_is_found_is_what_each_image_alone_gives(images, data):
    truths = Truths.of(images)
    boxes = data.draw(st.lists(box, min_size=len(images), max_size=len(images)))
    pairs = [(one, truth.boxes_xyxy) for one, truth in zip(boxes, images)]
    columns = np.array(boxes, float)
    alone = [match for pair in pairs for match in found_objects(*pair).tolist()]
    assert matching_objects(columns, truths).tolist() == alone
    assert found_images(columns, truths).tolist() == [is_found(*pair) for pair in pairs]


def test_half_is_enough():
    """LOST counts a box from an IoU of 0.5 on."""
    truths = Truths.of([ImageTruth("a", "a", None, ((0, 0, 4, 2), (0, 0, 4, 3)), ("x", "x"), (False, False))])
    assert matching_objects(np.array([[0, 0, 2, 2]], float), truths).tolist() == [True, False]


@given(st.lists(st.tuples(box, box), min_size=1))
def test_iou_pair_by_pair_is_that_of_each_pair_to_the_bit(pairs):
    first, second = np.array(pairs, float).transpose(1, 0, 2)
    assert paired_iou(first, second).tolist() == [iou(a, [b])[0] for a, b in pairs]


@given(st.lists(st.tuples(st.integers(0, 99_999), st.integers(0, 99_999)), min_size=1), st.floats(0.1, 1))
def test_centred_boxes_are_those_of_each_image_to_the_bit(sizes, side):
    expected = []
    for height, width in sizes:
        x, y = width * (1 - side) / 2, height * (1 - side) / 2
        expected.append((x, y, width - x, height - y))
    assert list(map(tuple, centred_boxes(np.array(sizes), side).tolist())) == expected
    assert [centred_box(size, side) for size in sizes] == expected


def test_of_an_image_listed_twice_the_last_counts_in_the_place_of_the_first():
    lines = [prediction("a", (0, 0, 1, 1)), prediction("b", (0, 0, 2, 2)), prediction("a", (0, 0, 3, 3))]
    columns = Columns.of_outcomes(iter(lines), ["c", "b", "c"])
    assert columns.names == ["a", "b"] and columns.failures == ["c"]
    assert columns.boxes_xyxy.tolist() == [[0, 0, 3, 3], [0, 0, 2, 2]]


def test_the_first_box_counts_and_nothing_is_an_empty_box():
    first, second = found_object((1, 2, 3, 4)), found_object((5, 6, 7, 8))
    columns = Columns.of_outcomes([prediction("a", first, second), prediction("b")], [])
    assert columns.boxes_xyxy.tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
    assert columns.sizes_hw.tolist() == [[96, 128]] * 2


TRUTHS = Truths.of(
    ImageTruth(name, image_id, (10, 10), ((0, 0, 5, 5),), ("a",), (False,))
    for name, image_id in (("x/a.jpg", "7"), ("x/b.jpg", "8"), ("x/c.jpg", "9"))
)


def test_boxes_are_put_into_the_rows_of_the_dataset_by_any_name():
    boxes, sizes = np.array([[0, 0, 1, 1.0], [0, 0, 2, 2]]), np.array([[3, 4], [5, 6]])
    columns = Columns(["c.jpg", "7"], boxes, sizes, ["b", "9"])
    names = image_names(columns.names, TRUTHS), image_names(columns.failures, TRUTHS)
    assert names == (["x/c.jpg", "x/a.jpg"], ["x/b.jpg", "x/c.jpg"])
    found = AlignedBoxes.align(columns, TRUTHS, *names)
    assert found.boxes_xyxy.tolist() == [[0, 0, 2, 2], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert found.sizes_hw.tolist() == [[5, 6], [0, 0], [3, 4]] and found.of_other_size(TRUTHS) == 2
    assert found.done.tolist() == [True] * 3
    assert found.failed.tolist() == [False, True, False]  # c.jpg was found under another name
    assert found.names == {"x/a.jpg": "7", "x/b.jpg": "b", "x/c.jpg": "c.jpg"}


def test_images_left_out_have_no_name():
    assert image_names(["a.jpg", "z.jpg"], TRUTHS, ["x/z.jpg"]) == ["x/a.jpg", None]
    assert "no ground truth for z.jpg" in refusal(image_names, ["a.jpg", "z.jpg"], TRUTHS)


@pytest.mark.parametrize("names", [["x/a.jpg", "x/b.jpg"], []])
def test_names_of_the_dataset_are_kept(names):
    assert image_names(names, TRUTHS) == names
