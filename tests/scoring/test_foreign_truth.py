"""Scores on the ground truth of other tools: names and ids, sizes, notes, images without annotations."""

from __future__ import annotations

import json
import pickle

import helpers
import pytest
from click.testing import CliRunner

from lost_reg.cli.app import main
from lost_reg.scoring.compare import compare
from lost_reg.scoring.found_boxes import LEAVE_OUT, ScoringOptions
from lost_reg.scoring.score_runs import score_path

NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
RIGHT, WRONG = (10, 20, 40, 60), (90, 60, 120, 90)
HALF = (12, 9, 116, 87)  # nearly the centred box of 80 %: 12.8, 9.6, 115.2, 86.4


@pytest.fixture
def coco(tmp_path, make_coco):
    """A function that writes a COCO file of four images with a box each, changed, and returns its path."""

    def write(change=lambda content: None, names=NAMES, box=(10, 20, 30, 40, 0)):
        path = make_coco(tmp_path / "coco", {name: [box] for name in names})
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return path

    return write


def corloc(path, dataset, **options):
    ((row,), errors) = score_path(path, ScoringOptions(dataset=str(dataset), **options))
    assert not errors
    return row


def pickled(tmp_path, keys, boxes=(RIGHT, WRONG, WRONG, WRONG)):
    path = tmp_path / "preds.pkl"
    path.write_bytes(pickle.dumps({key: list(box) for key, box in zip(keys, boxes)}))
    return path


@pytest.mark.parametrize(
    "keys",
    [
        NAMES,
        [f"val2017/{name}" for name in NAMES],
        [f"D:\\data\\{name}" for name in NAMES],
        ["x/a", "x/b", "x/c", "x/d"],
        [1, 2, 3, 4],
        [1.0, 2.0, 3.0, 4.0],
        ["1.0", "2", "3.0", "val2017/d.jpg"],
    ],
)
def test_boxes_under_other_names(tmp_path, coco, keys):
    score = corloc(pickled(tmp_path, keys), coco()).score
    assert (score.images, score.found, score.corloc) == (4, 1, 25)


def test_two_keys_of_one_id_are_refused(tmp_path, coco):
    for keys in ([1, 1.5], [1, "1", 2, 3], ["a.jpg", "val/a.jpg"]):
        line = helpers.refusal(corloc, pickled(tmp_path, keys), coco())
        assert any(one in line for one in ("one is 1.5", "the same id", "several boxes for a.jpg"))


def test_detections_by_ids_of_any_type(tmp_path, coco):
    for ids in ((1, 2, 3, 4), (1.0, 2.0, 3.0, 4.0), ("1", "2", "3.0", "4")):
        boxes = ([10, 20, 30, 40], *([90, 60, 30, 30],) * 3)
        rows = [{"image_id": key, "bbox": box, "score": 1} for key, box in zip(ids, boxes)]
        (tmp_path / "found.JSON").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
        assert corloc(tmp_path / "found.JSON", coco()).score.corloc == 25


def test_a_crowd_of_text_zero_and_ids_of_text_count(tmp_path, coco):
    """Both lost boxes in silence: CorLoc moved from 25 to 0 and to 33.3."""

    def change(content):
        content["annotations"][0]["iscrowd"] = "0"
        content["annotations"][1]["image_id"] = "2"

    row = corloc(pickled(tmp_path, NAMES), coco(change))
    assert (row.score.images, row.score.corloc, row.notes) == (4, 25, ())


# --- sizes -------------------------------------------------------------------------------------------


def without_height(content):
    for one in content["images"]:
        del one["height"]


@pytest.mark.parametrize("kind", ["run", "pickle"])
def test_sizes_that_are_not_annotated_do_not_change_the_baselines(tmp_path, coco, kind):
    if kind == "run":
        found = helpers.write_run(tmp_path / "run", None, dict.fromkeys(NAMES, RIGHT), dataset="x")
    else:
        found = pickled(tmp_path, NAMES)
    box = (HALF[0], HALF[1], HALF[2] - HALF[0], HALF[3] - HALF[1], 0)
    before = corloc(found, coco(box=box))
    path = coco(without_height, box=box)
    if kind == "run":  # it knows the sizes of images that are gone
        (path.parent / "images" / "b.jpg").unlink()
    after = corloc(found, path)
    assert before.score == after.score and after.score.centred == 100 and after.score.whole == 100
    assert after.other_size == 0


def test_a_size_that_nothing_gives_is_one_line(tmp_path, coco):
    path = coco(without_height)
    (path.parent / "images" / "b.jpg").unlink()
    line = helpers.refusal(corloc, pickled(tmp_path, NAMES), path)
    assert "the size of b.jpg is not known" in line and "add its height and width, or the image" in line


def test_an_image_that_nobody_can_read_counts_as_a_miss(tmp_path, coco):
    path = coco(without_height)
    (path.parent / "images" / "b.jpg").write_bytes(b"no image")
    boxes = {name: RIGHT for name in NAMES if name != "b.jpg"}
    score = corloc(helpers.write_run(tmp_path / "run", None, boxes, ["b.jpg"], dataset="x"), path).score
    assert (score.images, score.found, score.unusable) == (4, 3, 1)


# --- notes and images without annotations ------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def test_notes_reach_standard_error_and_json(tmp_path, coco):
    path = coco(lambda content: content["annotations"][3].update(image_id=99))
    predictions = [helpers.prediction(name, RIGHT) for name in NAMES]
    root = path.parent / "images"
    run = helpers.write_predictions(tmp_path / "run", predictions, root=root, dataset=str(path))
    note = "instances.json: 1 of 4 annotations belong to no listed image: ids 99"
    for command in (["corloc", run], ["score", run]):
        result = invoke(*command)
        assert result.exit_code == 0 and result.stderr == f"Note: {note}\n"
        (row,) = json.loads(invoke(*command, "--json").stdout)
        assert row["dataset_notes"] == note and row["images"] == 3
    result = invoke("compare", run, run, "--json")
    assert json.loads(result.stdout)["notes"] == [note] and result.stderr == f"Note: {note}\n"
    invoke("report", run, "--out", tmp_path / "report")
    assert note in (tmp_path / "report" / "index.html").read_text()


def test_where_nothing_can_be_scored_the_notes_say_why(tmp_path, coco):
    path = coco(lambda content: [one.update(image_id=99) for one in content["annotations"]])
    line = helpers.refusal(corloc, pickled(tmp_path, NAMES), path)
    assert "nothing to score" in line and "4 of 4 annotations belong to no listed image: ids 99" in line


@pytest.fixture
def voc(tmp_path, make_voc):
    """Four images; d has no annotation, and only a was found."""
    folder = make_voc(tmp_path / "mine", {name[0]: [("dog", 11, 21, 40, 60)] for name in NAMES})
    (folder / "Annotations" / "d.xml").unlink()
    return folder


def test_images_without_annotations_are_refused_or_left_out(tmp_path, voc):
    boxes = dict(zip(NAMES, (RIGHT, WRONG, WRONG, RIGHT)))
    run = helpers.write_run(tmp_path / "run", None, boxes, dataset=str(voc))
    said = "1 of 4 images of mine has no annotation (d.jpg)"
    result = invoke("corloc", run)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {said}: --unannotated leave-out scores the others\n"
    for command in ("corloc", "score"):
        result = invoke(command, run, "--unannotated", "leave-out", "--json")
        (row,) = json.loads(result.stdout)
        assert (row["images"], row["found"]) == (3, 1)
        assert row["dataset_notes"] == f"{said}: left out" and f"Note: {said}: left out" in result.stderr
    options = ScoringOptions(unannotated=LEAVE_OUT)
    assert compare(run, run, options).total.images == 3
    for keys in (NAMES, ["a", "b", "c", "d"], ["x/a.jpg", "x/b.jpg", "x/c.jpg", "x/d.jpg"]):
        assert corloc(pickled(tmp_path, keys), voc, unannotated=LEAVE_OUT).score.images == 3


def test_a_sweep_leaves_images_without_annotations_out(tmp_path, voc):
    arguments = ("sweep", "--dataset", voc, "--out", tmp_path / "sweep", "--tune-fraction", "0.5", "--json")
    result = invoke(*arguments)
    assert result.exit_code == 1 and "--unannotated leave-out scores the others" in result.stderr
    result = invoke(*arguments, "--unannotated", "leave-out")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["images_tuned"] + content["images_scored"] == 3
    assert "Note: 1 of 4 images of mine has no annotation (d.jpg): left out" in result.stderr


# --- COCO files of boxes -----------------------------------------------------------------------------


@pytest.mark.parametrize("ids", ["of the dataset", "from 1"])
def test_corloc_of_an_export_is_that_of_its_run(tmp_path, coco, make_voc, ids):
    """Its first object counts, not that of the highest score; images without a box are misses."""
    if ids == "from 1":
        dataset = make_voc(tmp_path / "voc", {name[0]: [("dog", 11, 21, 40, 60)] for name in NAMES})
    else:
        dataset = coco()
    first, second = (helpers.found_object(RIGHT, score=0.1), helpers.found_object(WRONG, score=0.9))
    predictions = [
        helpers.prediction("d.jpg", first, second),
        helpers.prediction("b.jpg", second, first),
        helpers.prediction("a.jpg"),
    ]
    run = helpers.write_predictions(
        tmp_path / "run", predictions, ["c.jpg"], dataset=str(dataset), split="all"
    )
    assert invoke("export", run, "--to", "coco", "--out", tmp_path / "out.json").exit_code == 0
    ((of_run,), _) = score_path(run, ScoringOptions())
    of_export = corloc(tmp_path / "out.json", dataset)
    assert (
        (of_run.score.images, of_run.score.found) == (4, 1) == (of_export.score.images, of_export.score.found)
    )
    assert of_run.score.corloc == of_export.score.corloc == 25
    (row,) = json.loads(invoke("score", tmp_path / "out.json", "--dataset", dataset, "--json").stdout)
    assert row["corloc"] == 25


def test_ground_truth_finds_all_of_itself(coco):
    path = coco()
    assert corloc(path, path).score.corloc == 100


def test_annotations_by_score(tmp_path, coco):
    path = coco()
    content = json.loads(path.read_text())
    for index, (one, score) in enumerate(zip(content["annotations"], (0.2, 0.2, 0.2, 0.2))):
        one["score"] = score
        better = {**one, "id": 10 + index, "bbox": [90, 60, 30, 30], "score": 0.3 if index else 0.1}
        content["annotations"].append(better)
    (tmp_path / "found.json").write_text(json.dumps(content))
    del content["annotations"][0]["bbox"]
    assert corloc(tmp_path / "found.json", path).score.found == 1
    (tmp_path / "found.json").write_text(json.dumps(content))
    line = helpers.refusal(corloc, tmp_path / "found.json", path)
    assert "annotation 1 of image a.jpg: bbox is missing" in line


def test_boxes_of_unlisted_images_are_refused(tmp_path, coco):
    path = coco()
    content = json.loads(path.read_text())
    content["annotations"][0]["image_id"] = 77
    (tmp_path / "found.json").write_text(json.dumps(content))
    line = helpers.refusal(corloc, tmp_path / "found.json", path)
    assert "1 of 4 annotations belong to no listed image: ids 77" in line
