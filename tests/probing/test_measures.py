"""Measures of probes against hand-worked values, scikit-learn and plain loops; intervals by simulation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from lost_reg.probing import measures
from lost_reg.probing.measures import difference_interval, interval, value, values


def column(*numbers) -> np.ndarray:
    return np.array(numbers, float)[:, None]


def by_hand(scores, is_true) -> float:
    """VOC2007's average precision by its definition: the best precision at 11 recalls or beyond."""
    points = []
    for cut in sorted(set(scores), reverse=True):
        kept = [truth for score, truth in zip(scores, is_true) if score >= cut]
        points.append((Fraction(sum(kept), sum(is_true)), sum(kept) / len(kept)))
    tenths = [Fraction(number, 10) for number in range(11)]
    return sum(max(one for recall, one in points if recall >= tenth) for tenth in tenths) / 11


def random_case(measure: str, random: np.random.Generator, images: int):
    """Rows and truth of a measure."""
    if measure == "map":
        truth = random.choice([-1, 0, 1], p=[0.1, 0.5, 0.4], size=(images, 3)).astype(np.int8)
        return random.normal(size=(images, 3)).round(1) + (truth > 0), truth
    if measure == "miou":
        shares = random.integers(0, 9, size=(images, 3))
        return np.hstack([shares, shares + random.integers(0, 9, size=(images, 3))]).astype(float), None
    if measure == "rmse":
        return random.gamma(2, size=(images, 1)), None
    truth = random.integers(3, size=images)
    return (random.random((images, 1)) < 0.5 + 0.2 * truth[:, None]).astype(float), truth


MEASURES = ("top1", "mean_per_class", "map", "miou", "rmse")


def test_values_worked_out_by_hand():
    assert value("top1", column(1, 0, 1, 1)) == 0.75
    # class 0: 1 of 2; class 2: 2 of 2; class 1 has no image
    assert value("mean_per_class", column(1, 0, 1, 1), np.array([0, 0, 2, 2])) == 0.75
    assert value("rmse", column(0.25, 0.75)) == 0.5
    # class 0: (2 + 1) / (4 + 2); class 1: 3 / 4; class 2 never occurs
    assert value("miou", np.array([[2, 3, 0, 4, 4, 0], [1, 0, 0, 2, 0, 0.0]])) == (3 / 6 + 3 / 4) / 2
    # the second and third of four are true: precision 1/2, then 2/3, which holds for the lower recall, too
    assert value("map", column(0.9, 0.8, 0.7, 0.6), column(0, 1, 1, 0) > 0) == pytest.approx(2 / 3)
    # a class without any image does not count
    truth = np.array([[True, False], [False, False]])
    assert value("map", np.array([[0.9, 0.5], [0.1, 0.6]]), truth) == 1


def test_images_of_equal_score_count_together():
    """Whatever their order, one of the two at 0.5 is true: precision 1 of 2."""
    for truth in ((1, 0), (0, 1)):
        assert value("map", column(0.5, 0.5), column(*truth) > 0) == 0.5


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1).filter(lambda x: any(t for _, t in x))
)
def test_average_precision_is_that_of_voc2007(images):
    scores, is_true = ([one[index] for one in images] for index in (0, 1))
    found = value("map", column(*scores), column(*is_true) > 0)
    assert found == pytest.approx(by_hand(scores, is_true))


def test_precision_and_recall_are_those_of_scikit_learn():
    random = np.random.default_rng(3)
    is_true, scores = random.random(300) < 0.3, random.normal(size=300).round(1)
    precision, recall, _ = precision_recall_curve(
        is_true, scores
    )  # the last is no image, but 1 by convention
    best = [precision[:-1][recall[:-1] >= tenth - 1e-9].max() for tenth in np.linspace(0, 1, 11)]
    assert value("map", scores[:, None], is_true[:, None]) == pytest.approx(np.mean(best))


def test_an_image_that_does_not_count_for_a_class_is_left_out_of_it_alone():
    """As in VOC's development kit: without the second image, the true one of class 0 is the first."""
    rows = np.array([[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]])
    truth = np.array([[0, 0], [-1, 1], [1, 0]], np.int8)
    assert value("map", rows, truth) == pytest.approx((1 + 1 / 3) / 2)
    assert value("map", rows, truth.clip(0)) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_mean_per_class_is_balanced_accuracy():
    random = np.random.default_rng(0)
    truth, guess = random.integers(5, size=(2, 200))
    rows = (truth == guess)[:, None].astype(float)
    assert value("mean_per_class", rows, truth) == pytest.approx(balanced_accuracy_score(truth, guess))


@pytest.mark.parametrize("measure", MEASURES)
def test_an_image_of_weight_two_is_an_image_twice(measure):
    random = np.random.default_rng(1)
    rows, truth = random_case(measure, random, 30)
    weights = random.integers(0, 3, size=(5, 30))
    for found, one in zip(values(measure, rows, truth, weights.astype(float)), weights):
        drawn = np.repeat(np.arange(30), one)
        assert found == pytest.approx(value(measure, rows[drawn], None if truth is None else truth[drawn]))


def test_a_class_that_a_sample_lacks_is_left_out():
    weights = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0.0]])
    found = values("mean_per_class", column(1, 0, 1), np.array([0, 0, 1]), weights)
    assert found[:2].tolist() == [0.5, 1] and np.isnan(found[2])
    # one true image of three: without it, a sample has no class at all, and the others say 1
    assert interval("map", column(3, 2, 1), column(1, 0, 0) > 0) == (1, 1)


@pytest.mark.parametrize("measure", MEASURES)
def test_intervals_cover_the_truth_in_about_95_of_100(measure, monkeypatch):
    monkeypatch.setattr(measures, "RESAMPLES", 300)
    random = np.random.default_rng(2)
    rows, truth = random_case(measure, random, 40_000)
    of_all, covered = value(measure, rows, truth), 0
    images = 1000 if measure == "map" else 100  # the best precisions are too high for few images
    for seed in range(150):
        chosen = random.integers(len(rows), size=images)
        low, high = interval(measure, rows[chosen], None if truth is None else truth[chosen], seed=seed)
        covered += low <= of_all <= high
    assert 0.88 <= covered / 150 <= 0.99


@pytest.mark.parametrize("measure", MEASURES)
def test_paired_intervals_are_narrow_where_both_are_right_on_the_same_images(measure):
    random = np.random.default_rng(3)
    rows, truth = random_case(measure, random, 60)
    same, p = difference_interval(measure, rows, rows, truth)
    assert same == (0, 0) and p == 1
    other = rows.copy()
    other[:4] = other[4:8]
    (low, high), _ = difference_interval(measure, rows, other, truth)
    alone = interval(measure, rows, truth)
    difference = value(measure, other, truth) - value(measure, rows, truth)
    assert low <= difference <= high and high - low < 0.8 * (alone[1] - alone[0])


def test_p_is_small_exactly_where_the_interval_excludes_zero():
    random = np.random.default_rng(4)
    a = random.gamma(2, size=(50, 1))
    for shift in (-1, -0.2, -0.1, 0.05, 0.2, 1):
        b = a + shift + random.normal(size=(50, 1), scale=0.5)
        (low, high), p = difference_interval("rmse", a, b)
        assert (p < 0.05) == (low > 0 or high < 0) and 0 < p <= 1
    assert difference_interval("rmse", a, a + 1)[1] == pytest.approx(2 / 2001)


def test_the_interval_of_top_1_is_not_empty_where_all_images_agree():
    low, high = interval("top1", np.ones((4, 1)))
    assert (low, high) == pytest.approx((0.510, 1.0), abs=1e-3)  # Wilson's, 4 of 4


def test_intervals_depend_on_the_seed_alone(monkeypatch):
    rows, truth = random_case("map", np.random.default_rng(5), 80)
    assert interval("map", rows, truth) == interval("map", rows, truth)
    assert interval("map", rows, truth) != interval("map", rows, truth, seed=1)
    whole = interval("map", rows, truth)
    monkeypatch.setattr(measures, "_AT_ONCE", 80 * 7)  # seven samples at a time
    assert interval("map", rows, truth) == pytest.approx(whole)
