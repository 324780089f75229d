"""CorLoc and its parts, against answers worked out by hand and an independent scalar IoU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from lost_reg.boxes import centred_box, iou, is_found
from lost_reg.errors import LostRegError
from lost_reg.scoring.corloc import objects_that_count, score, wilson_interval
from lost_reg.types import ImageTruth


def truth(name, boxes, *, size_hw=(100, 100), hard=None) -> ImageTruth:
    labels = ("thing",) * len(boxes)
    return ImageTruth(name, name, size_hw, tuple(boxes), labels, tuple(hard or (False,) * len(boxes)))


def by_name(*truths: ImageTruth) -> dict[str, ImageTruth]:
    return {one.image: one for one in truths}


def scalar_iou(a, b) -> float:
    """The textbook's, one number at a time."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area_a + area_b - width * height)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 10, 10), 1.0),  # identical
        ((0, 0, 5, 10), 0.5),  # one half of it
        ((2, 3, 4, 8), 0.1),  # inside: 10 of 100
        ((-10, -10, 20, 20), 1 / 9),  # around it: 100 of 900
        ((5, 0, 15, 10), 50 / 150),  # half over half
        ((9, 9, 19, 19), 1 / 199),  # one pixel
        ((10, 0, 20, 10), 0.0),  # touching at an edge: with + 1 they would overlap
        ((10, 10, 20, 20), 0.0),  # touching at a corner
        ((30, 40, 50, 60), 0.0),  # disjoint
        ((30, 0, 50, 10), 0.0),  # disjoint in x alone
        ((5, 5, 5, 5), 0.0),  # a point inside
        ((2, 5, 8, 5), 0.0),  # a line inside
    ],
)
def test_iou_of_ten_by_ten_box(other, expected):
    assert iou((0, 0, 10, 10), np.array([other])) == pytest.approx([expected])
    assert iou(other, np.array([(0, 0, 10, 10)])) == pytest.approx([expected])


def test_iou_with_many_boxes_and_with_none():
    others = np.array([(0, 0, 10, 10), (0, 0, 5, 10), (20, 20, 30, 30)])
    assert iou((0, 0, 10, 10), others).tolist() == [1.0, 0.5, 0.0]
    assert iou((0, 0, 10, 10), np.empty((0, 4))).shape == (0,)


def test_two_empty_boxes_are_not_the_same_box():
    assert iou((5, 5, 5, 5), np.array([(5, 5, 5, 5)])).tolist() == [0.0]


def test_iou_is_the_scalar_one_on_random_boxes():
    random = np.random.default_rng(0)
    corners = random.integers(0, 30, (5000, 2, 2, 2))  # (pairs, boxes, corners, xy)
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2)  # (pairs, boxes, 4)
    boxes = boxes + random.choice([0, 0.25, 1 / 3], boxes.shape[:1])[:, None, None]
    got = [iou(one, other[None])[0] for one, other in boxes]
    assert got == pytest.approx([scalar_iou(one, other) for one, other in boxes.tolist()], abs=1e-12)
    assert sum(value > 0 for value in got) > 1000  # they do overlap
    many = iou(boxes[0, 0], boxes[:, 1])  # one with all at once
    assert many == pytest.approx([scalar_iou(boxes[0, 0].tolist(), b) for b in boxes[:, 1].tolist()])


def test_exactly_one_half_is_found_and_less_is_not():
    assert is_found((0, 0, 5, 10), np.array([(0, 0, 10, 10)]))
    assert not is_found((0, 0, 4.999, 10), np.array([(0, 0, 10, 10)]))
    assert is_found((0, 0, 5, 10), np.array([(50, 50, 60, 60), (0, 0, 10, 10)]))  # any object will do
    assert not is_found((0, 0, 5, 10), np.empty((0, 4)))


@pytest.mark.parametrize(
    ("found", "images"),
    [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (7, 16), (3102, 5011), (7385, 11540), (10047, 19817)],
)
def test_wilson_interval_is_scipys(found, images):
    expected = binomtest(found, images).proportion_ci(method="wilson")
    assert wilson_interval(found, images) == pytest.approx((expected.low, expected.high), abs=1e-14)


def test_centred_box():
    assert centred_box((100, 200), 0.8) == pytest.approx((20, 10, 180, 90))
    assert centred_box((100, 200), 1.0) == (0, 0, 200, 100)


def test_score_of_a_set_worked_out_by_hand():
    truths = by_name(
        truth("found", [(0, 0, 10, 10), (50, 50, 90, 90)]),
        truth("missed", [(50, 50, 90, 90)]),
        truth("undecodable", [(0, 0, 100, 100)]),
        truth("empty", []),
        truth("undecodable and empty", []),
        truth("not done", [(0, 0, 10, 10)]),
    )
    boxes = {"found": (50, 50, 90, 80), "missed": (0, 0, 10, 10), "empty": (0, 0, 10, 10)}
    got = score(boxes, truths, unusable=["undecodable", "undecodable and empty"])
    assert (got.images, got.found, got.corloc) == (3, 1, pytest.approx(100 / 3))
    assert (got.unusable, got.without_truth, got.not_done) == (1, 2, 1)
    expected = binomtest(1, 3).proportion_ci(method="wilson")
    assert got.interval == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-12)
    # the baselines need no pixels: both find the undecodable image's object (0.64 and 1), and no other
    assert (got.centred, got.whole) == (pytest.approx(100 / 3), pytest.approx(100 / 3))


def test_baselines_worked_out_by_hand():
    truths = by_name(
        truth("centre", [(10, 10, 90, 90)]),  # centred 1, whole 0.64
        truth("smaller", [(20, 20, 80, 80)]),  # centred 3600 / 6400, whole 0.36
        truth("left half", [(0, 0, 50, 100)]),  # centred 3200 / 8200, whole exactly 0.5
        truth("top half", [(0, 0, 100, 50)]),  # the same
        truth("corner", [(0, 0, 20, 20)]),  # neither
        truth("wide", [(0, 0, 200, 100)], size_hw=(100, 200)),  # centred 0.64, whole 1
    )
    got = score(dict.fromkeys(truths, (0, 0, 1, 1)), truths)
    assert (got.found, got.centred, got.whole) == (0, pytest.approx(50), pytest.approx(400 / 6))


def test_no_hard_drops_objects_and_images_left_with_none():
    truths = by_name(
        truth("mixed", [(0, 0, 10, 10), (50, 50, 90, 90)], hard=[True, False]),
        truth("hard alone", [(0, 0, 10, 10)], hard=[True]),
    )
    boxes = {"mixed": (0, 0, 10, 10), "hard alone": (0, 0, 10, 10)}
    got = score(boxes, truths)
    assert (got.images, got.found, got.without_truth) == (2, 2, 0)
    got = score(boxes, truths, count_hard=False)
    assert (got.images, got.found, got.without_truth) == (1, 0, 1)


def test_unusable_image_that_has_a_box_after_all_is_not_a_miss():
    truths = by_name(truth("a", [(0, 0, 10, 10)]))
    got = score({"a": (0, 0, 10, 10)}, truths, unusable=["a"])
    assert (got.found, got.unusable) == (1, 0)


@pytest.mark.parametrize("where", ["boxes", "unusable"])
def test_image_without_ground_truth_is_refused(where):
    truths = by_name(truth("a", [(0, 0, 10, 10)]))
    arguments = {"boxes": {"a": (0, 0, 10, 10)}, where: {"stranger.jpg": (0, 0, 1, 1)}}
    with pytest.raises(LostRegError, match=r"no ground truth for stranger\.jpg"):
        score(truths=truths, **arguments)


@pytest.mark.parametrize("boxes", [{}, {"empty": (0, 0, 10, 10)}])
def test_nothing_to_score_is_refused(boxes):
    with pytest.raises(LostRegError, match="nothing to score"):
        score(boxes, by_name(truth("empty", []), truth("not done", [(0, 0, 10, 10)])))


corner = st.integers(0, 20)
box = st.tuples(corner, corner, st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
image = st.tuples(st.lists(st.tuples(box, st.booleans()), max_size=3), st.one_of(st.none(), box))


@settings(max_examples=60)
@given(images=st.lists(image, min_size=1, max_size=12), count_hard=st.booleans(), data=st.data())
def test_properties(images, count_hard, data):
    truths, boxes, unusable = {}, {}, []
    for number, (objects, found_box) in enumerate(images):
        name = str(number)
        truths[name] = truth(name, [b for b, _ in objects], size_hw=(40, 40), hard=[h for _, h in objects])
        if found_box is None:
            unusable.append(name)
        else:
            boxes[name] = found_box
    try:
        got = score(boxes, truths, unusable=unusable, count_hard=count_hard)
    except LostRegError:
        assert all(not any(count_hard or not hard for _, hard in objects) for objects, _ in images)
        return
    assert 0 <= got.found <= got.images - got.unusable
    assert got.images + got.without_truth + got.not_done == len(truths)
    assert 0 <= got.interval[0] <= got.corloc <= got.interval[1] <= 100
    shuffled = {name: truths[name] for name in data.draw(st.permutations(list(truths)))}
    reversed_boxes = dict(reversed(boxes.items()))
    assert score(reversed_boxes, shuffled, unusable=unusable[::-1], count_hard=count_hard) == got


@given(images=st.integers(1, 20_000), data=st.data())
def test_interval_holds_the_share(images, data):
    found = data.draw(st.integers(0, images))
    low, high = wilson_interval(found, images)
    assert 0 <= low <= found / images <= high <= 1
    assert low < high


def test_objects_that_count_keep_their_labels():
    boxes = ((0, 0, 1, 1), (0, 0, 2, 2), (0, 0, 3, 3))
    image = ImageTruth("a.jpg", "a", (10, 10), boxes, ("bird", "cat", "dog"), (True, False, True))
    assert objects_that_count(image) == image
    assert objects_that_count(image, count_hard=False) == ImageTruth(
        "a.jpg", "a", (10, 10), ((0, 0, 2, 2),), ("cat",), (False,)
    )
