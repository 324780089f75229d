"""From run folders and prediction files to the CorLoc table."""

from __future__ import annotations

import csv
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from lost_reg.datasets import catalog as datasets
from lost_reg.errors import LostRegError
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.scoring.score_runs import csv_text, json_text, score_path, text_table

# In images of 96 x 128: VOC writes the box (32, 16, 96, 64) as 33, 17, 96, 64.
OBJECTS = {
    "000005": [("dog", 33, 17, 96, 64)],
    "000007": [("cat", 1, 1, 128, 96)],  # the whole image: the baselines find it
    "000009": [("dog", 1, 1, 20, 20)],
    "000012": [],
}
RIGHT, WRONG = (32, 16, 96, 64), (100, 70, 128, 96)
BOXES = {"000005.jpg": RIGHT, "000007.jpg": WRONG, "000009.jpg": WRONG, "000012.jpg": WRONG}


@pytest.fixture
def root(tmp_path, make_voc) -> Path:
    """A data root with four images of VOC07."""
    make_voc(tmp_path / "root" / "VOCdevkit" / "VOC2007", OBJECTS, hard=("cat",))
    return tmp_path / "root"


def write_run(folder: Path, root: Path | None, boxes=BOXES, failures=(), **settings) -> Path:
    return helpers.write_run(folder, root, boxes, failures, **settings)


def score_one(path: Path, **options):
    """The one row of a path that has no errors."""
    (row,), errors = score_path(path, ScoringOptions(**options))
    assert errors == []
    return row


def refusal(path: Path, **options) -> str:
    """The text of the one-line error that the only run of a path gives."""
    try:
        rows, (error,) = score_path(path, ScoringOptions(**options))
        assert rows == []
    except LostRegError as raised:
        error = raised
    assert "\n" not in str(error)
    return str(error)


# --- one run -----------------------------------------------------------------------------------------


def test_run_worked_out_by_hand(root, tmp_path):
    row = score_one(write_run(tmp_path / "run", root))
    assert (row.backbone, row.dataset, row.split) == ("dino_vits16", "voc07", "trainval")
    assert (row.score.images, row.score.found, row.score.without_truth) == (3, 1, 1)
    assert row.score.corloc == row.score.centred == row.score.whole == pytest.approx(100 / 3)
    assert row.published is None  # 4 images are not VOC07


def test_failures_count_as_misses(root, tmp_path):
    boxes = {name: box for name, box in BOXES.items() if name in ("000005.jpg", "000012.jpg")}
    row = score_one(write_run(tmp_path / "run", root, boxes, failures=["000007.jpg", "000009.jpg"]))
    assert (row.score.images, row.score.found, row.score.unusable, row.score.not_done) == (3, 1, 2, 0)
    assert "2 undecodable (counted as misses), 1 without any box (left out)" in text_table([row])


def test_images_without_any_object_found_are_misses(root, tmp_path):
    predictions = [
        helpers.prediction(name, *([box] if name != "000007.jpg" else [])) for name, box in BOXES.items()
    ]
    row = score_one(helpers.write_predictions(tmp_path / "run", predictions, data_root=str(root)))
    assert (row.score.images, row.score.found, row.score.unusable, row.score.not_done) == (3, 1, 0, 0)
    none = [helpers.prediction(name) for name in BOXES]
    row = score_one(helpers.write_predictions(tmp_path / "none", none, data_root=str(root)))
    assert (row.score.images, row.score.found, row.score.centred) == (3, 0, pytest.approx(100 / 3))


def test_partial_run_is_refused_or_scored_on_what_is_done(root, tmp_path):
    folder = write_run(tmp_path / "run", root, {"000005.jpg": RIGHT}, failures=["000007.jpg"])
    text = refusal(folder)
    assert f"{folder} covers 2 of the 4 images of voc07" in text
    assert "`partial`" in text and "`resume`" in text
    row = score_one(folder, partial=True)
    assert (row.score.images, row.score.found, row.score.not_done) == (2, 1, 2)
    assert "2 not done (left out)" in text_table([row])


def test_nothing_done_is_refused_even_in_part(root, tmp_path):
    assert "nothing to score" in refusal(write_run(tmp_path / "run", root, {}), partial=True)


def test_hard_objects_can_be_left_out(root, tmp_path):
    row = score_one(write_run(tmp_path / "run", root), count_hard=False)
    assert (row.score.images, row.score.found, row.score.without_truth) == (2, 1, 2)


def test_run_on_own_files_needs_the_ground_truth_named(root, tmp_path):
    folder = write_run(tmp_path / "run", None, dataset=None, split=None, apply_exif=True)
    assert "was run on files of your own" in refusal(folder) and "`dataset`" in refusal(folder)
    row = score_one(folder, dataset="voc07", data_root=root)
    assert (row.dataset, row.score.images, row.score.found) == ("voc07", 3, 1)


def test_own_dataset_by_its_path(tmp_path, make_voc):
    mine = make_voc(tmp_path / "mine", OBJECTS)
    row = score_one(write_run(tmp_path / "run", None, dataset=str(mine)))
    assert (row.dataset, row.split, row.score.found) == ("mine", "trainval", 1)


def test_data_root_of_the_option_goes_before_the_recorded_one(root, tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", tmp_path / "gone")
    assert f"voc07 is not there: looked for {tmp_path / 'gone'}" in refusal(folder)
    assert score_one(folder, data_root=root).score.found == 1
    monkeypatch.setenv("LOST_REG_DATA", str(root))
    assert score_one(folder).score.found == 1


def test_a_recorded_data_root_that_is_not_used_is_told_where_the_dataset_is_missing(
    root, tmp_path, monkeypatch
):
    """Runs of versions before the seal have none, and lost their data root without a word."""
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run", root)
    score_one(folder)
    assert "somebody else" not in refusal(folder, dataset="nope")  # the user's own
    record = json.loads((folder / "run.json").read_text())
    del record["seal"]
    (folder / "run.json").write_text(json.dumps(record))
    reason = refusal(folder)
    assert "was made by somebody else, on another machine or by an earlier version" in reason
    assert reason.endswith(
        f"the data root that it names, {str(root)!r}, is not used: name it with `data_root`"
    )
    assert "is not used" not in refusal(folder, data_root=tmp_path / "elsewhere")
    assert score_one(folder, data_root=root).score.found == 1
    monkeypatch.setenv("LOST_REG_DATA", str(tmp_path / "elsewhere"))
    assert "is not used" not in refusal(folder)


def test_image_without_ground_truth(root, tmp_path):
    folder = write_run(tmp_path / "run", root, {**BOXES, "stranger.jpg": RIGHT})
    assert "no ground truth for stranger.jpg" in refusal(folder)
    folder = write_run(tmp_path / "other", root, failures=["stranger.jpg"])
    assert "no ground truth for stranger.jpg" in refusal(folder)


def test_ground_truth_that_is_missing(root, tmp_path):
    (root / "VOCdevkit/VOC2007/Annotations/000007.xml").unlink()
    line = refusal(write_run(tmp_path / "run", root))
    assert "images of voc07 has no annotation (000007.jpg): `unannotated` leave-out scores the others" in line


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"settings": {}, "images": 4}',
        '{"settings": {"dataset": "voc07"}, "images": 4}',
        '{"settings": {"dataset": "voc07", "weights": "dino", "protocol": {}}, "images": 4}',
    ],
)
def test_malformed_record_is_one_line(root, tmp_path, text):
    folder = write_run(tmp_path / "run", root)
    (folder / "run.json").write_text(text)
    assert str(folder / "run.json") in refusal(folder, data_root=root)


# --- several runs ------------------------------------------------------------------------------------


@pytest.fixture
def runs(root, tmp_path) -> Path:
    top = tmp_path / "runs"
    write_run(top / "a", root)
    write_run(top / "deep" / "b", root, dict.fromkeys(BOXES, (0, 0, 128, 96)), backbone="dinov2_vitl14")
    return top


def test_all_runs_below_a_folder(runs):
    rows, errors = score_path(runs, ScoringOptions())
    assert errors == []
    assert [(row.path, row.backbone) for row in rows] == [
        (runs / "a", "dino_vits16"),
        (runs / "deep" / "b", "dinov2_vitl14"),
    ]
    assert [row.score.found for row in rows] == [1, 1]


def test_broken_runs_do_not_hide_the_others(runs, root):
    write_run(runs / "partial", root, {"000005.jpg": RIGHT})
    malformed = write_run(runs / "malformed", root)
    (malformed / "predictions.jsonl").write_text("no json\n")
    (write_run(runs / "record", root) / "run.json").write_text('{"settings": {}, "images": 4}')
    rows, errors = score_path(runs, ScoringOptions())
    assert [row.path.name for row in rows] == ["a", "b"]
    texts = [str(error) for error in errors]
    assert len(texts) == 3
    assert f"malformed line 1 of {malformed / 'predictions.jsonl'}" in texts[0]
    assert "covers 1 of the 4" in texts[1]
    assert str(runs / "record" / "run.json") in texts[2]


def test_text_json_and_csv_carry_the_same_numbers(runs):
    rows, _ = score_path(runs, ScoringOptions())
    as_json, as_csv = json.loads(json_text(rows)), list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [list(row) for row in as_json] == [list(row) for row in as_csv]
    for row, from_json, from_csv in zip(rows, as_json, as_csv):
        assert {key: "" if value is None else str(value) for key, value in from_json.items()} == from_csv
        assert from_json["path"] == str(row.path)
        assert (from_json["images"], from_json["found"], from_json["corloc"]) == (3, 1, row.score.corloc)
        assert (from_json["interval_low"], from_json["interval_high"]) == row.score.interval
        assert (from_json["unusable"], from_json["without_truth"], from_json["not_done"]) == (0, 1, 0)
        assert (from_json["centred"], from_json["whole"]) == (row.score.centred, row.score.whole)
        assert (from_json["published"], from_json["published_source"]) == (None, "no comparable number")
    lines = text_table(rows).splitlines()
    for line, from_json in zip(lines[2:4], as_json):
        run = Path(from_json["path"]).name
        assert line.split()[:5] == [run, from_json["backbone"], "voc07", "trainval", "3"]
        shown = ("corloc", "interval_low", "interval_high", "centred", "whole")
        assert all(f"{from_json[key]:.1f}" in line for key in shown)
        assert line.endswith("no comparable number")


def test_comma_and_quote_in_a_path_survive_csv(root, tmp_path):
    folder = write_run(tmp_path / 'a, "b"', root)
    (row,) = csv.DictReader(io.StringIO(csv_text([score_one(folder)])))
    assert row["path"] == str(folder)


def test_no_runs(tmp_path):
    assert "no runs in" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "x.jpg").write_text("")
    assert "is an image: name the folder of a run" in refusal(tmp_path / "x.jpg")


# --- names and published numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "dino_vits16"),
        ({"weights": {"source": "random", "name": "random", "sha256": None}}, "dino_vits16 (RANDOM WEIGHTS)"),
        ({"weights": {"source": "file", "name": "mine.pth", "sha256": "0"}}, "dino_vits16 (mine.pth)"),
        (
            {
                **helpers.setting(facet="v", layer=-2, normalize=True, bias=-0.5).recorded(),
                "precision": "bf16",
            },
            "dino_vits16 (facet=v, layer=-2, normalize=True, bias=-0.5, bf16)",
        ),
        (
            helpers.setting(k_patches=50, max_side=512).recorded(),
            "dino_vits16 (max_side=512, k_patches=50)",
        ),
        (helpers.setting(max_objects=3).recorded(), "dino_vits16 (max_objects=3)"),
        ({"method": "other", "options": {"depth": 2}}, "dino_vits16 (other, depth=2)"),
    ],
)
def test_name_tells_what_is_not_as_published(root, tmp_path, settings, expected):
    row = score_one(write_run(tmp_path / "run", root, **settings))
    assert row.backbone == expected
    assert expected in text_table([row])


@pytest.fixture
def full_split(monkeypatch):
    """The four images pass for the whole of VOC07."""
    spec = next(spec for spec in datasets.SPECS if spec.name == "voc07")
    monkeypatch.setitem(datasets._BY_NAME, "voc07", replace(spec, images=len(OBJECTS)))


def test_published_number_stands_beside_a_full_run(root, tmp_path, full_split):
    row = score_one(write_run(tmp_path / "run", root))
    assert row.published.corloc == 61.9
    assert "61.9 (valeoai/LOST README)" in text_table([row])
    assert json.loads(json_text([row]))[0]["published"] == 61.9


def test_no_published_number_beside_another_split_or_protocol(root, tmp_path, full_split):
    run = write_run(tmp_path / "run", root)
    assert score_one(run, count_hard=False).published is None
    part = write_run(tmp_path / "part", root, {"000005.jpg": RIGHT})
    assert score_one(part, partial=True).published is None
    sides = write_run(tmp_path / "sides", root, **helpers.setting(max_side=512).recorded())
    assert score_one(sides).published is None
    assert "no comparable number" in text_table([score_one(sides)])


# --- prediction files --------------------------------------------------------------------------------


def test_lost_pickle(root, tmp_path):
    path = tmp_path / "preds.pkl"
    path.write_bytes(pickle.dumps({name: np.array(box) for name, box in BOXES.items()}))
    assert "name the ground truth" in refusal(path) and "`dataset`" in refusal(path)
    row = score_one(path, dataset="voc07", data_root=root)
    assert (row.backbone, row.score.images, row.score.found) == ("preds.pkl", 3, 1)
    assert row.published is None


def test_part_of_a_pickle(root, tmp_path):
    path = tmp_path / "preds.pkl"
    path.write_bytes(pickle.dumps({"000005": RIGHT}))
    assert "covers 1 of the 4 images" in refusal(path, dataset="voc07", data_root=root)
    assert score_one(path, dataset="voc07", data_root=root, partial=True).score.corloc == 100


def test_coco_detections(tmp_path, make_coco):
    truth = make_coco(tmp_path / "coco", {"b.jpg": [(10, 10, 20, 20, 0)], "a.jpg": [(50, 50, 30, 30, 0)]})
    path = tmp_path / "detections.json"
    rows = [
        (1, [10, 10, 20, 20], 0.9),
        (1, [0, 0, 5, 5], 0.1),
        (2, [50, 50, 30, 30], 0.1),
        (2, [0, 0, 5, 5], 0.9),
    ]
    path.write_text(json.dumps([{"image_id": i, "bbox": box, "score": score} for i, box, score in rows]))
    row = score_one(path, dataset=str(truth))
    assert (row.dataset, row.score.images, row.score.found) == ("instances.json", 2, 1)


def test_file_that_is_no_prediction_file(root, tmp_path):
    path = tmp_path / "preds.pkl"
    path.write_text("000005 32 16 96 64\n")
    assert "neither a LOST pickle nor COCO" in refusal(path, dataset="voc07", data_root=root)


def test_a_part_of_a_run_and_a_sweep_are_refused_with_what_to_name_instead(tmp_path):
    helpers.write_run(tmp_path / "run", None, {"a.jpg": (0, 0, 1, 1)})
    options = ScoringOptions("voc07")
    text = helpers.refusal(score_path, tmp_path / "run/predictions.jsonl", options)
    assert "name its folder" in text and str(tmp_path / "run") in text
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept/sweep.json").write_text("{}")
    assert "`lost-reg sweep`" in helpers.refusal(score_path, tmp_path / "swept", options)
