"""Named protocols, and that they and their parts reach a run."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from lost_reg.backbones.zoo import find_spec
from lost_reg.cli.app import main
from lost_reg.errors import LostRegError
from lost_reg.runs.presets import PRESETS, preset_protocol
from lost_reg.types import Protocol


def test_lost_is_as_published_for_every_backbone():
    for name in ("dino", "dinov2_reg", "openclip", "timm:vit_tiny_patch16_224"):
        assert preset_protocol("lost", find_spec(name)) == Protocol("k", -1, False, False, 0.0, 100, None)


@pytest.mark.parametrize(
    "name, facet", [("dinov2_reg", "k"), ("dino", "k"), ("deit3", "v"), ("openclip", "v"), ("tiny", "k")]
)
def test_registers_takes_values_where_the_papers_do(name, facet):
    expected = Protocol(facet=facet, normalize=True, bias="auto")
    assert preset_protocol("registers", find_spec(name)) == expected


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(LostRegError, match="unknown protocol 'x': choose among lost, registers"):
        preset_protocol("x", find_spec("tiny"))


@pytest.mark.parametrize("name", PRESETS)
def test_all_presets_are_protocols(name):
    assert isinstance(preset_protocol(name, find_spec("tiny")), Protocol)


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], Protocol()),
        (["--protocol", "registers"], Protocol(normalize=True, bias="auto")),
        (["--protocol", "registers", "--raw", "--bias", "-0.2"], Protocol(bias=-0.2)),
        (["--protocol", "registers", "--bias", "0"], Protocol(normalize=True)),
        (["--center", "--normalize"], Protocol(center=True, normalize=True)),
        (["--layer", "-2", "--facet", "v", "--k-patches", "7"], Protocol(facet="v", layer=-2, k_patches=7)),
    ],
    ids=str,
)
def test_parts_are_changed_one_by_one(tmp_path, save_scene, options, expected):
    save_scene(tmp_path / "a.jpg")
    arguments = ["run", tmp_path / "a.jpg", "--out", tmp_path / "out", *options]
    result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert Protocol(**record["settings"]["protocol"]) == expected


@pytest.mark.parametrize("bias", ["much", "nan", "inf"])
def test_a_bias_that_is_no_number_is_refused(tmp_path, save_scene, bias):
    save_scene(tmp_path / "a.jpg")
    result = CliRunner().invoke(main, ["run", str(tmp_path / "a.jpg"), "--bias", bias])
    assert result.exit_code and len(result.stderr.splitlines()) == 1 and "Traceback" not in result.output
