"""`lost-reg score`: from images with masks to the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lost_reg.masks.grids import in_pixels
from lost_reg.runs.folder import read_run


@pytest.fixture
def scenes(tmp_path, save_scene):
    """Three scenes with their masks, in ECSSD's layout."""
    folder = tmp_path / "ECSSD"
    for number, box in enumerate([(32, 16, 96, 64), (8, 8, 72, 72), (40, 30, 120, 90)]):
        save_scene(folder / "images" / f"{number}.jpg", box_xyxy=box, seed=number)
        mask = np.zeros((96, 128), np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = 255
        (folder / "ground_truth_mask").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "ground_truth_mask" / f"{number}.png")
    return folder


def test_from_images_to_scores(lost_reg, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    run = tmp_path / "results" / "one"
    made = lost_reg("run", "--dataset", f"ecssd={scenes}", "--masks", "--max-objects", 3, "--out", run)
    assert made.exit_code == 0, made.output
    result = lost_reg("score", tmp_path / "results")
    assert result.exit_code == 0, result.output
    header, _, row, *notes = result.stdout.splitlines()
    assert "ecssd all" in row and "box AR@100" in header and "mask IoU" in header
    assert "95 % intervals: CorLoc" in notes[0] and "mask max F" in notes[0]
    (record,) = json.loads(lost_reg("score", run, "--json").stdout)
    ious = []
    for name, prediction in read_run(run).predictions.items():
        found = in_pixels(prediction.objects[0].mask, (96, 128))
        truth = np.asarray(Image.open(scenes / "ground_truth_mask" / name.replace(".jpg", ".png"))) > 127
        ious.append((found & truth).sum() / (found | truth).sum())
    assert record["mask_iou"] == pytest.approx(100 * np.mean(ious)) and record["mask_iou"] > 0
    (corloc,) = json.loads(lost_reg("corloc", run, "--json").stdout)
    assert {key: record[key] for key in corloc} == corloc
    names, _ = lost_reg("score", run, "--csv").stdout.splitlines()
    assert names.split(",") == list(record)


def test_without_masks_an_option_is_named(lost_reg, scenes, tmp_path):
    lost_reg("run", "--dataset", f"ecssd={scenes}", "--out", tmp_path / "run")
    assert "run with --masks" in lost_reg("score", tmp_path / "run").stdout


def test_own_images_are_scored_by_a_named_dataset(lost_reg, refused, scenes, tmp_path):
    lost_reg("run", scenes / "images", "--masks", "--out", tmp_path / "run")
    assert "--dataset" in refused("score", tmp_path / "run")
    result = lost_reg("score", tmp_path / "run", "--dataset", f"masks={scenes}")
    assert result.exit_code == 0 and "ECSSD all" in result.stdout


def test_what_cannot_be_scored(lost_reg, refused, scenes, tmp_path):
    assert "no such folder" in refused("score", tmp_path / "nowhere")
    assert "no runs in" in refused("score", tmp_path)
    lost_reg("run", "--dataset", f"ecssd={scenes}", "--limit", 1, "--out", tmp_path / "run")
    assert "1 of the 3 images" in refused("score", tmp_path / "run")
    assert lost_reg("score", tmp_path / "run", "--partial").exit_code == 0
    assert "Missing argument" in refused("score", exit_code=2)
    assert "choose one" in refused("score", tmp_path / "run", "--json", "--csv", exit_code=2)
    (scenes / "ground_truth_mask" / "0.png").write_bytes(b"no PNG")
    assert "0.png: not a PNG file" in refused("score", tmp_path / "run", "--partial")


def test_all_commands_take_datasets_of_masks(lost_reg, scenes, tmp_path):
    name = f"ecssd={scenes}"
    for facet in "kq":
        lost_reg("run", "--dataset", name, "--facet", facet, "--out", tmp_path / "runs" / facet)
    calls = (
        ["corloc", tmp_path / "runs"],
        ["compare", tmp_path / "runs" / "k", tmp_path / "runs" / "q"],
        ["report", tmp_path / "runs", "--out", tmp_path / "report"],
        ["export", tmp_path / "runs" / "k", "--to", "coco", "--out", tmp_path / "boxes.json"],
        ["sweep", "--dataset", name, "--bias", "0", "--tune-fraction", 0.5, "--out", tmp_path / "sweep"],
    )
    for call in calls:
        result = lost_reg(*call)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("name", "folder"), [("ecssd", "ecssd-tiny"), ("masks", "ECSSD-tiny")])
def test_results_are_named_after_the_dataset(lost_reg, scenes, tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    assert lost_reg("run", "--dataset", f"{name}=ECSSD", "--limit", 1).exit_code == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == [folder]


def test_detections_of_other_programs(lost_reg, refused, tmp_path, make_coco):
    """As Ultralytics writes them: numbers for the images, several boxes of each, none for one."""
    truth = make_coco(tmp_path / "coco", {f"{number:06}.jpg": [(10, 10, 40, 30, 0)] for number in (1, 2, 3)})
    detections = [
        {"image_id": 1, "category_id": 3, "bbox": [60, 10, 9, 9], "score": 0.2},
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 30], "score": 0.9},
        {"file_name": "000002.jpg", "category_id": 1, "bbox": [10, 10, 40, 30], "score": 0.4},
        {"file_name": "000002.jpg", "category_id": 1, "bbox": [60, 60, 9, 9], "score": 0.8},
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(detections))
    result = lost_reg("score", path, "--dataset", truth, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["corloc"] == pytest.approx(100 / 3)  # the best of 2 is wrong, and 3 has none
    # precision 1 up to a recall of 1/3, then 2/3 at the third of the four boxes by score
    assert row["box_ap"] == pytest.approx(100 * (34 + 33 * 2 / 3) / 101, abs=0.01)
    assert (row["box_ar1"], row["box_ar10"]) == pytest.approx((100 / 3, 200 / 3))
    assert "--dataset" in refused("score", path)
    path.write_text(json.dumps([{"bbox": [0, 0, 1, 1], "score": 1}]))
    assert "neither an image_id nor a file_name" in refused("score", path, "--dataset", truth)
