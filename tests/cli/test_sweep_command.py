"""`lost-reg sweep`: settings tried, chosen, written and printed; and what is refused before the work."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from lost_reg.cli.app import main
from lost_reg.datasets.catalog import find_dataset
from lost_reg.runs.folder import read_run
from lost_reg.runs.sweep_folder import read_sweep
from lost_reg.scoring.corloc import score
from lost_reg.text import display_width


@pytest.fixture
def voc(tmp_path, make_voc) -> Path:
    """Eleven images in VOC layout, one of them without an object."""
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64), ("other", 1, 1, 40, 40)] for i in range(10)}
    make_voc(tmp_path / "voc", objects | {"000010": []})
    return tmp_path / "voc"


@pytest.fixture
def sweep(lost_reg, voc, tmp_path, monkeypatch):
    """Run `lost-reg sweep ARGS...` on these images into the folder s, in a wide terminal."""
    monkeypatch.setenv("COLUMNS", "250")
    return lambda *args: lost_reg("sweep", "--dataset", voc, "--out", tmp_path / "s", *args)


def test_every_setting_is_scored_and_one_is_chosen(sweep, tmp_path):
    arguments = ("--layer", "-2:-1", "--bias", "-0.2:0:0.1,auto", "--tune-fraction", "0.3")
    result = sweep(*arguments)
    assert result.exit_code == 0, result.output
    assert "16 settings, CorLoc on 7 images" in result.stdout
    for row in ("chosen on 3 other images", "best in hindsight", "LOST as published"):
        assert row in result.stdout
    assert "(--tune-fraction 0.3, --seed 0)" in result.stdout
    assert result.stdout.splitlines()[-1] == f"results in {tmp_path / 's'}"
    written = json.loads((tmp_path / "s" / "corloc.json").read_text())
    assert len(written["settings"]) == 16 and written["images_tuned"] == 3
    again = sweep(*arguments, "--resume", "--json")
    assert json.loads(again.stdout) == written
    rows = list(csv.DictReader(sweep(*arguments, "--resume", "--csv").stdout.splitlines()))
    assert [float(row["corloc"]) for row in rows] == [one["corloc"] for one in written["settings"]]


def test_the_table_fits_80_columns(sweep, monkeypatch):
    arguments = ("--bias", "0,auto", "--k-patches", "50", "--layer", "-1", "--tune-fraction", "0.3")
    assert max(map(display_width, sweep(*arguments).stdout.splitlines()[1:6])) > 80
    monkeypatch.setenv("COLUMNS", "80")
    text = sweep(*arguments, "--resume").stdout
    table, _, below = text.partition("\nLeft out to fit the width: setting\nChosen on 3 other images ")
    assert max(map(display_width, table.splitlines()[1:])) <= 80 and "seed 0): k of layer -1, " in below


def test_a_sweep_in_which_all_images_fail_is_an_error(sweep, tmp_path):
    result = sweep("--bias", "0,auto", "--layer", "-1", "--tune-fraction", "0.3", "--max-patches", "1")
    assert result.exit_code == 1 and result.stdout == ""
    assert "\nError: 11 of 11 images could not be used: " in f"\n{result.stderr}"
    assert not (tmp_path / "s" / "corloc.json").exists()


def test_corloc_of_each_setting_is_that_of_its_boxes(sweep, voc, tmp_path):
    features = ("--weights", "random", "--facet", "k,v,qk", "--layer", "-1")
    result = sweep(*features, "--bias", "-0.3,0,auto", "--tune-fraction", "0.3")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "s" / "corloc.json").read_text())
    boxes, truths = read_sweep(tmp_path / "s").boxes, find_dataset(str(voc), tmp_path).truths
    assert scores["images_scored"] == 7 and len(scores["settings"]) == 15  # joined, they are normalised
    found = set()
    for index, one in enumerate(scores["settings"]):
        alone = score({name: all_boxes[index] for name, all_boxes in boxes.items()}, truths)
        found.add(alone.found)
        assert one["found"] + one["tuned"] == alone.found
    assert len(found) > 1


def test_several_methods_in_one_sweep_find_what_each_finds_alone(lost_reg, sweep, voc, tmp_path):
    methods = ("--method", "lost,tokencut,spread", "--bias", "0,auto", "--tau", "0.2", "--normalize", "no",
               "--layer", "-1")  # fmt: skip
    result = sweep(*methods, "--tune-fraction", "0.3")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny on voc trainval: 4 settings of 3 methods, CorLoc on 7 images"
    for title in ("LOST", "TokenCut", "Spread"):
        assert any(re.match(rf"{title} as published +{title}: q?kv? of layer -1, ", line) for line in lines)
    swept = read_sweep(tmp_path / "s")
    assert [one["method"] for one in swept.settings] == ["lost", "lost", "tokencut", "spread"]
    for index, method in ((0, "lost"), (2, "tokencut"), (3, "spread")):
        out = tmp_path / method
        assert lost_reg("run", "--dataset", voc, "--method", method, "--out", out).exit_code == 0
        alone = {name: one.box_xyxy for name, one in read_run(out).predictions.items()}
        assert {name: boxes[index] for name, boxes in swept.boxes.items()} == alone, method
    rows = list(
        csv.DictReader(sweep(*methods, "--resume", "--csv", "--tune-fraction", "0.3").stdout.splitlines())
    )
    assert [(row["method"], row["bias"], row["tau"]) for row in rows] == [
        ("lost", "0.0", ""), ("lost", "auto", ""), ("tokencut", "", "0.2"), ("spread", "", ""),
    ]  # fmt: skip
    assert "other settings" in sweep("--method", "lost", "--resume").stderr


def test_a_smaller_size_is_said_where_a_method_is_otherwise_as_published(sweep):
    methods = ("--method", "lost,maskcut", "--bias", "0", "--tau", "0.15", "--normalize", "no")
    result = sweep(*methods, "--max-side", "64", "--tune-fraction", "0.3")
    assert result.exit_code == 0, result.output
    assert "LOST as published, but at max side 64 " in result.stdout
    assert "LOST as published " not in result.stdout
    assert "MaskCut as published, but at max side 64, square none " in result.stdout  # it is at 480 x 480


def test_a_choice_that_is_mostly_chance_is_warned_of(sweep):
    result = sweep("--bias", "-0.2:0:0.1", "--layer", "-1", "--tune-fraction", "0.3", "--csv")
    assert result.exit_code == 0, result.output
    warning = "Warning: 6 of 6 settings cannot be told apart on the 3 images that the choice was made on"
    assert warning in result.stderr and "a larger --tune-fraction or fewer settings" in result.stderr
    assert len(list(csv.DictReader(result.stdout.splitlines()))) == 6


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], {"bias": 22, "normalize": 2, "layer": 4}),
        (["--layer", "-1"], {"bias": 22, "normalize": 2, "layer": 1}),
        (["--bias", "0"], {"bias": 1, "normalize": 2, "layer": 4}),
        (["--bias", "0,0.5", "--normalize", "no"], {"bias": 2, "layer": 4}),
        (["--k-patches", "1,5", "--bias", "0", "--normalize", "yes"], {"k_patches": 2, "layer": 4}),
        (["--facet", "k,qkv", "--bias", "0", "--normalize", "no"], {"facet": 2, "layer": 4}),
        (["--center", "both", "--bias", "0", "--normalize", "no"], {"center": 2, "layer": 4}),
        (["--method", "tokencut"], {"tau": 7, "normalize": 1, "layer": 4}),
        (["--method", "lost-rim"], {"share": 9, "normalize": 1, "layer": 4}),
        (["--method", "spread"], {"facet": 1, "normalize": 1, "layer": 4}),
    ],
    ids=str,
)
def test_what_is_tried(sweep, tmp_path, options, expected):
    result = sweep(*options, "--limit", 2, "--tune-fraction", "0.5", "--max-side", 32)
    assert result.exit_code == 0, result.output
    settings = [{**one["features"], **one["options"]} for one in read_sweep(tmp_path / "s").settings]
    tried = {name: len({one[name] for one in settings}) for name in settings[0]}
    assert {name: count for name, count in tried.items() if count > 1 or name in expected} == expected
    assert all(one["max_side"] == 32 for one in settings)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--layer", "last"], "--layer cannot be 'last'"),
        (["--layer", "-99"], "has no layer -99"),
        (["--layer", "-1:-4"], "cannot read the range '-1:-4'"),
        (["--bias", "0.5:1"], "cannot read the range '0.5:1'"),
        (["--bias", ""], "cannot read the values ''"),
        (["--facet", "x"], "unknown facet"),
        (["--k-patches", "0,5"], "expected --k-patches of at least 1"),
        (["--k-patches", "2.5"], "--k-patches cannot be 2.5"),
        (["--max-objects", "2"], "No such option '--max-objects'"),
        (["--method", "tokencut"], "the method tokencut has no option --bias: it belongs to --method lost"),
        (["--method", "tokencut,spread"], "none of the methods tokencut, spread has the option --bias"),
        (["--method", "lost,gone"], "unknown method 'gone': choose among lost, tokencut"),
        (["--method", "lost,"], "unknown method ''"),
        (["--method", "lost,tokencut", "--tau", "2"], "expected a --tau from -1 to 1"),
        (["--tune-fraction", "0.001"], "cannot be split"),
        (["--tune-fraction", "1"], "--tune-fraction"),
        (["--dataset", "nowhere"], "unknown dataset"),
        (["--backbone", "nothing"], "unknown backbone"),
        (["--json", "--csv"], "choose one of --json and --csv"),
    ],
)
def test_what_is_wrong_is_one_line_before_the_work(sweep, tmp_path, arguments, message):
    result = sweep("--bias", "0", *arguments)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code and len(errors) == 1 and message in errors[0], result.output
    assert not (tmp_path / "s").exists()


def test_too_few_images_to_choose_on_are_refused_before_the_work(sweep, tmp_path):
    result = sweep("--limit", "3", "--bias", "0")
    assert result.exit_code == 1 and "3 images with ground truth cannot be split" in result.stderr
    assert not (tmp_path / "s").exists()


def test_a_run_and_a_sweep_do_not_share_a_folder(lost_reg, sweep, voc, tmp_path):
    assert lost_reg("run", "--dataset", voc, "--out", tmp_path / "r").exit_code == 0
    (tmp_path / "r" / "errors.jsonl").write_text('{"image": "a", "reason": "gone"}\n')
    for arguments in ([], ["--resume"]):
        result = lost_reg("sweep", "--dataset", voc, "--out", tmp_path / "r", "--bias", "0", *arguments)
        assert result.exit_code == 1 and "holds other results (run.json)" in result.stderr
    assert "gone" in (tmp_path / "r" / "errors.jsonl").read_text()
    assert sweep("--bias", "0", "--tune-fraction", "0.3").exit_code == 0
    result = lost_reg("run", "--dataset", voc, "--out", tmp_path / "s")
    assert result.exit_code == 1 and "holds other results (sweep.json)" in result.stderr


def test_a_sweep_that_is_refused_keeps_the_scores(sweep, tmp_path):
    assert sweep("--bias", "0", "--tune-fraction", "0.3", "--limit", "6").exit_code == 0
    before = (tmp_path / "s" / "corloc.json").read_bytes()
    assert "other settings" in sweep("--bias", "0,1", "--resume").stderr
    assert (tmp_path / "s" / "corloc.json").read_bytes() == before


@pytest.mark.parametrize(
    ("typed", "completed"), [("sp", ["spread"]), ("lost,to", ["lost,tokencut"]), ("lost,tokencut,x", [])]
)
def test_the_last_of_several_methods_is_completed(typed, completed):
    found = ShellComplete(main, {}, "lost-reg", "_COMPLETE").get_completions(["sweep", "--method"], typed)
    assert [one.value for one in found] == completed
