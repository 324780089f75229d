"""Scores of a sweep: the choice is made on images that are not scored, and read as it was written."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.boxes import is_found
from lost_reg.datasets.catalog import find_dataset
from lost_reg.datasets.truths import Truths
from lost_reg.discovery.methods import preset_setting
from lost_reg.errors import LostRegError
from lost_reg.runs.seals import sealed
from lost_reg.runs.sweep_folder import SweptImage
from lost_reg.scoring.columns import AlignedBoxes, Columns
from lost_reg.scoring.corloc import score
from lost_reg.scoring.sweep_scores import _hits, score_sweep, tuning_images
from lost_reg.scoring.sweep_text import (
    chance_warning,
    csv_text,
    json_text,
    read_scores,
    text_table,
    write_scores,
)
from lost_reg.text import display_width
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
    (folder / "sweep.json").write_text(json.dumps(sealed({"settings": record, "images": 11, "sessions": []})))
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


def test_of_settings_that_tie_the_one_as_published_is_chosen_or_else_the_first(voc, tmp_path):
    """And the table says how many tie, and gives their mean: which is chosen says nothing about it."""
    tuning, order = np.flatnonzero(tuning_images(10, 0.5, 0)), [-1.0, -2.0, 0.0]
    tried = [_tried(bias=bias) for bias in order]
    for row, expected, rule in (
        ([True, True, False], -1.0, "the first in the order of the sweep"),
        ([True, False, True], 0.0, "the one as published"),
    ):
        found = {  # of the images that are scored, only the setting of bias -1 finds any
            f"{i:06}.jpg": [best and (i in tuning or bias == -1) for bias, best in zip(order, row)]
            for i in range(10)
        } | {"000010.jpg": [False] * 3}
        folder = planted_sweep(tmp_path / f"{expected}", voc, found, tried=tried)
        scores = score_sweep(folder, tune_fraction=0.5)
        assert bias_of(scores.chosen) == expected and len(scores.tied) == 2
        text = text_table(scores)
        assert "chosen on 5 other images (one of 2 that tie)" in text
        assert [line.split() for line in text.splitlines() if "mean of" in line] == [
            ["mean", "of", "the", "2", "that", "tie", "there", "50.0"]  # of 100 and 0
        ]
        assert f"2 settings tie on the 5 images of the choice: {rule} is taken." in text
        content = json.loads(json_text(scores))
        assert content["tied"] == [index for index, best in enumerate(row) if best]
        assert content["tied_corloc"] == 50.0 and content["chosen"] == order.index(expected)


def test_one_setting_that_is_best_ties_with_none(voc, tmp_path):
    found = {f"{i:06}.jpg": [True, False] for i in range(11)}
    text = text_table(score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.5))
    assert "chosen on 5 other images  " in text and "tie" not in text.replace("settings, the", "")


def test_settings_that_cannot_be_told_apart_are_counted(voc, tmp_path):
    """By hand: of 8 images, 6 that only one of two finds give p = 0.03, and 5 give p = 0.06."""
    tuning = np.flatnonzero(tuning_images(10, 0.8, 0))
    places = {image: place for place, image in enumerate(tuning)}
    wins = [8, 7, 3, 2, 0]  # of the eight: as many as the chosen one, one less, five less, six less, none
    found = {f"{i:06}.jpg": [places.get(i, 9) < won for won in wins] for i in range(11)}
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.8)
    assert scores.chosen == scores.settings[0] and scores.alike == 3
    line = "3 of 5 settings, the chosen one included, cannot be told apart on these 8 images"
    assert line in text_table(scores) and json.loads(json_text(scores))["alike"] == 3
    assert "3 of 5 settings cannot be told apart on the 8 images" in chance_warning(scores)
    assert chance_warning(replace(scores, alike=2)) is None
    assert chance_warning(replace(scores, settings=scores.settings[:1], alike=1)) is None


def test_four_images_tell_no_settings_apart(voc, tmp_path):
    found = {f"{i:06}.jpg": [bias == 3 for bias in range(30)] for i in range(11)}
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.4)
    assert (scores.images_tuned, scores.alike) == (4, 30)
    assert "30 of 30 settings cannot be told apart on the 4 images" in chance_warning(scores)


def test_the_baselines_are_those_of_corloc_on_the_same_images(voc, tmp_path, make_voc):
    objects = {
        f"{i:06}": [("thing", 22, 17, 107, 81) if i % 3 else ("thing", 1, 1, 128, 96)] for i in range(9)
    }
    root = make_voc(tmp_path / "other", objects)  # of 128 x 96: found by the centred box, or by both
    found = {f"{i:06}.jpg": [True] for i in range(9)}
    scores = score_sweep(planted_sweep(tmp_path / "s", root, found), tune_fraction=0.4)
    names = [name for name, tuned in zip(scores.by_image.images, scores.by_image.tuning) if not tuned]
    truths = find_dataset(str(root), tmp_path).truths
    alone = score(dict.fromkeys(names), {name: truths[name] for name in names})
    assert alone.centred != alone.whole
    content, (row,) = json.loads(json_text(scores)), csv.DictReader(io.StringIO(csv_text(scores)))
    for name, title in (("centred", "centred box"), ("whole", "whole image")):
        assert content[name] == float(row[name]) == getattr(alone, name)
        assert re.search(rf"^{title} +{getattr(alone, name):.1f}  ", text_table(scores), re.MULTILINE)


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


REGISTERS = {"count": 1, "rule": "paper", "neurons": [[3, 1], [4, 2]]}


@pytest.mark.parametrize(
    ("tried", "settings", "conditions"),
    [
        ([{"bias": -0.1}, {}], {}, ""),
        ([{"max_side": 64}], {}, ", but at max side 64"),
        ([{"square": 64}], {}, ", but at square 64"),
        ([{"layer": -2, "bias": bias} for bias in (0.0, -0.1)], {}, ", but at layer -2"),
        ([{"layer": (-2, -1)}], {}, ", but at layer -2 and -1"),
        ([{"facet": "v", "max_side": 64}], {}, ", but at facet v, max side 64"),
        ([{"center": True}], {}, ", but at center yes"),
        ([{"normalize": True}], {}, ", but at normalize yes"),
        ([{"bias": "auto"}], {}, ", but at bias auto"),
        ([{"k_patches": 7, "max_objects": 2}], {}, ", but at k patches 7, max objects 2"),
        ([{"refine": "bilateral"}], {}, ", but at refine bilateral"),
        ([{}], {"precision": "bf16"}, ", but at bf16"),
        (
            [{}],
            {"weights": {"source": "random", "name": "random", "sha256": None}},
            ", but at RANDOM WEIGHTS",
        ),
        (
            [{}],
            {"weights": {"source": "file", "name": "mine.pth", "sha256": ""}},
            ", but at weights mine.pth",
        ),
        ([{}], {"test_time_registers": REGISTERS}, ", but at 1 test-time register at 2 neurons"),
        ([{"layer": -2}], {"precision": "fp16"}, ", but at layer -2, fp16"),
    ],
    ids=str,
)
def test_every_condition_that_is_not_as_published_is_said(tried, settings, conditions, voc, tmp_path):
    """In the table, and in JSON and CSV: whatever all settings share, of the method or of the backbone."""
    found = {f"{i:06}.jpg": [True] * len(tried) for i in range(11)}
    records = [_tried(**one) for one in tried]
    folder = planted_sweep(tmp_path / "s", voc, found, tried=records, method=None, **settings)
    scores = score_sweep(folder, tune_fraction=0.3)
    assert f"LOST as published{conditions}  " in text_table(scores)
    index = json.loads(json_text(scores))["as_published"]["lost"]
    row = list(csv.DictReader(io.StringIO(csv_text(scores))))[index]
    departures = row["departures"].replace("; ", ", ")
    assert (f", but at {departures}" if departures else "") == conditions
    assert row["backbone"] == scores.backbone and row["dataset"] == "voc"
    write_scores(scores)
    assert read_scores(folder) == scores  # with the conditions


def test_what_varies_without_the_published_value_is_not_as_published(voc, tmp_path):
    found = {f"{i:06}.jpg": [True, True] for i in range(11)}
    for name, tried, method in (
        ("bias", [_tried(bias=-0.1), _tried(bias=-0.2)], "lost"),
        ("apart", [_tried(bias=-0.1), _tried(layer=-2)], "lost"),  # each is as published in part
        ("method", [_tried(), _tried()], "other"),
    ):
        tried = [{**one, "method": method} for one in tried]
        folder = planted_sweep(tmp_path / name, voc, found, tried=tried, method=None)
        scores = score_sweep(folder, tune_fraction=0.3)
        assert scores.as_published == {} and "as published" not in text_table(scores), name


def test_what_a_method_does_not_depend_on_is_no_condition(voc, tmp_path):
    record = preset_setting("tokencut").recorded()
    tried = [{**record, "features": {**record["features"], "normalize": True}}]
    found = {f"{i:06}.jpg": [True] for i in range(11)}
    folder = planted_sweep(tmp_path / "s", voc, found, tried=tried, method=None)
    assert "TokenCut as published  " in text_table(score_sweep(folder, tune_fraction=0.3))


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


def test_the_table_fits_a_width_and_what_was_chosen_is_said_below_it(voc, tmp_path):
    found = {f"{i:06}.jpg": [i < 2, i < 4, True, i == 0] for i in range(11)}
    tried = [_tried(bias=-0.1), _tried(bias=0.0), _tried(bias=-0.2, k_patches=10), _tried(bias=-0.3)]
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found, tried=tried), tune_fraction=0.3)
    chosen = "k of layer -1, raw, k_patches 10, bias -0.2"
    for width, left_out in ((None, ""), (79, "95 % interval"), (60, "setting")):
        _, *lines = text_table(scores, width).splitlines()
        table, below = lines[:7], "\n".join(lines[7:])
        assert width is None or max(map(display_width, table)) <= width
        assert (f"Left out to fit the width: {left_out}" in below) == bool(left_out)
        assert any(chosen in line for line in table) == (width != 60)
        assert f"Chosen on 3 other images (`tune_fraction` 0.3, `seed` 0): {chosen}." in below
        assert f"The best in hindsight, {chosen}, was chosen on the images" in below


def _tried(refine=None, **changes) -> dict:
    recorded = helpers.setting(**changes).recorded()
    return {**recorded, **({"refine": refine} if refine else {})}


def test_a_method_that_is_not_installed_is_scored_and_named(voc, tmp_path):
    found = {f"{i:06}.jpg": [i % 2 == 0] for i in range(11)}
    tried = {**_tried(), "method": "other", "options": {"depth": 3}}
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
    truths = Truths.of([truth])
    columns = Columns.of_outcomes([SweptImage("a", (13, 13), tuple(boxes))], [])
    found = AlignedBoxes.align(columns, truths, ["a"], [])
    hits = _hits(found, truths, len(boxes))[:, 0].tolist()
    assert hits == [one is not None and is_found(one, truth.boxes_xyxy) for one in boxes]
    assert hits == [score({"a": one}, truths).found == 1 for one in boxes]


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
    assert [line.split("  ")[0] for line in lines[6:8]] == ["centred box", "whole image"]
    assert "(`tune_fraction` 0.2, `seed` 1)" in lines[8]


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
        {"options": {}},  # which the other settings of the method have
        {"features": {}},
        {"options": {"k_patches": {"a": 1}, "bias": 0.0, "max_objects": 1}},
    ],
)
def test_scores_of_another_form_are_one_line(scores, changed):
    path = write_scores(scores)
    content = json.loads(path.read_text())
    if changed.keys() & {"features", "options", "tuned", "found", "method"}:
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
