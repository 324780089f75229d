"""Scores of labels: worked by hand, against plain loops after VOC's development kit, and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from lost_reg.scoring.all_scores import _class_scores
from lost_reg.scoring.classes import (
    RESAMPLES,
    agreement,
    area_under_envelope,
    assignment,
    nmi_of,
    purity_of,
    score_classes,
)
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.types import FoundObject, ImageTruth, Prediction

LEFT, RIGHT, FAR = (0, 0, 40, 40), (50, 0, 90, 40), (0, 60, 40, 100)


def truth(image, *objects, difficult=()):
    boxes, labels = zip(*objects) if objects else ((), ())
    hard = tuple(index in difficult for index in range(len(boxes)))
    return ImageTruth(image, image, (100, 100), boxes, labels, hard, hard)


def found(image, *objects):
    """Objects as (box, label, score)."""
    return Prediction(
        image,
        (100, 100),
        (10, 10),
        tuple(FoundObject(box, score, (0, 0), label=label) for box, label, score in objects),
    )


def scored(truths, predictions):
    return score_classes({one.image: one for one in truths}, {one.image: one for one in predictions})


def test_clusters_are_assigned_and_scored_as_worked_by_hand():
    truths = [
        truth("a", (LEFT, "cat"), (RIGHT, "dog")),
        truth("b", (LEFT, "cat"), (FAR, "dog")),
        truth("c", (LEFT, "dog")),
    ]
    predictions = [
        found("a", (LEFT, "1", 0.9), (RIGHT, "2", 0.8)),
        found("b", (LEFT, "1", 0.7), (RIGHT, "1", 0.95)),
        found("c", (LEFT, "1", 0.6), (LEFT, "2", 0.5)),
    ]
    scores = scored(truths, predictions)
    cat, dog = scores.classes
    assert (cat.name, cat.cluster, cat.objects) == ("cat", "1", 2)
    # of cluster 1 by score: wrong (b), right (a), right (b), wrong (c): recall 1/2 and 1 at 2/3
    assert cat.ap50 == pytest.approx(100 * 2 / 3)
    assert (dog.cluster, dog.objects) == ("2", 3)
    assert dog.ap50 == pytest.approx(100 * 2 / 3)  # right, right, and one is not found
    assert cat.ap == cat.ap50 and dog.ap == dog.ap50  # all boxes that match are exact
    assert scores.mean("ap50") == pytest.approx(100 * 2 / 3)
    assert (scores.labelled, scores.boxes, scores.clusters) == (6, 5, 2)
    # cluster 1: cat, cat, dog; cluster 2: dog, dog
    assert scores.purity.value == pytest.approx(80)


def test_a_true_object_is_found_once_and_a_difficult_one_is_ignored():
    truths = [truth("a", (LEFT, "cat"), (RIGHT, "cat"), (FAR, "dog"), difficult={1})]
    twice = [
        found("a", (LEFT, "1", 0.9), (LEFT, "1", 0.8), (RIGHT, "1", 0.95), (RIGHT, "1", 0.5), (FAR, "2", 0.4))
    ]
    cat, dog = scored(truths, twice).classes
    assert cat.objects == 1 and cat.ap50 == 100 and dog.ap50 == 100
    late = [found("a", (FAR, "1", 0.99), (LEFT, "1", 0.9), (FAR, "2", 0.4))]
    assert scored(truths, late).classes[0].ap50 == 50


def test_without_hard_objects_a_box_on_one_is_neither_right_nor_wrong():
    """The box on the truncated object scores highest: as a false positive, it would halve the AP."""
    one = truth("a", (LEFT, "cat"), (RIGHT, "cat"), (FAR, "dog"), difficult={1})
    dataset = SimpleNamespace(truths={"a": replace(one, difficult=(False,) * 3)})
    boxes = {"a": found("a", (RIGHT, "1", 0.99), (LEFT, "1", 0.9), (FAR, "2", 0.4))}
    cat, _ = _class_scores(["a"], boxes, dataset, ScoringOptions(count_hard=False)).classes
    assert (cat.objects, cat.ap50) == (1, 100)
    cat, _ = _class_scores(["a"], boxes, dataset, ScoringOptions()).classes
    assert (cat.objects, cat.ap50) == (2, 100)


def test_voc_needs_more_than_half_and_coco_half():
    truths = [truth("a", (LEFT, "cat"), (RIGHT, "dog"))]
    half = [found("a", ((0, 0, 40, 20), "1", 0.9), (RIGHT, "2", 0.9))]  # IoU 1/2 with LEFT
    cat, dog = scored(truths, half).classes
    assert (cat.ap50, dog.ap50) == (0, 100)
    assert cat.coco_ap50 == pytest.approx(100) and cat.coco_ap == pytest.approx(10)


def test_classes_without_a_cluster_count_as_zero_and_unlabelled_boxes_not():
    truths = [truth("a", (LEFT, "cat"), (RIGHT, "dog"), (FAR, "owl"))]
    scores = scored(truths, [found("a", (LEFT, "1", 0.9), (RIGHT, None, 0.8))])
    assert [one.cluster for one in scores.classes] == ["1", None, None]
    assert scores.mean("ap50") == pytest.approx(100 / 3)
    assert scores.labelled == scores.boxes == 1


def test_one_class_is_not_scored_and_no_match_has_no_purity():
    assert scored([truth("a", (LEFT, "cat"))], [found("a", (LEFT, "1", 0.9))]) is None
    scores = scored([truth("a", (LEFT, "cat"), (RIGHT, "dog")), truth("b")], [found("b", (FAR, "1", 0.9))])
    assert scores.purity is None and scores.nmi is None and scores.mean("ap50") == 0


# --- VOC's rules by plain loops ----------------------------------------------------------------------


def voc_ap(detections, truths, threshold):
    """After voc_eval.m: inclusive boxes with + 1 areas; truths by image: [(box, difficult)]."""
    used = {image: [False] * len(objects) for image, objects in truths.items()}
    true_positives, false_positives = [], []
    for _, image, box in sorted(detections, key=lambda one: -one[0]):
        most, best = -1.0, -1
        for index, (other, _) in enumerate(truths.get(image, [])):
            left, top = max(box[0], other[0]), max(box[1], other[1])
            right, bottom = min(box[2], other[2]), min(box[3], other[3])
            width, height = right - left + 1, bottom - top + 1
            if width > 0 and height > 0:
                union = area(box) + area(other) - width * height
                if width * height / union > most:
                    most, best = width * height / union, index
        right_one = wrong = 0
        if most > threshold:
            if not truths[image][best][1]:
                right_one, wrong = (0, 1) if used[image][best] else (1, 0)
                used[image][best] = True
        else:
            wrong = 1
        true_positives.append(right_one)
        false_positives.append(wrong)
    positives = sum(not difficult for objects in truths.values() for _, difficult in objects)
    recalls, precisions, right_ones, wrong_ones = [0.0], [0.0], 0, 0
    for right_one, wrong in zip(true_positives, false_positives):
        right_ones, wrong_ones = right_ones + right_one, wrong_ones + wrong
        if right_ones + wrong_ones:
            recalls.append(right_ones / positives)
            precisions.append(right_ones / (right_ones + wrong_ones))
    recalls.append(1.0)
    precisions.append(0.0)
    for index in range(len(precisions) - 2, -1, -1):
        precisions[index] = max(precisions[index], precisions[index + 1])
    return sum((recalls[index] - recalls[index - 1]) * precisions[index] for index in range(1, len(recalls)))


def area(box):
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def inclusive(box):
    """Half-open pixels as VOC writes them: 1-based and inclusive."""
    return box[0] + 1, box[1] + 1, box[2], box[3]


@pytest.mark.parametrize("seed", range(6))
def test_voc_ap_is_that_of_plain_loops(seed):
    random = np.random.default_rng(seed)

    def some_box():
        x, y = random.integers(0, 6, 2).tolist()
        width, height = random.integers(3, 6, 2).tolist()
        return x, y, x + width, y + height

    truths, predictions = [], []
    for image in map(str, range(8)):
        objects = [(some_box(), "ab"[random.integers(2)]) for _ in range(random.integers(1, 5))]
        difficult = {index for index in range(len(objects)) if random.random() < 0.25}
        truths.append(truth(image, *objects, difficult=difficult))
        boxes = [(some_box(), "12"[random.integers(2)], float(random.random())) for _ in range(5)]
        boxes += [(box, "12"[random.integers(2)], float(random.random())) for box, _ in objects]
        predictions.append(found(image, *boxes))
    table = np.zeros((2, 2))
    for row, name in enumerate("ab"):
        for column, cluster in enumerate("12"):
            table[row, column] = ap_by_loops(truths, predictions, name, cluster)
    straight = table[0, 0] + table[1, 1] >= table[0, 1] + table[1, 0]
    a, b = scored(truths, predictions).classes
    assert (a.cluster, b.cluster) == (("1", "2") if straight else ("2", "1"))
    assert a.ap50 == pytest.approx(100 * table[0, 0 if straight else 1])
    assert b.ap50 == pytest.approx(100 * table[1, 1 if straight else 0])
    steps = [ap_by_loops(truths, predictions, "a", a.cluster, step / 100) for step in range(50, 100, 5)]
    assert a.ap == pytest.approx(100 * np.mean(steps))


def ap_by_loops(truths, predictions, name, cluster, threshold=0.5):
    of_class = {
        one.image: [
            (inclusive(box), hard)
            for box, label, hard in zip(one.boxes_xyxy, one.labels, one.difficult)
            if label == name
        ]
        for one in truths
    }
    detections = [
        (one.score, prediction.image, inclusive(one.box_xyxy))
        for prediction in predictions
        for one in prediction.objects
        if one.label == cluster
    ]
    return voc_ap(detections, of_class, threshold)


# --- parts -------------------------------------------------------------------------------------------


def test_the_area_is_under_the_envelope():
    assert area_under_envelope(np.array([True, False, True, True]), 4) == pytest.approx((1 + 0.75 + 0.75) / 4)
    assert area_under_envelope(np.array([], bool), 4) == area_under_envelope(np.array([True]), 0) == 0


def test_the_assignment_maximises_the_sum_not_each_row():
    assert assignment(np.array([[9.0, 8], [8, 1]])) == {0: 1, 1: 0}
    assert assignment(np.array([[1.0], [2]])) == {1: 0}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40))
def test_nmi_is_scikit_learns_and_purity_that_of_loops(pairs):
    counts = np.zeros((4, 3))
    for cluster, name in pairs:
        counts[cluster, name] += 1
    of, true = zip(*pairs)
    if len(set(of)) > 1 or len(set(true)) > 1:  # else scikit-learn says 1
        assert nmi_of(counts) == pytest.approx(normalized_mutual_info_score(true, of), abs=1e-9)
    right = sum(
        max(sum(pair == (cluster, name) for pair in pairs) for name in range(3)) for cluster in range(4)
    )
    assert purity_of(counts) == pytest.approx(right / len(pairs))


def test_clusters_that_are_the_classes_are_above_chance_and_random_ones_are_not():
    random = np.random.default_rng(0)
    true, image = random.integers(0, 3, 120), np.repeat(np.arange(60), 2)
    same = agreement(true, true, image, purity_of)
    assert same.value == 100 and same.low == same.high == 100
    assert 33 < same.chance < 50 and same.above_low > 40
    assert same.above_high - same.above_low > 5  # the chance level of each resample is its own
    chance = agreement(random.permutation(true), true, image, purity_of)
    assert chance.low < chance.value < chance.high
    assert chance.above_low < 0 < chance.above_high
    assert agreement(true, true, image, nmi_of).value == pytest.approx(100)


def test_the_interval_of_independent_boxes_is_the_normal_one():
    true = np.repeat([0, 1, 0, 1], [80, 20, 20, 80])
    of = np.repeat([0, 0, 1, 1], [80, 20, 20, 80])
    found = agreement(of, true, np.arange(200), purity_of)
    reach = 196 * np.sqrt(0.8 * 0.2 / 200)
    assert RESAMPLES >= 1000 and found.value == pytest.approx(80)
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=0.1)
