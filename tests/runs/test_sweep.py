"""Sweeps: each setting as in a run of its own, and resumed like one."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import find, refusal, setting
from PIL import Image

from lost_reg import LoaderOptions
from lost_reg.datasets.catalog import find_dataset
from lost_reg.discovery.methods import METHODS, preset_setting, with_changes
from lost_reg.runs.options import RunOptions
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.runs.sources import source_of_dataset
from lost_reg.runs.sweep import sweep
from lost_reg.runs.sweep_folder import read_sweep
from lost_reg.runs.sweep_grid import Grid, grid_of_settings, settings_of_methods

GRID = grid_of_settings(
    Grid(
        features={
            "facet": ["k", "v", "kv"],
            "layer": [-3, -1],
            "center": [False, True],
            "normalize": [False, True],
        },
        options={"k_patches": [20], "bias": [-0.3, -0.1, 0.0, "auto"]},
    )
)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Smooth colours in two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size_wh = (96, 64) if index % 2 else (80, 80)
        Image.fromarray(colours).resize(size_wh, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def source(tmp_path, make_voc):
    """Eleven images in VOC layout, one of them without an object."""
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64), ("other", 1, 1, 40, 40)] for i in range(10)}
    voc = make_voc(tmp_path / "voc", objects | {"000010": []})
    return source_of_dataset(find_dataset(str(voc), tmp_path))


def options(**changes) -> RunOptions:
    return RunOptions(loader=LoaderOptions(workers=0), **changes)


def where(found) -> list:
    """What a sweep is asked for: scores may not have been computed."""
    return [(one.image, one.box_xyxy, one.objects[0].seed, one.objects[0].details) for one in found]


def test_each_setting_finds_what_a_run_of_its_own_finds(photos, random_backbone):
    loader = LoaderOptions(batch_size=2, workers=0)
    outcomes = discover_by_each(zip(map(str, photos), photos), random_backbone, GRID, loader)
    found = {outcome[0].image: outcome for outcome in outcomes}
    for index, chosen in enumerate(GRID):
        alone = find(photos, random_backbone, chosen, batch_size=2)
        assert where(found[str(path)][index] for path in photos) == where(alone), chosen


TRIED = [name for name in METHODS if name != "head"]  # which needs a head of the backbone
SEVERAL = settings_of_methods(
    TRIED,
    {"layer": [-3, -1], "normalize": [False, True]},
    {
        "bias": [-0.2, "auto"],
        "tau": [0.3, "auto"],
        "attention_head": [2],
        "threshold": [0.3, 0.5],
        "share": [0.05, 0.1],
    },
)


def test_settings_of_several_methods_share_one_forward_pass(photos, random_backbone, monkeypatch):
    passes = []
    facets = random_backbone.facets
    monkeypatch.setattr(
        random_backbone, "facets", lambda images, parts: passes.append(images) or facets(images, parts)
    )
    loader = LoaderOptions(batch_size=5, workers=0)
    outcomes = discover_by_each(zip(map(str, photos), photos), random_backbone, SEVERAL, loader)
    found = {outcome[0].image: outcome for outcome in outcomes}
    assert sum(map(len, passes)) == len(found) == 5
    monkeypatch.undo()
    assert {one.method.name for one in SEVERAL} == {*TRIED}
    for index, chosen in enumerate(SEVERAL):
        alone = find(photos, random_backbone, chosen, batch_size=5)
        assert [found[str(path)][index].box_xyxy for path in photos] == [one.box_xyxy for one in alone], (
            chosen
        )


@pytest.mark.parametrize("method", TRIED)
def test_settings_that_are_not_tried_twice_find_the_same(photos, random_backbone, method):
    """Each combination of features finds what one of the grid with it finds, or is of the grid."""
    features = {"facet": ["k", "qk"], "center": [False, True], "normalize": [False, True]}
    if method == "background":
        features["facet"] = ["k", "v"]
    options = {"attention_head": [2]} if method == "dino-seg" else {}
    kept = grid_of_settings(Grid(method, features, options))
    counts = {"lost": 6, "lost-rim": 6, "spread": 6, "dino-seg": 1}
    assert len(kept) == counts.get(method, 4)
    base = with_changes(kept[0], {"facet": "k", "center": False, "normalize": False})
    every = [with_changes(base, dict(zip(features, one))) for one in itertools.product(*features.values())]
    loader = LoaderOptions(batch_size=5, workers=0)
    outcomes = discover_by_each(zip(map(str, photos), photos), random_backbone, every, loader)
    boxes = list(zip(*([one.box_xyxy for one in outcome] for outcome in outcomes)))
    of_kept = {boxes[every.index(one)] for one in kept}
    assert of_kept == set(boxes)


def test_sweep_json_of_several_methods_has_that_of_each_setting(source, tmp_path, random_backbone):
    settings = [setting(), preset_setting("spread")]
    sweep(source, random_backbone, tmp_path / "s", settings, options(limit=2))
    recorded = json.loads((tmp_path / "s" / "sweep.json").read_text())["settings"]
    assert "method" not in recorded and recorded["tried"] == [one.recorded() for one in settings]
    assert read_sweep(tmp_path / "s").settings == tuple(one.recorded() for one in settings)
    again = options(resume=True)
    assert sweep(source, random_backbone, tmp_path / "s", settings, again).done_before == 2


def test_a_sweep_that_was_cut_short_ends_as_one_that_was_not(source, tmp_path, random_backbone):
    sweep(source, random_backbone, tmp_path / "whole", GRID, options())
    sweep(source, random_backbone, tmp_path / "cut", GRID, options(limit=4))
    with (tmp_path / "cut" / "boxes.jsonl").open("ab") as file:
        file.write(b'{"image": "half')
    summary = sweep(source, random_backbone, tmp_path / "cut", GRID, options(resume=True))
    assert (summary.done, summary.done_before) == (7, 4)
    whole, cut = read_sweep(tmp_path / "whole"), read_sweep(tmp_path / "cut")
    assert whole.boxes == cut.boxes and len(whole.boxes) == 11
    assert whole.settings == tuple(one.recorded() for one in GRID)
    more = options(resume=True)
    assert "other settings" in refusal(sweep, source, random_backbone, tmp_path / "cut", GRID[1:], more)
    assert "holds a sweep already" in refusal(
        sweep, source, random_backbone, tmp_path / "cut", GRID, options()
    )


def test_sweep_json_has_what_was_tried_once_and_layers_counted_from_the_last(
    source, tmp_path, random_backbone
):
    settings = [setting(layer=5), setting(layer=(0, 5), bias="auto")]
    sweep(source, random_backbone, tmp_path / "s", settings, options(limit=1))
    recorded = json.loads((tmp_path / "s" / "sweep.json").read_text())["settings"]
    assert recorded["method"] == "lost" and not {"features", "options"} & set(recorded)
    assert [one["features"]["layer"] for one in recorded["tried"]] == [-1, [-6, -1]]
    assert [one["options"]["bias"] for one in recorded["tried"]] == [0.0, "auto"]
    again = options(resume=True)
    assert sweep(source, random_backbone, tmp_path / "s", settings, again).done_before == 1


def test_masks_that_are_refined_are_recorded(source, tmp_path, random_backbone):
    settings = [replace(setting(), refine=refine) for refine in (None, "bilateral")]
    sweep(source, random_backbone, tmp_path / "s", settings, options(limit=1))
    assert read_sweep(tmp_path / "s").settings == tuple(one.recorded() for one in settings)


def test_settings_that_are_no_sweep_are_refused(source, tmp_path, random_backbone):
    def swept(*settings):
        return sweep(source, random_backbone, tmp_path / "s", settings, options())

    assert "at least one setting" in refusal(swept)
    assert "has no layer -9" in refusal(swept, setting(layer=-9))
    assert not (tmp_path / "s").exists()
    assert "need the same `max_side` and `square`" in refusal(swept, setting(), setting(square=64))


def test_scores_do_not_outlive_a_sweep_that_goes_on(source, tmp_path, random_backbone):
    def stop(done, failed, total):
        if done:
            raise KeyboardInterrupt

    sweep(source, random_backbone, tmp_path / "s", GRID[:2], options(limit=6))
    scores = tmp_path / "s" / "corloc.json"
    scores.write_text("{}")
    more = options(resume=True)
    refusal(sweep, source, random_backbone, tmp_path / "s", GRID[:3], more)
    assert scores.exists()
    with pytest.raises(KeyboardInterrupt):
        sweep(source, random_backbone, tmp_path / "s", GRID[:2], more, progress=stop)
    assert not scores.exists()


# --- sweep folders, read -----------------------------------------------------------------------------


@pytest.fixture
def folder(source, tmp_path, random_backbone) -> Path:
    """A sweep of one setting."""
    sweep(source, random_backbone, tmp_path / "s", [setting()], options(limit=2))
    return tmp_path / "s"


def test_a_missing_sweep_and_a_malformed_line_are_named(folder, tmp_path):
    assert "no sweep in" in refusal(read_sweep, tmp_path)
    for boxes in ("[[1, 2, 3]]", '["1"]', "5", "[[1, 2, 3, NaN]]"):
        line = f'{{"image": "a", "size_hw": [1, 1], "boxes_xyxy": {boxes}}}\n'
        (folder / "boxes.jsonl").write_text(line)
        assert f"malformed line 1 of {folder / 'boxes.jsonl'}" in refusal(read_sweep, folder)
    (folder / "boxes.jsonl").write_text('{"image": "a", "size_hw": [1, 1], "boxes_xyxy": []}\n')
    assert "has 0 boxes for a, but the sweep has 1 setting" in refusal(read_sweep, folder)


def test_an_image_in_which_a_setting_found_nothing_has_no_box(folder):
    (folder / "boxes.jsonl").write_text('{"image": "a", "size_hw": [1, 1], "boxes_xyxy": [null]}\n')
    assert read_sweep(folder).boxes == {"a": (None,)}


def test_a_setting_without_a_method_is_one_line(folder):
    record = json.loads((folder / "sweep.json").read_text())
    del record["settings"]["method"]
    (folder / "sweep.json").write_text(json.dumps(record))
    assert "does not hold the settings of a run: a setting has no method" in refusal(read_sweep, folder)


@pytest.mark.parametrize("tried", [None, [5], [{"features": {}}], [{"features": {}, "options": 5}]], ids=str)
def test_settings_of_another_form_are_one_line(folder, tried):
    record = json.loads((folder / "sweep.json").read_text())
    record["settings"]["tried"] = tried
    (folder / "sweep.json").write_text(json.dumps(record))
    assert "does not hold the settings of a run" in refusal(read_sweep, folder)
