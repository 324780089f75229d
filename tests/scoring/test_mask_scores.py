"""Scores of masks, against loops over pixels and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lost_reg.scoring.mask_scores import BINARY, THRESHOLDS, Estimate, score_masks

SHAPE = (4, 5)
MASKS = hnp.arrays(bool, SHAPE)
TRUTHS = MASKS.filter(np.any)
MAPS = hnp.arrays(float, SHAPE, elements=st.floats(0, 1))


def counts(found, truth):
    """Pixels in both, in one only of each, in neither: by a loop."""
    both = only_found = only_true = neither = 0
    for row_found, row_true in zip(found.tolist(), truth.tolist()):
        for one, other in zip(row_found, row_true):
            both += one and other
            only_found += one and not other
            only_true += other and not one
            neither += not one and not other
    return both, only_found, only_true, neither


def f_of(precision, recall):
    if not precision * recall:
        return 0.0
    return 1.3 * precision * recall / (0.3 * precision + recall)


def reference(pairs, thresholds):
    """IoU, accuracy, the largest mean F, and the largest F of means, in percent, by loops."""
    ious, accuracies = [], []
    for found, truth in pairs:
        both, only_found, only_true, neither = counts(found > 0.5, truth)
        ious.append(both / (both + only_found + only_true))
        accuracies.append((both + neither) / truth.size)
    means, of_means = [], []
    for threshold in thresholds:
        precisions, recalls = [], []
        for found, truth in pairs:
            both, only_found, only_true, _ = counts(found > threshold, truth)
            precisions.append(both / (both + only_found) if both + only_found else 0.0)
            recalls.append(both / (both + only_true))
        means.append(np.mean([f_of(p, r) for p, r in zip(precisions, recalls)]))
        of_means.append(f_of(np.mean(precisions), np.mean(recalls)))
    return [100 * one for one in (np.mean(ious), np.mean(accuracies), max(means), max(of_means))]


def values(scores):
    return [one.value for one in (scores.iou, scores.accuracy, scores.f_beta, scores.f_beta_of_means)]


@settings(max_examples=20)
@given(st.lists(st.tuples(MASKS, TRUTHS), min_size=1, max_size=4))
def test_binary_masks_agree_with_loops(pairs):
    assert values(score_masks(pairs)) == pytest.approx(reference(pairs, BINARY))


@settings(max_examples=20)
@given(st.lists(st.tuples(MAPS, TRUTHS), min_size=1, max_size=2))
def test_soft_maps_agree_with_loops(pairs):
    few = THRESHOLDS[::50]
    assert values(score_masks(pairs, few)) == pytest.approx(reference(pairs, few))


def test_binary_masks_are_the_same_at_all_thresholds():
    random = np.random.default_rng(0)
    pairs = [tuple(random.random((2, *SHAPE)) > 0.5) for _ in range(3)]
    assert len(THRESHOLDS) == 255 and THRESHOLDS[0] == 0 and THRESHOLDS[-1] < 1
    assert values(score_masks(pairs, THRESHOLDS)) == pytest.approx(values(score_masks(pairs)))


def test_worked_out_by_hand():
    truth = np.array([[True, True, False, False]])
    half = np.array([[True, False, False, False]])  # precision 1, recall 1/2: F = 0.65 / 0.8
    wrong = np.array([[False, False, True, True]])
    scores = score_masks([(half, truth), (wrong, truth)])
    assert scores.images == 2
    assert scores.iou.value == pytest.approx(25)
    assert scores.accuracy.value == pytest.approx(37.5)
    assert scores.f_beta.value == pytest.approx(100 * 0.65 / 0.8 / 2)
    assert scores.f_beta_of_means.value == pytest.approx(100 * 1.3 * 0.5 * 0.25 / (0.15 + 0.25))


def test_a_perfect_mask_and_an_empty_one():
    truth = np.eye(4, dtype=bool)
    assert values(score_masks([(truth, truth)])) == [100] * 4
    assert values(score_masks([(np.zeros_like(truth), truth)])) == [0, 75, 0, 0]


def test_intervals_are_of_the_bootstrap_and_repeatable():
    truth = np.ones((1, 1), bool)
    pairs = [(truth, truth)] * 30 + [(~truth, truth)] * 70  # an IoU of 1 or 0: a binomial proportion
    scores = score_masks(pairs)
    assert (
        scores.iou
        == score_masks(pairs).iou
        == scores.accuracy
        == Estimate(30, scores.iou.low, scores.iou.high)
    )
    # the exact 95 % range of a binomial of 100 draws with 0.3 is 21 to 39
    assert abs(scores.iou.low - 21) <= 1 and abs(scores.iou.high - 39) <= 1


def test_nothing_to_score():
    assert "no masks to score" in refusal(score_masks, [])
