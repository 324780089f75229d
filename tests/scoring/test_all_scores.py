"""All scores of runs, worked out by hand on small datasets with and without masks."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from helpers import found_object, prediction, write_predictions, write_run
from PIL import Image

from lost_reg.masks.grids import stored
from lost_reg.scoring.all_scores import score_runs
from lost_reg.scoring.all_scores_text import csv_text, json_text, text_table
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.types import FoundObject, Mask

SIZE = (96, 128)
LARGE, SMALL, OTHER = (32, 16, 96, 64), (0, 0, 16, 16), (100, 70, 120, 90)


def pixels(box):
    xmin, ymin, xmax, ymax = box
    grid = np.zeros(SIZE, bool)
    grid[ymin:ymax, xmin:xmax] = True
    return grid


def with_mask(box, score=0.5, mask_box=None):
    return FoundObject(box, score, (0, 0), mask=stored(pixels(mask_box or box), SIZE))


def polygon(box):
    xmin, ymin, xmax, ymax = box
    return [[xmin, ymin, xmax, ymin, xmax, ymax, xmin, ymax]]


@pytest.fixture
def coco(tmp_path, make_coco):
    """A COCO file with masks: a.jpg has a small object and a large one, b.jpg one, c.jpg none."""
    boxes = {"a.jpg": [SMALL, LARGE], "b.jpg": [OTHER], "c.jpg": []}
    rows = {
        name: [(x, y, xmax - x, ymax - y, 0) for x, y, xmax, ymax in of_image]
        for name, of_image in boxes.items()
    }
    path = make_coco(tmp_path / "coco", rows)
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        one["segmentation"] = polygon((x, y, x + width, y + height))
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def masks(tmp_path):
    """A folder with masks: a.png is LARGE, b.png OTHER."""
    for stem, box in {"a": LARGE, "b": OTHER}.items():
        for folder, image in {"images": np.zeros((*SIZE, 3), np.uint8), "masks": pixels(box) * 255}.items():
            path = tmp_path / "mine" / folder / f"{stem}.{'jpg' if folder == 'images' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path)
    return f"masks={tmp_path / 'mine'}"


def run_on(folder, dataset, objects, failures=(), **settings):
    """A run folder with objects by image name."""
    predictions = [prediction(name, *of_image, size_hw=SIZE) for name, of_image in objects.items()]
    return write_predictions(folder, predictions, failures, dataset=str(dataset), split="all", **settings)


def scored(*folders, **options):
    rows, errors = score_runs(folders, ScoringOptions(**options))
    assert errors == []
    return rows


def refusal(folder, **options):
    rows, (error,) = score_runs([folder], ScoringOptions(**options))
    assert rows == [] and "\n" not in str(error)
    return str(error)


def test_a_perfect_run(tmp_path, coco):
    objects = {
        "a.jpg": [with_mask(LARGE), with_mask(SMALL)],
        "b.jpg": [with_mask(OTHER)],
        "c.jpg": [],
    }
    (row,) = scored(run_on(tmp_path / "run", coco, objects))
    assert row.run.score.corloc == 100 and not row.lacks_masks
    assert (row.boxes.ap, row.boxes.ar100) == (row.mask_ap.ap, row.mask_ap.ar100) == pytest.approx((100, 100))
    assert row.masks.images == 2
    assert row.masks.iou.value == row.masks.f_beta.value == row.masks.accuracy.value == 100


def test_masks_are_compared_with_the_largest_object(tmp_path, coco):
    """The box of a.jpg is right, but its mask is that of the small object; b.jpg could not be used."""
    objects = {"a.jpg": [with_mask(LARGE, mask_box=SMALL)], "c.jpg": [with_mask(OTHER)]}
    (row,) = scored(run_on(tmp_path / "run", coco, objects, failures=["b.jpg"]))
    area, small, other = 64 * 48, 16 * 16, 20 * 20
    total = 96 * 128
    assert row.masks.iou.value == 0
    accuracy = ((total - area - small) + (total - other)) / (2 * total)
    assert row.masks.accuracy.value == pytest.approx(100 * accuracy)
    # one of three objects is found, the mask of a.jpg's small one, before c.jpg's wrong one of the same score
    assert row.mask_ap.ap50 == pytest.approx(100 * 34 / 101)
    assert row.boxes.ap50 == pytest.approx(100 * 34 / 101)


def test_masks_of_patches_are_scored_in_pixels(tmp_path, masks):
    """Patches of 16 pixels, and LARGE ends on their borders."""
    grid = np.zeros((6, 8), bool)
    grid[1:4, 2:6] = True
    of_patches = FoundObject(LARGE, 0.5, (1, 2), mask=stored(grid, (96.0, 128.0)))
    (row,) = scored(run_on(tmp_path / "run", masks, {"a.jpg": [of_patches], "b.jpg": []}))
    assert row.masks.iou.value == pytest.approx(50)  # b.jpg: nothing found
    assert row.run.score.corloc == pytest.approx(50)
    assert row.boxes.ap50 == row.mask_ap.ap50 == pytest.approx(100 * 51 / 101)


def test_a_run_without_masks_says_so(tmp_path, masks, coco):
    objects = {"a.jpg": [found_object(LARGE)], "b.jpg": [found_object(OTHER)]}
    run = run_on(tmp_path / "without", masks, objects)
    with_them = run_on(tmp_path / "with", masks, {"a.jpg": [with_mask(LARGE)], "b.jpg": [with_mask(OTHER)]})
    rows = scored(run, with_them)
    assert [row.lacks_masks for row in rows] == [True, False] and rows[0].masks is None
    table = text_table(rows)
    assert f"{run}: its objects have no masks, so these are not scored: run with `masks`" in table
    header, _, first, second, *_ = table.splitlines()
    assert "mask IoU" in header and len(first.split()) < len(second.split())


def test_datasets_without_masks_have_no_columns_of_masks(tmp_path, make_voc):
    root = tmp_path / "root"
    make_voc(
        root / "VOCdevkit" / "VOC2007",
        {"1": [("dog", 33, 17, 96, 64)], "2": [("cat", 1, 1, 16, 16)]},
        hard=["cat"],
    )
    run = write_run(tmp_path / "run", root, {"1.jpg": LARGE, "2.jpg": LARGE})
    (row,) = scored(run)
    assert row.masks is None and not row.lacks_masks and "mask" not in text_table([row]).splitlines()[0]
    assert row.boxes.ap50 == pytest.approx(100 * 51 / 101)
    assert "the dataset has no masks" not in text_table([row])
    (row,) = scored(run, count_hard=False)
    assert row.boxes.ar1 == pytest.approx(100) and row.run.score.corloc == 100


def test_masks_of_a_run_that_the_dataset_has_no_truth_for_are_said_not_to_be_scored(tmp_path, make_voc):
    root = tmp_path / "root"
    make_voc(root / "VOCdevkit" / "VOC2007", {"1": [("dog", 33, 17, 96, 64)]})
    write_run(tmp_path / "run", root, {"1.jpg": LARGE})
    lines = tmp_path / "run" / "predictions.jsonl"
    mask = {"size_hw": [1, 1], "counts": "01", "spans_hw": list(map(float, SIZE))}
    content = json.loads(lines.read_text())
    content["objects"][0]["mask"] = mask
    lines.write_text(json.dumps(content) + "\n")
    (row,) = scored(tmp_path / "run")
    assert row.masks is None and row.lacks_true_masks
    assert "the dataset has no masks, so those that were found are not scored" in text_table([row])


def test_incomplete_runs(tmp_path, masks):
    run = run_on(tmp_path / "run", masks, {"a.jpg": [with_mask(LARGE)]})
    assert "covers 1 of the 2 images" in refusal(run)
    (row,) = scored(run, partial=True)
    assert (row.masks.images, row.masks.iou.value, row.boxes.ap) == pytest.approx((1, 100, 100))
    assert "1 image not done (left out)" in text_table([row])


def test_json_and_csv(tmp_path, masks):
    run = run_on(tmp_path / "run", masks, {"a.jpg": [with_mask(LARGE)], "b.jpg": []})
    rows = scored(run)
    (record,) = json.loads(json_text(rows))
    assert record["corloc"] == record["mask_iou"] == record["mask_f_beta"] == pytest.approx(50)
    assert record["mask_iou_low"] == 0 and record["mask_iou_high"] == 100 and record["note"] is None
    assert record["box_ap50"] == record["mask_ap50"] and record["mask_images"] == 2
    (from_csv,) = csv.DictReader(io.StringIO(csv_text(rows)))
    assert from_csv == {key: "" if value is None else str(value) for key, value in record.items()}
    without = scored(write_predictions_without_masks(tmp_path / "without", masks))
    (record,) = json.loads(json_text(without))
    assert record["mask_iou"] is record["mask_ap"] is None and "`masks`" in record["note"]


def write_predictions_without_masks(folder, dataset):
    return run_on(folder, dataset, {"a.jpg": [found_object(LARGE)], "b.jpg": []})


def one_run(length):
    """A single run of cells outside, as COCO compresses it: 5 bits a character, the lowest first."""
    text = ""
    while length >= 16:
        text += chr(48 + (length & 31) + 32)
        length >>= 5
    return text + chr(48 + length)


@pytest.mark.parametrize(
    "mask",
    [
        Mask((6, 8), "4", (96.0, 128.0)),
        Mask((6, 8), "~", (96.0, 128.0)),
        Mask((6, 8), one_run(48), (1e-300, 1e-300)),
        Mask((10**9, 10**9), one_run(10**18), (96.0, 128.0)),
    ],
)
def test_malformed_masks_are_one_line(tmp_path, masks, mask):
    bad = FoundObject(LARGE, 0.5, (0, 0), mask=mask)
    for objects in ([bad], [with_mask(LARGE), bad]):
        run = run_on(tmp_path / f"run{len(objects)}", masks, {"a.jpg": objects, "b.jpg": []})
        text = refusal(run)
        assert str(run) in text and "malformed mask of a.jpg" in text


def test_malformed_true_masks_are_one_line(tmp_path, coco):
    content = json.loads(coco.read_text())
    content["annotations"][0]["segmentation"] = {"size": [96, 128], "counts": "P" * 9}
    coco.write_text(json.dumps(content))
    run = run_on(tmp_path / "run", coco, {"a.jpg": [with_mask(LARGE)], "b.jpg": [], "c.jpg": []})
    assert f"malformed mask of a.jpg in {coco}" in refusal(run)


def test_one_bad_run_does_not_hide_the_others(tmp_path, masks):
    run_on(tmp_path / "runs" / "a", masks, {"a.jpg": [with_mask(LARGE)]})
    run_on(tmp_path / "runs" / "b", masks, {"a.jpg": [with_mask(LARGE)], "b.jpg": []})
    rows, errors = score_runs([tmp_path / "runs", tmp_path / "runs" / "b"], ScoringOptions())
    assert [row.run.path.name for row in rows] == ["b"] and len(errors) == 1
