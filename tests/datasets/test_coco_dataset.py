"""COCO: where its images are found, and its ground truth worked out by hand."""

from __future__ import annotations

import json

import pytest
from helpers import refusal

from lost_reg.datasets.catalog import find_dataset, missing_images
from lost_reg.datasets.coco import read_coco_truths


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ((10, 20, 30, 40), (10, 20, 40, 60)),
        ((0.4, 0.4, 0.4, 10), (0, 0, 1, 10)),  # rounded before the sum, xmax would be 0
        ((0.6, 0.6, 0.6, 10.6), (1, 1, 1, 11)),  # ... and here 2 and 12
        ((0.5, 1.5, 2, 2), (0, 2, 2, 4)),  # halves go to the even number: 0.5, 1.5, 2.5, 3.5
        ((2.5, 4.5, 3, 1), (2, 4, 6, 6)),
    ],
)
def test_coco_box_is_rounded_after_the_sum(tmp_path, make_coco, bbox, box):
    path = make_coco(tmp_path, {"a.jpg": [(*bbox, 0)]})
    (truth,) = read_coco_truths(path, ("a.jpg",))
    assert truth.boxes_xyxy == (box,)
    assert all(isinstance(side, int) for side in truth.boxes_xyxy[0])


def test_coco_truth_worked_out_by_hand(tmp_path, make_coco):
    path = make_coco(
        tmp_path,
        {
            "crowd.jpg": [(0, 0, 90, 90, 1), (10, 10, 20, 20, 0), (5, 5, 9, 9, 0)],
            "crowd alone.jpg": [(0, 0, 90, 90, 1)],
            "empty.jpg": [],
            "not asked for.jpg": [(1, 1, 2, 2, 0)],
        },
    )
    got = read_coco_truths(path, ("empty.jpg", "crowd.jpg", "crowd alone.jpg"))
    assert [truth.image for truth in got] == ["empty.jpg", "crowd.jpg", "crowd alone.jpg"]
    assert [truth.image_id for truth in got] == ["3", "1", "2"]
    assert [truth.boxes_xyxy for truth in got] == [(), ((10, 10, 30, 30), (5, 5, 14, 14)), ()]
    assert (got[1].labels, got[1].hard, got[1].size_hw) == (("thing", "thing"), (False, False), (96, 128))


def test_coco_file_does_not_print(tmp_path, make_coco, capsys):
    read_coco_truths(make_coco(tmp_path, {"a.jpg": []}), ("a.jpg",))
    assert capsys.readouterr() == ("", "")


def test_coco_image_without_ground_truth(tmp_path, make_coco):
    path = make_coco(tmp_path, {"a.jpg": []})
    assert f"no ground truth for b.jpg in {path}" in refusal(read_coco_truths, path, ("a.jpg", "b.jpg"))


@pytest.mark.parametrize(
    "bbox", [[1, 2, 3], ["1", "2", "3", "4"], None, [1, 2, 3, float("inf")], [float("nan"), 2, 3, 4]]
)
def test_malformed_coco_box(tmp_path, make_coco, bbox):
    path = make_coco(tmp_path, {"a.jpg": [(1, 2, 3, 4, 0)]})
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = bbox
    path.write_text(json.dumps(content))
    line = refusal(read_coco_truths, path, ("a.jpg",))
    assert line.startswith(f"{path}: annotation 1 of image a.jpg: bbox is ")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 5}', '{"images": [5]}', '{"images": null}']
)
def test_malformed_coco_file(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_text(text)
    assert "is not a COCO annotation file" in refusal(find_dataset, str(path), tmp_path)


def test_coco_file_without_images(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    assert "lists no images" in refusal(find_dataset, str(path), tmp_path)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("instances.json", "."),
        ("instances.json", "images"),
        ("instances.json", "val2017"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images"),
        ("annotations/instances_val2017.json", "."),
    ],
)
def test_images_are_found_beside_a_coco_file(tmp_path, make_coco, annotations, images):
    made = make_coco(tmp_path / "made", {"deep/b.jpg": [(1, 2, 3, 4, 0)], "a.jpg": []})
    folder = tmp_path / "coco"
    (folder / "other").mkdir(parents=True)
    (folder / annotations).parent.mkdir(exist_ok=True)
    made.rename(folder / annotations)
    (folder / images).mkdir(exist_ok=True)
    for name in ("deep", "a.jpg"):
        (tmp_path / "made" / "images" / name).rename(folder / images / name)
    found = find_dataset(str(folder / annotations), tmp_path)
    assert found.root.resolve() == (folder / images).resolve()
    assert (found.images, found.split) == (("deep/b.jpg", "a.jpg"), "all")
    assert missing_images(found) == []
    assert found.truths["deep/b.jpg"].boxes_xyxy == ((1, 2, 4, 6),)
    assert not found.is_full


def test_coco_file_without_its_images(tmp_path, make_coco):
    path = make_coco(tmp_path / "made", {"a.jpg": []})
    (tmp_path / "made" / "images" / "a.jpg").unlink()
    text = refusal(find_dataset, str(path), tmp_path)
    assert "no folder beside" in text and "looked for a.jpg in" in text


@pytest.mark.parametrize("other", ["a\\x.jpg", "./a/x.jpg", "a//x.jpg"])
def test_two_names_of_one_image_file_are_refused(tmp_path, save_scene, other):
    save_scene(tmp_path / "a/x.jpg")
    listed = [{"id": 1, "file_name": "a/x.jpg"}, {"id": 2, "file_name": other}]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": listed, "annotations": []}))
    text = refusal(find_dataset, str(tmp_path / "boxes.json"), tmp_path)
    assert text.endswith(f"'a/x.jpg', {other!r} name the same image file")
