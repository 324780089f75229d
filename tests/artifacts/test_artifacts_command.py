"""The command `artifacts`: its files, which backbone gets registers, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from artifact_cases import backbone_artifacts
from click.testing import CliRunner
from helpers import names

from lost_reg.artifacts import measure
from lost_reg.artifacts.records import Artifacts, read_artifacts, write_artifacts
from lost_reg.backbones.loading import load_backbone
from lost_reg.cli.app import main


@pytest.fixture
def lost_reg():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def photos(tmp_path, save_scene):
    for index in range(3):
        save_scene(tmp_path / "photos" / f"{index}.png", seed=index)
    (tmp_path / "photos" / "broken.jpg").write_text("no image")
    return tmp_path / "photos"


def test_the_command_writes_json_and_figures(lost_reg, photos, tmp_path):
    out = tmp_path / "out"
    models = ("-b", "tiny", "-b", "timm:vit_tiny_patch16_224")
    result = lost_reg("artifacts", photos, *models, "--weights", "random", "--out", out, "--cutoff", 20)
    assert result.exit_code == 0, result.output
    assert "above 20" in result.stdout and "tiny (RANDOM WEIGHTS)" in result.stdout
    assert "1 of 4 images could not be used: broken.jpg" in result.stderr
    assert names(out) == ["artifacts.json", "layers.svg", "neighbours.svg", "norms.svg"]
    content = json.loads((out / "artifacts.json").read_text())
    assert [row["backbone"] for row in content["backbones"]] == ["tiny", "timm:vit_tiny_patch16_224"]
    assert [len(row["layers"]) for row in content["backbones"]] == [6, 12]
    assert content["about"]["reference"] == "tiny" and content["about"]["cutoff"] == 20
    first, second = content["backbones"]
    # of twelve layers, the last six have one of the reference beside them
    assert second["layers"][5]["shares"]["reference"] is None
    assert second["layers"][6]["cutoffs"]["reference"] == first["layers"][0]["percentiles"]["98"]
    again = lost_reg("artifacts", photos, *models, "--weights", "random", "--out", out)
    assert again.exit_code == 1 and "exists already" in again.stderr


def test_an_interrupted_command_can_be_given_again(lost_reg, photos, tmp_path, monkeypatch):
    out, measured = tmp_path / "out", []

    def give(*options):
        arguments = ("-b", "tiny", "-b", "timm:vit_tiny_patch16_224", "--weights", "random", "--out", out)
        return lost_reg("artifacts", photos, *arguments, *options)

    def interrupted_after(models, whole=measure.measure):
        def one(*args, **options):
            measured.append(len(measured))
            if len(measured) > models:
                raise KeyboardInterrupt
            return whole(*args, **options)

        measured.clear()
        monkeypatch.setattr(measure, "measure", one)
        assert give().exit_code == 130

    interrupted_after(1)
    first = (out / "artifacts.json").read_bytes()
    assert [read_artifacts(out / "artifacts.json").missing, len(json.loads(first)["backbones"])] == [1, 1]
    interrupted_after(0)
    assert (out / "artifacts.json").read_bytes() == first
    monkeypatch.undo()
    assert "exists already: choose another --out" in give("--cutoff", 20).stderr
    assert (out / "artifacts.json").read_bytes() == first
    assert give().exit_code == 0 and read_artifacts(out / "artifacts.json").missing == 0
    again = contents(out)
    assert "exists already" in give().stderr
    shutil.rmtree(out)
    assert give().exit_code == 0 and contents(out) == again


def test_no_measured_model_is_given_up_for_fewer(lost_reg, photos, tmp_path, monkeypatch):
    out, kept = tmp_path / "out", []
    about = measure.about_artifacts("tiny", models=3, max_side=64)
    write_artifacts(out, Artifacts(about, [backbone_artifacts("tiny"), backbone_artifacts("other")]))
    before = contents(out)
    save = measure.save_artifacts
    monkeypatch.setattr(measure, "save_artifacts", lambda *args: (kept.append(contents(out)), save(*args)))
    models = ("-b", "tiny", "-b", "timm:vit_tiny_patch16_224", "-b", "timm:deit_tiny_patch16_224")
    result = lost_reg("artifacts", photos, *models, "--weights", "random", "--max-side", 64, "--out", out)
    assert result.exit_code == 0, result.output
    assert len(kept) == 2 and kept[0] == before  # the first model alone was not saved


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_the_backbone_that_the_neurons_are_of_is_measured_with_registers_too(lost_reg, photos, tmp_path):
    model, other = "timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224"
    file, out = tmp_path / "neurons.json", tmp_path / "out"
    file.write_text(json.dumps({"neurons": [[2, 1], [3, 0]], "backbone": model}))
    models = ("-b", other, "-b", model, "--weights", "random")
    added = ("--test-time-registers", 2, "--register-neurons", file)
    result = lost_reg("artifacts", photos, *models, *added, "--max-side", 64, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{model} (RANDOM WEIGHTS, 2 test-time registers at 2 neurons)" in result.stdout
    rows = json.loads((out / "artifacts.json").read_text())["backbones"]
    assert [row["backbone"] for row in rows] == [other, model, model]
    first, second, with_registers = (row["test_time_registers"] for row in rows)
    assert first is second is None and with_registers["count"] == 2
    assert rows[2]["layers"] != rows[1]["layers"]


@pytest.mark.parametrize(
    ("neurons", "arguments", "text"),
    [
        (
            {},
            ("-b", "dino", "-b", "dinov2"),
            "does not say whether it belongs to dino_vits16 or dinov2_vitl14",
        ),
        ({"backbone": "dinov2_vitl14"}, ("-b", "dino"), "those of dinov2_vitl14, and the backbone is dino"),
        ({}, ("-b", "dinov2", "--reference", "dino"), 'add "backbone" to it'),
        ({}, ("-b", "tiny"), "tiny was trained with 4 registers"),
        ({"backbone": "tiny"}, ("-b", "tiny", "-b", "dino"), "tiny was trained with 4 registers"),
    ],
)
def test_registers_for_no_backbone_or_any_are_refused(neurons, arguments, text, lost_reg, photos, tmp_path):
    file = tmp_path / "neurons.json"
    file.write_text(json.dumps({"neurons": [[2, 1]], **neurons}))
    added = ("--test-time-registers", 1, "--register-neurons", file)
    result = lost_reg("artifacts", photos, *arguments, *added, "--out", tmp_path / "out")
    assert result.exit_code != 0 and text in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_told_before_anything_is_measured(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("lost_reg.artifacts.measure.measure", lambda *args, **_: pytest.fail("measured"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    result = lost_reg("artifacts", photos, "-b", "tiny", "-b", "dinov2", "--out", tmp_path / "out")
    assert result.exit_code != 0 and "dinov2" in result.stderr and len(result.stderr.splitlines()) == 1


def test_what_was_measured_stays_when_a_later_backbone_is_refused(lost_reg, photos, tmp_path):
    out, deep = tmp_path / "out", "timm:vit_tiny_patch16_224"  # twelve layers, and tiny has six
    options = ("--weights", "random", "--layer", -10, "--limit", 1, "--max-side", 64, "--out", out)
    result = lost_reg("artifacts", photos, "-b", deep, "-b", "tiny", *options)
    assert result.exit_code == 1 and "tiny has no layer -10" in result.stderr
    (row,) = json.loads((out / "artifacts.json").read_text())["backbones"]
    assert row["backbone"] == deep


def test_a_folder_that_cannot_be_is_refused_before_any_measuring(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("lost_reg.artifacts.measure.measure", lambda *args, **_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    result = lost_reg("artifacts", photos, "-b", "tiny", "--out", tmp_path / "file")
    assert result.exit_code == 1 and "is not a folder that can be written to" in result.stderr


def test_backbones_have_weights_of_their_own(lost_reg, photos, tmp_path):
    file = load_backbone("tiny").weights.path
    small = "timm:vit_tiny_patch16_224=random"
    result = lost_reg("artifacts", photos, "-b", f"tiny={file}", "-b", small, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "artifacts.json").read_text())["backbones"]
    assert [(row["weights"]["source"], row["weights"]["name"]) for row in rows] == [
        ("file", "tiny.safetensors"), ("random", "random")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-b", "tiny=a.pth", "--weights", "b.pth"), "either as tiny=FILE or as --weights FILE"),
        (("-b", "tiny=a.pth", "-b", "tiny=b.pth"), "several weights are given for tiny"),
        (("-b", "tiny=nope.pth"), "no weight file 'nope.pth'"),
    ],
)
def test_weights_of_a_backbone_that_cannot_be_are_one_line(options, said, lost_reg, photos, tmp_path):
    result = lost_reg("artifacts", photos, *options, "--out", tmp_path / "out")
    assert result.exit_code and said in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-b", "dnio"), "unknown backbone 'dnio'"),
        (("-b", "tiny", "--reference", "dnio"), "unknown backbone 'dnio'"),
        (("-b", "tiny", "--cutoff", "-3"), "cut-off above 0"),
        (("-b", "tiny", "--layer", "9"), "has no layer 9"),
        (("-b", "tiny", "-b", "dino", "--weights", "x.pth"), "a weight file fits one backbone"),
    ],
)
def test_bad_input_is_one_line(arguments, text, lost_reg, photos, tmp_path):
    result = lost_reg("artifacts", photos, *arguments, "--out", tmp_path / "out")
    assert result.exit_code != 0 and text in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
