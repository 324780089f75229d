"""AP and AR: cases worked out by hand, and pycocotools itself on files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import found_object, prediction
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lost_reg.scoring.average_precision import BOXES, MASKS, average_precision, scored_objects
from lost_reg.types import FoundObject

A, B, C = (0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 60, 90)
WRONG = (70, 0, 80, 10)


def ap(truths, found):
    return average_precision(BOXES, truths, found)


def test_a_perfect_result():
    truths = {"a": [A, B], "b": [C]}
    scores = ap(truths, {"a": [(0.2, A), (0.1, B)], "b": [(0.9, C)]})
    assert (scores.ap, scores.ap50, scores.ap75, scores.ar10, scores.ar100) == pytest.approx((100,) * 5)
    assert scores.ar1 == pytest.approx(100 * 2 / 3)  # one of a's two objects


def test_nothing_found():
    scores = ap({"a": [A], "b": [B]}, {})
    assert (scores.ap, scores.ap50, scores.ar1, scores.ar100) == (0, 0, 0, 0)


def test_a_wrong_box_before_a_right_one_halves_the_precision():
    scores = ap({"a": [A]}, {"a": [(0.9, WRONG), (0.8, A)]})
    assert (scores.ap50, scores.ap, scores.ar1, scores.ar10) == pytest.approx((50, 50, 0, 100))
    scores = ap({"a": [A]}, {"a": [(0.8, WRONG), (0.9, A)]})
    assert (scores.ap50, scores.ap, scores.ar1) == pytest.approx((100, 100, 100))


def test_half_of_the_objects_found():
    """Precision 1 at recalls 0, 0.01, ..., 0.5: 51 of 101."""
    assert ap({"a": [A], "b": [B]}, {"a": [(0.5, A)]}).ap50 == pytest.approx(100 * 51 / 101)


def test_a_box_found_twice_counts_once():
    scores = ap({"a": [A, B]}, {"a": [(0.9, A), (0.8, A), (0.7, B)]})
    # precision 1 up to a recall of 1/2, then 2/3
    assert scores.ap50 == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_iou_thresholds():
    """An IoU of 0.8 counts at 0.50, 0.55, ..., 0.80: 7 of 10 thresholds."""
    scores = ap({"a": [A]}, {"a": [(1.0, (0, 0, 10, 8))]})
    assert (scores.ap, scores.ap50, scores.ap75, scores.ar1) == pytest.approx((70, 100, 100, 70))
    assert ap({"a": [A]}, {"a": [(1.0, (0, 0, 10, 7))]}).ap75 == 0


def test_objects_in_images_without_any_are_false():
    assert ap({"a": [A], "b": []}, {"a": [(0.5, A)], "b": [(0.9, A)]}).ap50 == pytest.approx(50)


def test_small_and_huge_boxes_count():
    huge = (0, 0, 10**6, 10**6)
    assert ap({"a": [(0, 0, 1, 1), huge]}, {"a": [(0.5, (0, 0, 1, 1)), (0.4, huge)]}).ap == pytest.approx(100)


def rectangle(box):
    pixels = np.zeros((100, 120), np.uint8, order="F")
    xmin, ymin, xmax, ymax = box
    pixels[ymin:ymax, xmin:xmax] = 1
    encoded = coco_mask.encode(pixels)
    return {"size": [100, 120], "counts": encoded["counts"].decode()}


def random_boxes(random, number):
    corners = random.integers(0, 80, (number, 2))
    sides = random.integers(10, 20, (number, 2))
    return [tuple(map(int, (*corner, *(corner + side)))) for corner, side in zip(corners, sides)]


@pytest.mark.parametrize("kind", [BOXES, MASKS])
def test_as_pycocotools_on_files(tmp_path, capsys, kind):
    """Random boxes near the true ones, written to files and scored by pycocotools as its users do."""
    random = np.random.default_rng(0)
    shape = (lambda box: box) if kind == BOXES else rectangle
    truths, found = {}, {}
    for image in range(12):
        true = random_boxes(random, image % 4)
        near = [tuple(side + int(random.integers(-1, 2)) for side in box) for box in true]
        boxes = [(max(0, x), max(0, y), *rest) for x, y, *rest in near] + random_boxes(random, 3)
        truths[str(image)] = [shape(box) for box in true]
        found[str(image)] = [(float(random.random()), shape(box)) for box in boxes]

    def written(one):
        if kind == MASKS:
            return {"segmentation": one}
        return {"bbox": [one[0], one[1], one[2] - one[0], one[3] - one[1]]}

    def area(one):
        return int(coco_mask.area(one)) if kind == MASKS else (one[2] - one[0]) * (one[3] - one[1])

    annotations = [(int(image), one) for image, ones in truths.items() for one in ones]
    dataset = {
        "images": [{"id": int(image), "height": 100, "width": 120} for image in truths],
        "categories": [{"id": 7}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 7,
                "iscrowd": 0,
                "area": area(one),
                **written(one),
            }
            for number, (image, one) in enumerate(annotations, start=1)
        ],
    }
    results = [
        {"image_id": int(image), "category_id": 7, "score": score, **written(one)}
        for image, ones in found.items()
        for score, one in ones
    ]
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    (tmp_path / "found.json").write_text(json.dumps(results))
    truth = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    scores = average_precision(kind, truths, found)
    got = (scores.ap, scores.ap50, scores.ap75, scores.ar1, scores.ar10, scores.ar100)
    assert got == pytest.approx(100 * evaluation.stats[[0, 1, 2, 6, 7, 8]])
    assert 10 < scores.ap < 90 and capsys.readouterr().out == ""


def test_scores_are_those_of_the_objects():
    found = {"a": prediction("a", found_object(A, score=0.25), found_object(B, score=0.5))}
    assert [score for score, _ in scored_objects(found)["a"]] == [0.25, 0.5]


def test_objects_without_scores_are_ranked_by_their_order():
    unscored = FoundObject(C, None, (0, 0))
    found = {
        "a": prediction("a", found_object(A, score=0.25), found_object(B, score=0.5)),
        "b": prediction("b", unscored, unscored),
    }
    scores = {image: [score for score, _ in objects] for image, objects in scored_objects(found).items()}
    assert scores["a"] == scores["b"] and scores["a"][0] > scores["a"][1]
