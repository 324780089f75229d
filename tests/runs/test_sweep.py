"""Sweeps: each setting as in a run of its own, resumed like one, and chosen on images that are not scored."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import is_found
from lost_reg.cli.app import main
from lost_reg.datasets.catalog import find_dataset
from lost_reg.errors import LostRegError
from lost_reg.runs.discover import discover
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.runs.sources import source_of_dataset
from lost_reg.runs.sweep import sweep
from lost_reg.runs.sweep_folder import read_sweep
from lost_reg.runs.sweep_grid import grid_of_protocols
from lost_reg.scoring import sweep_scores
from lost_reg.scoring.corloc import score
from lost_reg.scoring.sweep_scores import score_sweep
from lost_reg.types import Failure, Protocol

GRID = grid_of_protocols(
    facets=["k", "v"],
    layers=[-3, -1],
    biases=[-0.3, -0.1, 0.0, "auto"],
    normalize=[False, True],
    center=[False, True],
    k_patches=20,
    max_side=None,
)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Smooth colours in two sizes, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size_wh = (96, 64) if index % 2 else (80, 80)
        Image.fromarray(colours).resize(size_wh, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def voc(tmp_path, make_voc) -> Path:
    """Eleven images in VOC layout, one of them without an object."""
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64), ("other", 1, 1, 40, 40)] for i in range(10)}
    make_voc(tmp_path / "voc", objects | {"000010": []})
    return tmp_path / "voc"


def without_affinity(found):
    """Sweeps keep boxes alone, so that affinities are not computed for them."""
    return [replace(one, affinity=None) for one in found]


def test_each_setting_finds_what_a_run_of_its_own_finds(photos, random_backbone):
    outcomes = discover_by_each(zip(map(str, photos), photos), random_backbone, GRID, batch_size=2, workers=0)
    found = {outcome[0].image: outcome for outcome in outcomes}
    for index, protocol in enumerate(GRID):
        alone = discover(photos, random_backbone, protocol, batch_size=2, workers=0)
        assert [found[str(path)][index] for path in photos] == without_affinity(alone), protocol


def test_neighbours_that_differ_in_one_thing_do_not_share_affinities(photos, random_backbone):
    neighbours = [
        Protocol(),
        Protocol(center=True),
        Protocol(center=True, normalize=True),
        Protocol(center=True, normalize=True, facet="v"),
        Protocol(center=True, normalize=True, facet="v", layer=-2),
        Protocol(center=True, normalize=True, facet="v", layer=-2, k_patches=2),
    ]
    names = [str(path) for path in photos]
    outcomes = discover_by_each(zip(names, photos), random_backbone, neighbours, workers=0)
    found = {outcome[0].image: outcome for outcome in outcomes}
    for index, protocol in enumerate(neighbours):
        alone = discover(photos, random_backbone, protocol, workers=0)
        assert [found[name][index] for name in names] == without_affinity(alone), protocol


def test_an_image_that_cannot_be_read_fails_once(tmp_path, photos, random_backbone):
    (tmp_path / "bad.jpg").write_text("no image")
    outcomes = list(discover_by_each([("bad", tmp_path / "bad.jpg")], random_backbone, GRID))
    assert outcomes == [Failure("bad", "not an image, or of a format that is not supported")]


def test_settings_of_different_sizes_are_refused(photos, random_backbone):
    with pytest.raises(LostRegError, match="the same max_side"):
        list(discover_by_each(zip("aaaaa", photos), random_backbone, [Protocol(), Protocol(max_side=9)]))


def test_a_sweep_that_was_cut_short_ends_as_one_that_was_not(voc, tmp_path, random_backbone):
    source = source_of_dataset(find_dataset(str(voc), tmp_path))
    sweep(source, random_backbone, tmp_path / "whole", GRID, workers=0)
    sweep(source, random_backbone, tmp_path / "cut", GRID, workers=0, limit=4)
    with (tmp_path / "cut" / "boxes.jsonl").open("ab") as file:
        file.write(b'{"image": "half')
    summary = sweep(source, random_backbone, tmp_path / "cut", GRID, workers=0, resume=True)
    assert (summary.done, summary.done_before) == (7, 4)
    whole, cut = read_sweep(tmp_path / "whole"), read_sweep(tmp_path / "cut")
    assert whole.boxes == cut.boxes and len(whole.boxes) == 11
    assert whole.protocols == tuple(GRID)
    with pytest.raises(LostRegError, match="other settings"):
        sweep(source, random_backbone, tmp_path / "cut", GRID[1:], workers=0, resume=True)
    with pytest.raises(LostRegError, match="holds a run already"):
        sweep(source, random_backbone, tmp_path / "cut", GRID, workers=0)


# Scores


@pytest.fixture
def swept(voc, tmp_path, random_backbone) -> Path:
    source = source_of_dataset(find_dataset(str(voc), tmp_path))
    sweep(source, random_backbone, tmp_path / "sweep", GRID, workers=0)
    return tmp_path / "sweep"


def test_corloc_of_each_setting_is_that_of_its_boxes(swept, voc, tmp_path):
    scores = score_sweep(swept, tune_fraction=0.3)
    assert (scores.images_tuned, scores.images_scored, len(scores.settings)) == (3, 7, len(GRID))
    boxes, truths = read_sweep(swept).boxes, find_dataset(str(voc), tmp_path).truths
    for index, setting in enumerate(scores.settings):
        alone = score({name: all_boxes[index] for name, all_boxes in boxes.items()}, truths)
        assert setting.tuned + setting.found == alone.found
    assert len({setting.found for setting in scores.settings}) > 1


def planted_sweep(folder: Path, voc: Path, found: dict[str, list[bool]], failures=()) -> Path:
    """A sweep folder whose settings find the first object of an image, or nothing."""
    folder.mkdir()
    biases = range(len(next(iter(found.values()))))
    protocols = [{"facet": "k", "layer": -1, "normalize": False, "bias": -float(b)} for b in biases]
    settings = {
        "dataset": str(voc), "backbone": "tiny", "precision": "fp32", "protocols": protocols,
        "weights": {"source": "bundled", "name": "tiny", "sha256": ""},
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps({"settings": settings, "images": 11, "sessions": []}))
    boxes = {True: [32, 16, 96, 64], False: [100, 80, 101, 81]}
    lines = [
        {"image": name, "size_hw": [96, 128], "boxes_xyxy": [boxes[one] for one in row]}
        for name, row in found.items()
    ]
    (folder / "boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    errors = [{"image": name, "reason": "gone"} for name in failures]
    (folder / "errors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in errors))
    return folder


def test_the_choice_is_made_on_images_that_it_is_not_scored_on(voc, tmp_path):
    names = [f"{i:06}.jpg" for i in range(10)]
    tuning = np.flatnonzero(sweep_scores.tuning_images(10, 0.3, 7))
    # the second setting finds all that choose and nothing else, the third the reverse
    found = {name: [False, i in tuning, i not in tuning] for i, name in enumerate(names)}
    found["000010.jpg"] = [True, True, True]  # without an object: counts nowhere
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.3, seed=7)
    assert (scores.images_tuned, scores.images_scored) == (3, 7)
    assert scores.chosen.protocol.bias == -1.0 and scores.corloc(scores.chosen) == 0.0
    assert scores.hindsight.protocol.bias == -2.0 and scores.corloc(scores.hindsight) == 100.0
    assert scores.as_published.protocol == Protocol() and scores.as_published.found == 0


def test_of_settings_that_are_as_good_the_first_is_chosen(voc, tmp_path):
    found = {f"{i:06}.jpg": [False, True, True] for i in range(11)}
    scores = score_sweep(planted_sweep(tmp_path / "s", voc, found), tune_fraction=0.5)
    assert scores.chosen.protocol.bias == -1.0 and scores.hindsight.protocol.bias == -1.0


def test_failures_are_misses_of_every_setting_and_what_is_not_done_is_left_out(voc, tmp_path):
    found = {f"{i:06}.jpg": [True] for i in range(8)}
    folder = planted_sweep(tmp_path / "s", voc, found, failures=["000008.jpg"])
    with pytest.raises(LostRegError, match="covers 9 of the 11 images of voc: --resume finishes"):
        score_sweep(folder)
    scores = score_sweep(folder, partial=True, tune_fraction=0.3)
    assert (scores.unusable, scores.not_done) == (1, 2)
    assert scores.settings[0].tuned + scores.settings[0].found == 8
    assert scores.images_tuned + scores.images_scored == 9


@given(st.integers(2, 500), st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_draw_is_of_the_share_asked_for_and_repeats(images, fraction, seed):
    if not 0 < round(fraction * images) < images:
        with pytest.raises(LostRegError, match="cannot be split"):
            sweep_scores.tuning_images(images, fraction, seed)
        return
    drawn = sweep_scores.tuning_images(images, fraction, seed)
    assert drawn.sum() == round(fraction * images)
    assert np.array_equal(drawn, sweep_scores.tuning_images(images, fraction, seed))


corner = st.integers(0, 12)


@given(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=4))
def test_a_setting_finds_what_corloc_finds(boxes):
    truth = find_dataset("samples", Path(__file__).parents[2] / "data")
    image, one = next(iter(truth.truths.items()))
    small = replace(one, boxes_xyxy=((2, 3, 9, 8), (0, 0, 4, 12)), labels=("a", "b"), hard=(False, False))
    dataset = replace(truth, load_truths=lambda: [small])
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    swept = _FakeSweep(image, boxes)
    expected = [is_found(box, small.boxes_xyxy) for box in boxes]
    assert sweep_scores._found(swept, image, dataset).tolist() == expected


class _FakeSweep:
    def __init__(self, image, boxes):
        self.protocols = boxes
        self.results = type("R", (), {"predictions": {image: type("I", (), {"boxes_xyxy": boxes})}})


# The command


def invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_the_command_writes_every_settings_corloc_and_says_what_to_take(voc, tmp_path):
    arguments = [
        "sweep",
        "--dataset",
        voc,
        "--out",
        tmp_path / "s",
        "--layers",
        "-2:-1",
        "--bias",
        "-0.2:0:0.1,auto",
    ]
    result = invoke(*arguments, "--tune-fraction", "0.3")
    assert result.exit_code == 0, result.output
    assert "16 settings, CorLoc on 7 images" in result.stdout
    for row in ("chosen on 3 other images", "best in hindsight", "LOST as published"):
        assert row in result.stdout
    written = json.loads((tmp_path / "s" / "corloc.json").read_text())
    assert len(written["settings"]) == 16 and written["images_tuned"] == 3
    again = invoke(*arguments, "--tune-fraction", "0.3", "--resume", "--json")
    assert json.loads(again.stdout) == written
    lines = invoke(*arguments, "--tune-fraction", "0.3", "--resume", "--csv").stdout.splitlines()
    rows = list(csv.DictReader(lines))
    assert [float(row["corloc"]) for row in rows] == [one["corloc"] for one in written["settings"]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--layers", "last"], "cannot read the layers"),
        (["--layers", "-99"], "has no layer -99"),
        (["--bias", "0:1"], "cannot read the biases"),
        (["--facets", "x"], "unknown facet"),
        (["--tune-fraction", "0.001"], "cannot be split"),
        (["--tune-fraction", "1"], "--tune-fraction"),
        (["--dataset", "nowhere"], "unknown dataset"),
        (["--backbone", "nothing"], "unknown backbone"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(voc, tmp_path, arguments, message):
    result = invoke("sweep", "--dataset", voc, "--out", tmp_path / "s", "--bias", "0", *arguments)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code and len(errors) == 1 and message in errors[0], result.output


def test_a_malformed_line_and_a_missing_sweep_are_said(voc, tmp_path):
    with pytest.raises(LostRegError, match="no sweep in"):
        read_sweep(tmp_path)
    folder = planted_sweep(tmp_path / "s", voc, {"000001.jpg": [True]})
    (folder / "boxes.jsonl").write_text('{"image": "a", "size_hw": [1, 1], "boxes_xyxy": [[1, 2, 3]]}\n')
    with pytest.raises(LostRegError, match=r"malformed line 1 of .*boxes\.jsonl"):
        read_sweep(folder)
    (folder / "boxes.jsonl").write_text('{"image": "a", "size_hw": [1, 1], "boxes_xyxy": []}\n')
    with pytest.raises(LostRegError, match=r"has 0 boxes for a, but there are 1 settings"):
        read_sweep(folder)


def test_a_run_and_a_sweep_do_not_share_a_folder(voc, tmp_path):
    assert invoke("run", "--dataset", voc, "--out", tmp_path / "r").exit_code == 0
    (tmp_path / "r" / "errors.jsonl").write_text('{"image": "a", "reason": "gone"}\n')
    for arguments in ([], ["--resume"]):
        result = invoke("sweep", "--dataset", voc, "--out", tmp_path / "r", "--bias", "0", *arguments)
        assert result.exit_code == 1 and "holds other results (run.json)" in result.stderr
    assert "gone" in (tmp_path / "r" / "errors.jsonl").read_text()
    sweep_options = ["--bias", "0", "--tune-fraction", "0.3"]
    assert invoke("sweep", "--dataset", voc, "--out", tmp_path / "s", *sweep_options).exit_code == 0
    result = invoke("run", "--dataset", voc, "--out", tmp_path / "s")
    assert result.exit_code == 1 and "holds other results (sweep.json)" in result.stderr


def test_scores_do_not_outlive_a_sweep_that_goes_on(voc, tmp_path, random_backbone):
    options = ["--bias", "0", "--tune-fraction", "0.3", "--limit", "6"]
    assert invoke("sweep", "--dataset", voc, "--out", tmp_path / "s", *options).exit_code == 0
    scores = tmp_path / "s" / "corloc.json"
    assert scores.is_file()
    invoke("sweep", "--dataset", voc, "--out", tmp_path / "s", "--bias", "0,1", "--resume")  # is refused
    assert scores.is_file()
    source, protocols = (
        source_of_dataset(find_dataset(str(voc), tmp_path)),
        read_sweep(tmp_path / "s").protocols,
    )
    with pytest.raises(KeyboardInterrupt):
        sweep(
            source, load_backbone("tiny"), tmp_path / "s", protocols, workers=0, resume=True, progress=_stop
        )
    assert not scores.exists()


def _stop(done, failed, total):
    if done:
        raise KeyboardInterrupt


def test_too_few_images_to_choose_on_are_said_before_the_work(voc, tmp_path):
    result = invoke("sweep", "--dataset", voc, "--out", tmp_path / "s", "--limit", "3", "--bias", "0")
    assert result.exit_code == 1 and "3 images with ground truth cannot be split" in result.stderr
    assert not (tmp_path / "s").exists()
