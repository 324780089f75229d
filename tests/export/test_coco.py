"""The COCO file, as pycocotools reads it."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from export_cases import export, load_coco, prediction
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lost_reg.export.run_export import warnings
from lost_reg.scoring.prediction_files import read_boxes


def test_coco_by_hand(tmp_path):
    export(
        tmp_path,
        [prediction("b.jpg", (10, 20, 40, 60), score=-0.2), prediction("a.jpg", (0, 0, 9, 9))],
        "coco",
    )
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["images"][0] == {"id": 1, "file_name": "b.jpg", "width": 200, "height": 100}
    assert content["categories"] == [{"id": 1, "name": "object", "supercategory": "object"}]
    assert content["annotations"][0] == {
        **{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 20, 30, 40], "area": 1200},
        **{"score": 0, "object": 0, "area_share": 0.06, "degree_share": 19 / 199},
        **{"borders": 0, "implausible": None},
    }
    assert content["annotations"][1]["id"] == 2 and content["annotations"][1]["image_id"] == 2


@pytest.mark.parametrize("score, expected", [(None, 1), (-0.2, 0), (0.4, 0.4), (17.5, 1)])
def test_scores_are_clipped(tmp_path, score, expected):
    export(tmp_path, [prediction("a.jpg", (0, 0, 100, 50), score=score, degree=None)], "coco")
    (box,) = load_coco(tmp_path / "out.json").dataset["annotations"]
    assert box["score"] == expected and box["degree_share"] is None


def test_cocoeval_takes_it_as_truth_and_as_results(tmp_path):
    export(
        tmp_path, [prediction(f"{n}.jpg", (10, 20, 40 + n, 60), (100, 0, 180, 90)) for n in range(3)], "coco"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "out.json"))
        results = truth.loadRes(json.loads((tmp_path / "out.json").read_text())["annotations"])
        scored = COCOeval(truth, results, "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] == pytest.approx(1)


def test_ids_are_those_of_the_coco_dataset(tmp_path, make_coco):
    dataset = make_coco(tmp_path / "coco", {"x.jpg": [], "y.jpg": [], "z.jpg": []})
    found = [prediction("z.jpg", (0, 0, 9, 9)), prediction("x.jpg", (0, 0, 9, 9))]
    for to in ("coco", "lost"):
        assert warnings(export(tmp_path, found, to, run={"dataset": str(dataset)})) == []
        (tmp_path / "run/run.json").unlink()
        (tmp_path / "run/predictions.jsonl").unlink()
    assert sorted(load_coco(tmp_path / "out.json").imgs) == [1, 3]
    assert list(read_boxes(tmp_path / "out.pkl")) == ["3", "1"]


def test_ids_of_coco20k(tmp_path):
    found = [prediction("COCO_train2014_000000560992.jpg", (0, 0, 9, 9))]
    export(tmp_path, found, "coco", run={"dataset": "coco20k"})
    assert list(load_coco(tmp_path / "out.json").imgs) == [560992]
    export(tmp_path / "2", found, "lost", run={"dataset": "coco20k"})
    assert list(read_boxes(tmp_path / "2/out.pkl")) == ["560992"]


@pytest.mark.parametrize("dataset", ["gone.json", "coco20k"])
def test_ids_that_nothing_tells(tmp_path, dataset):
    summary = export(tmp_path, [prediction("a_b.jpg", (0, 0, 9, 9))], "coco", run={"dataset": dataset})
    assert list(load_coco(tmp_path / "out.json").imgs) == [1]
    assert dataset in warnings(summary)[0]
