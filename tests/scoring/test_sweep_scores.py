"""Scores of a sweep: the choice is made on images that are not scored, and read as it was written."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.boxes import is_found
from lost_reg.discovery.methods import preset_setting
from lost_reg.errors import LostRegError
from lost_reg.scoring.corloc import score
from lost_reg.scoring.sweep_scores import (
    _hits,
    csv_text,
    json_text,
    read_scores,
    score_sweep,
    text_table,
    tuning_images,
    write_scores,
)
from lost_reg.types import ImageTruth

BOXES = {True: [32, 16, 96, 64], False: [100, 80, 101, 81], None: None}


@pytest.fixture
def voc(tmp_path, make_voc) -> Path:
    """Eleven images in VOC layout, one of them without an object."""
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64), ("other", 1, 1, 40, 40)] for i in range(10)}
    return make_voc(tmp_path / "voc", objects | {"000010": []})


def planted_sweep(folder: Path, voc: Path | None, found: dict[str, list], failures=(), **settings) -> Path:
    """A sweep folder of biases 0, -1, -2, ..., each of which finds an image's first object, a wrong box, or
    nothing (None)."""
    folder.mkdir()
    number = len(next(iter(found.values())))
    tried = [helpers.setting(bias=-float(bias)).recorded() for bias in range(number)]
    record = helpers.run_settings(dataset=voc and str(voc), backbone="tiny")
    del record["features"], record["options"]
    record["tried"] = [{"features": one["features"], "options": one["options"]} for one in tried]
    record |= {"weights": {"source": "bundled", "name": "tiny", "sha256": ""}} | settings
    (folder / "sweep.json").write_text(json.dumps({"settings": record, "images": 11, "sessions": []}))
    lines = [
        {"image": name, "size_hw": [96, 128], "boxes_xyxy": [BOXES[one] for one in row]}
        for name, row in found.items()
    ]
    (folder / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    errors = [{"image": name, "reason": "gone"} for name in failures]
    (folder / "errors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in errors))
    return folder


def bias_of(one) -> float:
    return one.setting["options"]["bias"]


def test_the_choice_is_made_on_images_that_it_is_not_scored_on(voc, tmp_path):
    names = [f"{i:06}.jpg" for i in range(10)]
    tuning = np.flatnonzero(tuning_images(10, 0.3, 7))
    # the second setting finds all that choose and nothing else, the third the reverse
    found = {name: [False, i in tuning, i not in tuning] for i, name in enumerate(names)}
    found["000010.jpg"] = [True, True, True]  # without an object: counts nowhere
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.3, seed=7)
    assert (scores.images_tuned, scores.images_scored) == (3, 7)
    assert bias_of(scores.chosen) == -1.0 and scores.corloc(scores.chosen) == 0.0
    assert bias_of(scores.hindsight) == -2.0 and scores.corloc(scores.hindsight) == 100.0
    as_published = scores.as_published["lost"]
    assert as_published.setting == helpers.setting().recorded() and as_published.found == 0
    assert scores.by_image.images == tuple(names) and scores.by_image.tuning.sum() == 3


def test_the_first_of_equal_settings_is_chosen(voc, tmp_path):
    found = {f"{i:06}.jpg": [False, True, True] for i in range(11)}
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.5)
    assert bias_of(scores.chosen) == -1.0 and bias_of(scores.hindsight) == -1.0


def test_nothing_found_is_a_miss_and_so_is_a_failure(voc, tmp_path):
    found = {f"{i:06}.jpg": [True, None if i < 3 else True] for i in range(9)} | {"000010.jpg": [None, None]}
    folder = planted_sweep(tmp_path / "s", voc, found, failures=["000009.jpg"])
    scores = score_sweep(folder, tune_fraction=0.3)
    assert [one.tuned + one.found for one in scores.settings] == [9, 6]
    assert (scores.unusable, scores.not_done) == (1, 0)


def test_what_is_not_done_is_refused_or_left_out(voc, tmp_path):
    found = {f"{i:06}.jpg": [True] for i in range(8)}
    folder = planted_sweep(tmp_path / "s", voc, found, failures=["000008.jpg"])
    line = helpers.refusal(score_sweep, folder)
    assert f"{folder} covers 9 of the 11 images of voc" in line
    assert "`partial` scores those alone" in line and "`lost-reg sweep` with `resume`" in line
    scores = score_sweep(folder, partial=True, tune_fraction=0.3)
    assert (scores.unusable, scores.not_done) == (1, 2)
    assert scores.images_tuned + scores.images_scored == 9


def test_ground_truth_that_is_not_named_or_not_of_these_images(voc, tmp_path):
    found = {f"{i:06}.jpg": [True] for i in range(11)}
    folder = planted_sweep(tmp_path / "own", None, found, split=None)
    line = helpers.refusal(score_sweep, folder)
    assert "was run on files of your own" in line and "`dataset`" in line
    assert score_sweep(folder, dataset=str(voc)).images_scored == 9
    other = planted_sweep(tmp_path / "other", voc, {**found, "stranger.jpg": [True]})
    assert "no ground truth for stranger.jpg" in helpers.refusal(score_sweep, other)


def test_as_published_is_lost_with_its_defaults_at_any_size(voc, tmp_path):
    found = {f"{i:06}.jpg": [True] for i in range(11)}
    for name, other, is_published in (
        ("small", {"tried": [_tried(max_side=64)]}, True),
        ("centred", {"tried": [_tried(center=True)]}, False),
        ("several", {"tried": [_tried(max_objects=2)]}, False),
        ("method", {"method": "other"}, False),
    ):
        scores = score_sweep(planted_sweep(tmp_path / name, voc, found, **other), tune_fraction=0.3)
        assert ("lost" in scores.as_published) == is_published, name
        assert ("LOST as published" in text_table(scores)) == is_published
        assert ("LOST as published, but at max side 64 " in text_table(scores)) == (name == "small")


def test_one_setting_is_chosen_over_all_methods_and_each_as_published_is_shown(voc, tmp_path):
    tried = [
        helpers.setting(bias=-0.1).recorded(),
        helpers.setting().recorded(),
        preset_setting("tokencut").recorded(),
        {**_tried(), "method": "gone", "options": {"depth": 3}},
    ]
    found = {f"{i:06}.jpg": [i < 2, i < 4, True, i == 0] for i in range(11)}
    folder = planted_sweep(tmp_path / "s", voc, found, method=None, tried=tried)
    scores = score_sweep(folder, tune_fraction=0.3)
    assert scores.methods == ("lost", "tokencut", "gone") and scores.backbone == "tiny"
    assert scores.chosen.setting == scores.hindsight.setting == tried[2]
    assert {name: one.setting for name, one in scores.as_published.items()} == {
        "lost": tried[1],
        "tokencut": tried[2],
    }
    lines = text_table(scores).splitlines()
    assert lines[0] == "tiny on voc trainval: 4 settings of 3 methods, CorLoc on 7 images"
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "chosen on 3 other images",
        "best in hindsight",
        "LOST as published",
        "TokenCut as published",
    ]
    assert "TokenCut: k of layer -1, tau 0.2" in lines[3] and "LOST: k of" in lines[5]
    write_scores(scores)
    assert read_scores(folder) == scores
    rows = list(csv.DictReader(io.StringIO(csv_text(scores))))
    assert [(row["method"], row["bias"], row["tau"], row["depth"]) for row in rows] == [
        ("lost", "-0.1", "", ""), ("lost", "0.0", "", ""), ("tokencut", "", "0.2", ""), ("gone", "", "", "3"),
    ]  # fmt: skip


def _tried(**changes) -> dict:
    recorded = helpers.setting(**changes).recorded()
    return {"features": recorded["features"], "options": recorded["options"]}


def test_a_method_that_is_not_installed_is_scored_and_named(voc, tmp_path):
    found = {f"{i:06}.jpg": [i % 2 == 0] for i in range(11)}
    tried = {**_tried(), "options": {"depth": 3}}
    folder = planted_sweep(tmp_path / "s", voc, found, method="other", tried=[tried])
    scores = score_sweep(folder, tune_fraction=0.3)
    assert scores.backbone == "tiny (other)" and scores.settings[0].tuned + scores.settings[0].found == 5
    assert "k of layer -1, raw, depth 3" in text_table(scores)
    assert "method,facet,layer,center,normalize,max_side,depth,tuned," in csv_text(scores)


@given(st.integers(2, 500), st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_draw_has_the_size_asked_for_and_repeats(images, fraction, seed):
    if not 0 < round(fraction * images) < images:
        with pytest.raises(LostRegError, match=r"cannot be split .* `tune_fraction`"):
            tuning_images(images, fraction, seed)
        return
    drawn = tuning_images(images, fraction, seed)
    assert drawn.sum() == round(fraction * images)
    assert np.array_equal(drawn, tuning_images(images, fraction, seed))


corner = st.integers(0, 12)
box = st.tuples(corner, corner, corner, corner).map(
    lambda one: (min(one[0], one[2]), min(one[1], one[3]), max(one[0], one[2]), max(one[1], one[3]))
)


@given(st.lists(st.one_of(st.none(), box), min_size=1, max_size=4))
def test_a_setting_finds_what_corloc_finds(boxes):
    truth = ImageTruth("a", "a", (13, 13), ((2, 3, 9, 8), (0, 0, 4, 12)), ("a", "b"), (False, False))
    dataset = type("Dataset", (), {"truths": {"a": truth}})
    hits = _hits(tuple(boxes), dataset, "a").tolist()
    assert hits == [one is not None and is_found(one, truth.boxes_xyxy) for one in boxes]
    assert hits == [score({"a": one}, dataset.truths).found == 1 for one in boxes]


# --- text, JSON, CSV ---------------------------------------------------------------------------------


@pytest.fixture
def scores(voc, tmp_path):
    found = {f"{i:06}.jpg": [i < 4, i < 8, i == 0] for i in range(11)}
    return score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.2, seed=1)


def test_text_json_and_csv_carry_the_same_numbers(scores):
    content = json.loads(json_text(scores))
    rows = list(csv.DictReader(io.StringIO(csv_text(scores))))
    for one, row, from_csv in zip(scores.settings, content["settings"], rows, strict=True):
        assert {key: row[key] for key in one.setting} == one.setting
        assert (row["tuned"], row["found"]) == (one.tuned, one.found)
        assert row["corloc"] == 100 * one.found / 8 == float(from_csv["corloc"])
        assert row["tuned_corloc"] == 100 * one.tuned / 2 == float(from_csv["tuned_corloc"])
        assert (row["interval_low"], row["interval_high"]) == scores.interval(one)
        assert (from_csv["method"], from_csv["facet"], from_csv["bias"]) == ("lost", "k", str(bias_of(one)))
    assert scores.settings[content["chosen"]] == scores.chosen
    assert scores.settings[content["hindsight"]] == scores.hindsight
    lines = text_table(scores).splitlines()
    assert lines[0] == "tiny on voc trainval: 3 settings, CorLoc on 8 images"
    assert [line.split("  ")[0] for line in lines[3:6]] == [
        "chosen on 2 other images",
        "best in hindsight",
        "LOST as published",
    ]
    assert f"{scores.corloc(scores.chosen):.1f}" in lines[3] and "k of layer -1, raw, bias -1" in lines[3]
    assert "(`tune_fraction` 0.2, `seed` 1)" in lines[6]


def test_scores_are_read_as_they_were_written(scores):
    path = write_scores(scores)
    assert path == scores.folder / "corloc.json"
    assert read_scores(scores.folder) == scores and read_scores(scores.folder).by_image is None
    joined = replace(scores.settings[0], setting=helpers.setting(facet="qk", layer=(-2, -1)).recorded())
    write_scores(replace(scores, settings=(joined,)))
    (read,) = read_scores(scores.folder).settings
    assert read.setting["features"]["layer"] == [-2, -1]


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": []},
        {"settings": [{"layer": -1}]},
        {"settings": "all"},
        {"images_scored": 0},
        {"images_scored": 3},  # fewer than found
        {"tuned": 3},  # of 2
        {"unusable": -1},
        {"seed": None},
        {"backbone": 5},
        {"tune_fraction": float("nan")},
        {"features": {"facet": "x"}},
        {"features": {"layer": "last"}},
        {"found": -1},
        {"method": None},
    ],
)
def test_scores_of_another_form_are_one_line(scores, changed):
    path = write_scores(scores)
    content = json.loads(path.read_text())
    if changed.keys() & {"features", "tuned", "found", "method"}:
        content["settings"][1] |= changed
    else:
        content |= changed
    path.write_text(json.dumps(content))
    assert f"{path} does not hold the scores of a sweep" in helpers.refusal(read_scores, scores.folder)


def test_scores_that_are_missing_or_no_json(scores, tmp_path):
    assert "does not hold the scores" in helpers.refusal(read_scores, tmp_path)
    path = write_scores(scores)
    for text in ("", "{", "[" * 200_000, "[]", "null"):
        path.write_text(text)
        assert "does not hold the scores" in helpers.refusal(read_scores, scores.folder)
