"""Several boxes against all objects: by hand, against scipy, and against all ways to match."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from detection import (
    Counts,
    auroc,
    best_ious,
    bootstrap_interval,
    count_images,
    matches,
    spearman,
    total,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lost_reg.boxes import iou
from lost_reg.types import ImageTruth

A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (90, 90, 99, 99)
ON_A = (0, 0, 10, 8)  # IoU 0.8 with A
HALF_OF_A = (0, 0, 10, 5)  # exactly 0.5
UNDER_HALF = (0, 0, 10, 4.9)


def truth(name, *boxes) -> ImageTruth:
    return ImageTruth(name, name, (100, 100), boxes, ("thing",) * len(boxes), (False,) * len(boxes))


@pytest.mark.parametrize(
    "boxes, objects, expected",
    [
        ([], [A], []),
        ([A, B], [], [None, None]),
        ([B, A], [A, B], [1, 0]),
        ([HALF_OF_A, UNDER_HALF], [A, A], [0, None]),
        ([A, ON_A], [A], [0, None]),  # an object is matched once
        ([ON_A, A], [A], [0, None]),  # by the first box, not by the one that fits best
        ([A, A], [ON_A, A], [1, 0]),  # the best object, and then the best that is left
        ([FAR, A], [A], [None, 0]),
    ],
)
def test_matches(boxes, objects, expected):
    assert matches(boxes, objects) == expected


def test_the_best_iou_is_of_each_box_alone():
    assert best_ious([A, ON_A, FAR], [A, B]) == pytest.approx([1, 0.8, 0])
    assert best_ious([A], []) == [0] and best_ious([], [A]) == []


def test_counts_of_a_dataset():
    truths = {"1": truth("1", A, B), "2": truth("2", A), "3": truth("3"), "4": truth("4", B)}
    boxes = {"1": [ON_A, A], "2": [A], "3": [A, B]}  # the fourth could not be used
    images = count_images(boxes, truths)
    assert images == [Counts(2, 2, 1), Counts(1, 1, 1), Counts(2, 0, 0), Counts(0, 1, 0)]
    assert total(images) == Counts(5, 4, 2)
    assert (total(images).precision, total(images).recall) == (0.4, 0.5)


def test_shares_of_nothing_are_not_numbers():
    assert math.isnan(Counts(0, 3, 0).precision) and math.isnan(Counts(3, 0, 0).recall)
    assert total([]) == Counts(0, 0, 0)


box = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=60)
@given(st.lists(box, max_size=4), st.lists(box, max_size=4))
def test_matches_are_one_to_one_and_at_least_half_of_the_best_possible(boxes, objects):
    found = matches(boxes, objects)
    taken = [one for one in found if one is not None]
    assert len(found) == len(boxes) and len(set(taken)) == len(taken)
    fits = [[iou(one, [other])[0] >= 0.5 for other in objects] for one in boxes]
    assert all(fits[index][one] for index, one in enumerate(found) if one is not None)
    # greedy matching takes an object wherever one is free, so it finds at least half as many as any other
    most = max(
        sum(fits[index][one] for index, one in zip(range(len(boxes)), order))
        for order in itertools.permutations(range(len(objects)), min(len(boxes), len(objects)))
    )
    more = max(
        (
            sum(fits[one][index] for index, one in enumerate(order))
            for order in itertools.permutations(range(len(boxes)), len(objects))
        ),
        default=0,
    )
    assert len(taken) <= max(most, more) <= 2 * len(taken)
    # the first so many boxes match as they do alone
    assert matches(boxes[:2], objects) == found[:2]


numbers = st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5), st.booleans()), min_size=2, max_size=30)


@settings(max_examples=60)
@given(numbers)
def test_rank_statistics_are_scipys(rows):
    a, b, positive = zip(*rows)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    else:
        assert math.isnan(spearman(a, b))
    if len(set(positive)) == 2:
        split = [[value for value, which in zip(a, positive) if which == wanted] for wanted in (True, False)]
        u = stats.mannwhitneyu(*split).statistic
        assert auroc(a, positive) == pytest.approx(u / len(split[0]) / len(split[1]))
    else:
        assert math.isnan(auroc(a, positive))


def test_auroc_by_hand():
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert auroc([4, 3, 2, 1], [False, False, True, True]) == 0
    assert auroc([1, 1], [False, True]) == 0.5
    assert auroc([1, 2, 2, 3], [False, True, False, True]) == 0.875  # of four pairs three and a tie


def test_the_bootstrap_draws_images():
    constant = bootstrap_interval(lambda images: float(np.mean(images)), [3.0] * 10)
    assert constant == (3, 3)
    low, high = bootstrap_interval(lambda images: float(np.mean(images)), [0.0, 1.0] * 50)
    # the mean of 100 throws of a coin has a standard error of 0.05
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02) and high == pytest.approx(0.598, abs=0.02)
    assert all(map(math.isnan, bootstrap_interval(lambda images: math.nan, [1, 2])))
    assert bootstrap_interval(lambda images: math.nan if 0.0 in images else 1.0, [1.0] * 9 + [0.0]) == (1, 1)
