"""fiftyone: the layout that FiftyOne documents, and its own importer where it is installed."""

from __future__ import annotations

import json

import pytest
from export_cases import export, prediction
from helpers import names


def labels_of(folder) -> dict:
    return json.loads((folder / "out/labels.json").read_text())["labels"]


def test_boxes_are_shares_with_confidence_and_what_else_is_known(tmp_path, photos):
    root, found = photos
    export(tmp_path, found[:2], "fiftyone", root=root)
    assert names(tmp_path / "out") == ["data", "data/a.jpg", "data/sub_a.png", "labels.json", "names.csv"]
    first, second = labels_of(tmp_path)["a"]
    assert first == {
        "label": "object",
        "bounding_box": [0.25, 16 / 96, 0.5, 0.5],
        "confidence": 0.5,
        "attributes": {"object": 0, "area_share": 0.25, "degree_share": pytest.approx(19 / 47), "borders": 0},
    }
    assert second["attributes"]["borders"] == 1 and "implausible" not in second["attributes"]


def test_what_a_method_does_not_give_is_left_out(tmp_path):
    export(tmp_path, [prediction("a.jpg", (0, 0, 200, 100), degree=None, score=None)], "fiftyone")
    ((found,),) = labels_of(tmp_path).values()
    assert "confidence" not in found and "degree_share" not in found["attributes"]
    assert found["attributes"]["implausible"] == "whole image"


def test_fiftyone_imports_it(tmp_path, photos):
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    root, found = photos
    export(tmp_path, found[:3], "fiftyone", root=root)
    with importers.FiftyOneImageDetectionDatasetImporter(dataset_dir=str(tmp_path / "out")) as importer:
        read = {path.rpartition("/")[2]: label.detections for path, _, label in importer}
    assert set(read) == {"a.jpg", "sub_a.png", "B.jpeg"}
    for one in read.values():
        assert one[0].label == "object" and one[0].confidence == 0.5 and one[0]["object"] == 0
        assert one[0].bounding_box == [0.25, 16 / 96, 0.5, 0.5]
