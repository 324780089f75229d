"""`lost-reg artifacts` on a series of checkpoints, with ground truth and with controls."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import names
from safetensors.torch import load_file

from lost_reg.artifacts import measure
from lost_reg.artifacts.records import read_artifacts
from lost_reg.backbones.loading import load_backbone
from lost_reg.cli.app import main

ROOT = Path(__file__).parents[2]
SAMPLES = ("--dataset", "samples", "--data-root", ROOT / "data", "--limit", 4, "--max-side", 96)
QUICK = (*SAMPLES, "--workers", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of three checkpoints whose norms grow; their names are not in the order of their steps."""
    folder = tmp_path_factory.mktemp("run")
    state = load_file(load_backbone("tiny", device="cpu").weights.path)
    for name, iteration, scale in (("9", 100, 0.5), ("10", 200, 0.75), ("2", 1000, 1.0)):
        scaled = {key: tensor * scale for key, tensor in state.items()}
        torch.save({"teacher": {"backbone": scaled}, "iteration": iteration}, folder / f"ckpt-{name}.pth")
    return folder


@pytest.fixture
def lost_reg():
    def call(*args):
        return CliRunner().invoke(main, ["artifacts", *map(str, args)], catch_exceptions=False)

    return call


def series(run, *more):
    return ("-b", "tiny", "--checkpoints", f"{run}/ckpt-*.pth", *QUICK, *more)


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "out"
    arguments = series(run, "--out", out, "--controls", "mean, zeroed", "--json")
    result = CliRunner().invoke(main, ["artifacts", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result, out


def test_a_series_is_measured_by_its_steps(measured):
    result, out = measured
    rows = json.loads(result.stdout)
    assert [row["step"] for row in rows] == [100, 200, 1000]
    assert [row["backbone"] for row in rows] == [f"tiny (ckpt-{name}.pth)" for name in ("9", "10", "2")]
    norms = [row["norm_p50"] for row in rows]
    assert norms == sorted(norms) and norms[2] > 1.5 * norms[0]
    assert [row["scored_images"] for row in rows] == [4, 4, 4]
    assert [len(row["controls"]) for row in rows] == [4, 4, 4]
    assert names(out) == ["artifacts.json", "layers.svg", "neighbours.svg", "norms.svg", "steps.svg"]
    artifacts = read_artifacts(out / "artifacts.json")
    assert [one.step for one in artifacts.backbones] == [1000, 100, 200]  # the reference first
    assert artifacts.about.reference == "tiny at step 1,000" and artifacts.about.steps == "iteration"
    assert artifacts.about.controls == ("mean", "zeroed")
    last = artifacts.backbones[0].outlier_layer.percentiles["98"]
    for row, one in zip(rows, artifacts.in_order, strict=True):
        # the three rules: of each checkpoint's own norms, fixed, and of the last checkpoint
        layer = one.outlier_layer
        assert row["cutoff_sigma"] == pytest.approx(layer.mean + 3 * layer.sigma)
        assert (row["cutoff_fixed"], row["cutoff_reference"]) == (150, last)
        assert one.parameters == rows[0]["parameters"] > 1e6


def test_the_series_is_shown_as_a_table_and_as_csv(run, lost_reg, tmp_path):
    table = lost_reg(*series(run, "--out", tmp_path / "a", "--limit", 2, "--controls", "shuffled"))
    assert table.exit_code == 0, table.output
    first, second, third = (line for line in table.stdout.splitlines()[2:5])
    assert [line.split()[2] for line in (first, second, third)] == ["100", "200", "1,000"]
    assert "CorLoc" in table.stdout and "outliers shuffled between images" in table.stdout
    result = lost_reg(*series(run, "--out", tmp_path / "b", "--limit", 2, "--controls", "shuffled", "--csv"))
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["step"] for row in rows] == ["100", "200", "1000"]
    assert {"corloc_low", "shuffled_outliers_p_from_rest", "shuffled_rest_class_cosine"} <= rows[0].keys()
    assert "shuffled_rest_p_from_rest" not in rows[0]


def test_a_series_goes_on_after_the_checkpoint_it_was_killed_in(run, lost_reg, tmp_path, monkeypatch):
    out, seen, whole = tmp_path / "out", [], measure.measure

    def give(most):
        def one(stream, backbone, *args, **options):
            if len(seen) == most:
                raise KeyboardInterrupt
            seen.append(backbone.weights.name)
            return whole(stream, backbone, *args, **options)

        seen.clear()
        monkeypatch.setattr(measure, "measure", one)
        return lost_reg(*series(run, "--out", out, "--limit", 2))

    assert give(2).exit_code == 130 and seen == ["ckpt-2.pth", "ckpt-9.pth"]
    result = give(3)
    assert result.exit_code == 0 and seen == ["ckpt-10.pth"]
    assert "2 of 3 models were measured before, and stay" in result.stderr
    seen.clear()
    whole_out = tmp_path / "whole"
    assert lost_reg(*series(run, "--out", whole_out, "--limit", 2)).exit_code == 0
    for name in names(out):
        assert (out / name).read_bytes() == (whole_out / name).read_bytes(), name


def test_the_reference_is_as_it_is_said(run, lost_reg, tmp_path):
    for reference, title, steps in (
        (f"{run}/ckpt-9.pth", "tiny at step 100", [100, 200, 1000]),
        ("tiny", "tiny", [None, 100, 200, 1000]),
    ):
        out = tmp_path / title
        result = lost_reg(*series(run, "--out", out, "--limit", 1, "--reference", reference, "--json"))
        assert result.exit_code == 0, result.output
        artifacts = read_artifacts(out / "artifacts.json")
        assert artifacts.about.reference == title and artifacts.missing == 0
        assert [row["step"] for row in json.loads(result.stdout)] == steps
        first = artifacts.backbones[0].outlier_layer.percentiles["98"]
        assert {one.outlier_layer.cutoffs["reference"] for one in artifacts.backbones} == {first}


def other_architecture(run, folder):
    for path in run.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = torch.load(folder / "ckpt-10.pth", weights_only=True)
    backbone = content["teacher"]["backbone"]
    content["teacher"]["backbone"] = {key: one for key, one in backbone.items() if "blocks.5." not in key}
    torch.save(content, folder / "ckpt-10.pth")
    return f"{folder}/ckpt-*.pth"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("-b", "tiny", "--checkpoints", "nope-*.pth"), "no file matches 'nope-*.pth': --checkpoints is"),
        (("-b", "tiny", "-b", "dino", "--checkpoints", "x-*.pth"), "--checkpoints are of one model"),
        (("-b", "tiny=a.pth", "--checkpoints", "x-*.pth"), "--checkpoints are of one model"),
        (("-b", "tiny", "--controls", "median"), "unknown control 'median': choose among mean, shuffled"),
        (("-b", "tiny", "photos"), "give either images (files, folders, patterns), or a --dataset"),
    ],
)
def test_bad_input_is_one_line(arguments, said, lost_reg, tmp_path):
    result = lost_reg(*arguments, *QUICK, "--out", tmp_path / "out")
    assert result.exit_code and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_neither_images_nor_a_dataset_is_one_line(lost_reg, tmp_path):
    result = lost_reg("-b", "tiny", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "give either images" in result.stderr


def test_which_lost_is_told_only_where_one_runs(lost_reg, tmp_path):
    result = lost_reg("photos", "-b", "tiny", "--lost", "normalized", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "--lost says which LOST --dataset and --controls use" in result.stderr


@pytest.mark.parametrize("kind", ["another architecture", "damaged"])
def test_a_checkpoint_that_does_not_fit_is_told_before_any_is_measured(
    kind, run, lost_reg, tmp_path, monkeypatch
):
    monkeypatch.setattr(measure, "measure", lambda *args, **_: pytest.fail("measured"))
    pattern, said = other_architecture(run, tmp_path), "ckpt-10.pth' does not fit tiny: 5 blocks"
    if kind == "damaged":
        path = tmp_path / "ckpt-10.pth"
        path.write_bytes(path.read_bytes()[:-1000])
        said = "ckpt-10.pth': damaged"
    result = lost_reg("-b", "tiny", "--checkpoints", pattern, *QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 1 and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_registers_of_a_series_are_refused(run, lost_reg, tmp_path):
    file = tmp_path / "neurons.json"
    file.write_text(json.dumps({"neurons": [[2, 1]]}))
    added = ("--test-time-registers", 1, "--register-neurons", file)
    result = lost_reg(*series(run, *added, "--out", tmp_path / "out"))
    assert result.exit_code == 2 and "register neurons are of one checkpoint" in result.stderr


def test_an_incomplete_dataset_is_one_line(lost_reg, make_voc, tmp_path):
    voc = make_voc(tmp_path / "voc", {"a": [("cat", 33, 17, 96, 64)], "b": [("cat", 33, 17, 96, 64)]})
    (voc / "JPEGImages" / "b.jpg").unlink()
    result = lost_reg("-b", "tiny", "--dataset", voc, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "is incomplete: 1 of 2 images" in result.stderr
