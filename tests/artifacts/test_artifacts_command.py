"""The command `artifacts`: its files, which backbone gets registers, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from helpers import names
from safetensors.torch import load_file, save_file

from lost_reg.artifacts import measure
from lost_reg.artifacts.records import read_artifacts
from lost_reg.backbones.loading import load_backbone
from lost_reg.cli.app import main
from lost_reg.text import display_width


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
    assert names(out) == ["artifacts.json", "layers.svg", "neighbours.svg", "norms.svg", "sizes.svg"]
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
        def one(stream, backbone, *args, **options):
            measured.append(backbone.name)
            if len(measured) > models:
                raise KeyboardInterrupt
            return whole(stream, backbone, *args, **options)

        measured.clear()
        monkeypatch.setattr(measure, "measure", one)
        return give()

    assert interrupted_after(1).exit_code == 130
    first = (out / "artifacts.json").read_bytes()
    assert [read_artifacts(out / "artifacts.json").missing, len(json.loads(first)["backbones"])] == [1, 1]
    assert interrupted_after(0).exit_code == 130
    assert (out / "artifacts.json").read_bytes() == first
    for other in (("--cutoff", 20), ("--limit", 2), ("--controls", "mean")):
        assert "exists already: choose another --out" in give(*other).stderr
    assert (out / "artifacts.json").read_bytes() == first
    result = interrupted_after(1)
    assert result.exit_code == 0 and measured == ["timm:vit_tiny_patch16_224"]  # tiny is not measured again
    assert "1 of 2 models were measured before" in result.stderr
    assert "1 of 4 images could not be used: broken.jpg" in result.stderr  # also in what was done before
    monkeypatch.undo()
    assert read_artifacts(out / "artifacts.json").missing == 0
    again = contents(out)
    assert "exists already" in give().stderr
    shutil.rmtree(out)
    assert give().exit_code == 0 and contents(out) == again


def test_models_of_other_weights_are_not_taken_over(lost_reg, photos, tmp_path, monkeypatch):
    out, file = tmp_path / "out", tmp_path / "tiny.safetensors"
    state = load_file(load_backbone("tiny").weights.path)
    save_file(state, file)
    arguments = ("artifacts", photos, "-b", f"tiny={file}", "-b", "timm:vit_tiny_patch16_224=random")
    whole = measure.measure

    def only_tiny(stream, backbone, *args, **options):
        if backbone.name != "tiny":
            raise KeyboardInterrupt
        return whole(stream, backbone, *args, **options)

    monkeypatch.setattr(measure, "measure", only_tiny)
    assert lost_reg(*arguments, "--out", out).exit_code == 130
    before = contents(out)
    save_file({**state, "cls_token": state["cls_token"] + 1}, file)
    result = lost_reg(*arguments, "--out", out)
    assert result.exit_code == 1 and "in place of tiny, or other weights of it" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and contents(out) == before


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_the_backbone_that_the_neurons_are_of_is_measured_with_registers_too(
    lost_reg, photos, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
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
        (("-b", "tiny", "--cutoff", "-3"), "--cutoff above 0"),
        (("-b", "tiny", "--layer", "9"), "has no layer 9"),
        (("-b", "tiny", "-b", "dino", "--weights", "x.pth"), "a weight file fits one backbone"),
    ],
)
def test_bad_input_is_one_line(arguments, text, lost_reg, photos, tmp_path):
    result = lost_reg("artifacts", photos, *arguments, "--out", tmp_path / "out")
    assert result.exit_code != 0 and text in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_tables_fit_80_columns(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    models = ("-b", "tiny", "-b", "timm:vit_tiny_patch16_224=random", "--limit", 3, "--workers", 0)
    result = lost_reg("artifacts", photos, *models, "--controls", "mean", "--out", tmp_path / "out")
    lines = [line for line in result.stdout.splitlines() if not line.startswith("Left out")]
    assert result.exit_code == 0 and max(map(display_width, lines[:-1])) <= 80
    assert lines[0].split()[0] == "backbone" and "above mean + 3 sigma" in lines[0]
    assert "Linear probes of position and pixels" in result.stdout
