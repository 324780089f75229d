"""Options of features and methods: made from their configuration types, and what they change in a run."""

from __future__ import annotations

import dataclasses
import json
import re

import click
import pytest
from helpers import setting
from run_cases import lines_of

from lost_reg.cli.app import main
from lost_reg.cli.options import chosen_setting
from lost_reg.discovery import methods
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.lost import LostConfig
from lost_reg.discovery.methods import Setting

CONFIGS = (FeatureConfig, LostConfig)
FIELDS = [field for config in CONFIGS for field in dataclasses.fields(config)]


def run_options() -> dict[str, click.Parameter]:
    command = main.commands["run"]
    return {option.name: option for option in command.get_params(click.Context(command))}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_has_an_option_with_its_help_and_its_default(field):
    option = run_options()[field.name]
    assert f"--{field.name.replace('_', '-')}" in option.opts
    assert field.metadata["help"] and option.help.startswith(field.metadata["help"])
    shown = re.search(r"\[default: (.*)\]$", option.help)[1]
    if isinstance(field.default, bool):
        (off,) = option.secondary_opts
        assert not field.default and f"--{shown}" == off
    elif field.default is None:
        assert shown == "native resolution"
    else:
        assert shown == str(field.default)
    wide = click.Context(main.commands["run"], terminal_width=1000, max_content_width=1000)
    assert option.help in main.commands["run"].get_help(wide)


def test_what_is_not_given_is_left_to_the_preset():
    assert all(run_options()[field.name].default is None for field in FIELDS)


def recorded(out) -> dict:
    """Method, features and options in run.json."""
    settings = json.loads((out / "run.json").read_text())["settings"]
    return {name: settings[name] for name in Setting().recorded()}


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], setting()),
        (["--preset", "registers"], setting(normalize=True, bias="auto")),
        (["--preset", "registers", "--raw", "--bias", "-0.2"], setting(bias=-0.2)),
        (["--preset", "registers", "--bias", "0"], setting(normalize=True)),
        (["--center", "--normalize"], setting(center=True, normalize=True)),
        (["--layer", "-2", "--facet", "v", "--k-patches", "7"], setting(facet="v", layer=-2, k_patches=7)),
        (["--facet", "qk"], setting(facet="qk")),
        (["--layer", "-2,-1"], setting(layer=(-2, -1))),
        (["--method", "lost", "--max-side", "64", "--max-objects", "2"], setting(max_side=64, max_objects=2)),
    ],
    ids=str,
)
def test_parts_are_changed_one_by_one(lost_reg, tmp_path, save_scene, options, expected):
    save_scene(tmp_path / "a.jpg")
    result = lost_reg("run", tmp_path / "a.jpg", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert recorded(tmp_path / "out") == expected.recorded()


@pytest.mark.parametrize("backbone, facet", [("openclip", "v"), ("tiny", "k")])
def test_the_registers_preset_uses_the_facet_that_the_papers_use_for_the_backbone(
    lost_reg, tmp_path, save_scene, backbone, facet
):
    save_scene(tmp_path / "a.jpg", size_hw=(32, 48), box_xyxy=(8, 8, 24, 24))
    run = ("run", tmp_path / "a.jpg", "--backbone", backbone, "--weights", "random", "--device", "cpu")
    assert lost_reg(*run, "--preset", "registers", "--out", tmp_path / "out").exit_code == 0
    assert recorded(tmp_path / "out") == setting(facet=facet, normalize=True, bias="auto").recorded()


def test_the_published_preset_is_lost_as_published_for_every_backbone():
    given = {"method": "lost", "preset": "published"} | {field.name: None for field in FIELDS}
    for facet in ("k", "v"):
        assert chosen_setting(dict(given), facet) == setting()
    assert chosen_setting({**given, "preset": "registers", "facet": "q"}, "v").features.facet == "q"


def test_several_layers_are_run_and_resumed(lost_reg, photos, tmp_path):
    run = ("run", photos, "--layer=-2,-1", "--facet", "qk", "--out", tmp_path / "out")
    assert lost_reg(*run, "--limit", 1).exit_code == 0
    result = lost_reg(*run, "--resume")
    assert result.exit_code == 0 and "1 was done before" in result.stdout, result.output
    assert len(lines_of(tmp_path / "out")) == 2
    features = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["features"]
    assert (features["layer"], features["facet"]) == ([-2, -1], "qk")
    # the same two blocks, counted from the first
    assert lost_reg("run", photos, "--layer=4,5", *run[3:], "--resume").exit_code == 0
    other = lost_reg("run", photos, "--layer=-1,-2", *run[3:], "--resume")
    assert other.exit_code == 1 and "other settings" in other.stderr


@pytest.mark.parametrize("bias", ["much", "nan", "inf"])
def test_a_bias_that_is_no_number_is_refused(lost_reg, tmp_path, save_scene, bias):
    save_scene(tmp_path / "a.jpg")
    result = lost_reg("run", tmp_path / "a.jpg", "--bias", bias)
    assert result.exit_code and len(result.stderr.splitlines()) == 1 and "--bias" in result.stderr


@pytest.mark.parametrize("layer", ["a", "-1,", "1.5", "-1:2"])
def test_layers_that_cannot_be_read_are_refused(refused, layer):
    line = refused("run", "x", "--layer", layer, exit_code=2)
    assert "is not a layer, such as -1, or layers, such as -4,-1" in line


# --- further methods ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OtherConfig:
    """Options of every kind, of a method that is no LOST."""

    steps: int = dataclasses.field(default=0, metadata={"help": "Steps."})
    step_size: float = dataclasses.field(default=0.5, metadata={"help": "Size of a step."})
    softly: bool = dataclasses.field(default=True, metadata={"help": "Softly."})
    start: str = dataclasses.field(default="here", metadata={"help": "Where."})


@pytest.fixture
def other_method(monkeypatch):
    """LOST's objects by another name and with other options."""
    lost = methods.METHODS["lost"]
    preset = dataclasses.replace(lost.presets["published"], about="the other way", config=OtherConfig())
    other = dataclasses.replace(
        lost,
        name="other",
        about="another method",
        config=OtherConfig,
        discover=lambda features, config: lost.discover(features, LostConfig()),
        operations=lambda patches, width, config: 0.0,
        presets={"published": preset},
        discover_each=None,
        maps=None,
    )
    monkeypatch.setitem(methods.METHODS, "other", other)


@pytest.mark.usefixtures("other_method")
class TestOtherMethod:
    def test_its_options_are_there_with_their_defaults(self):
        options = run_options()
        assert options["steps"].help == "Steps.  [default: 0]"
        assert options["softly"].secondary_opts == ["--no-softly"]
        assert options["softly"].help == "Softly.  [default: softly]"
        assert options["method"].type.choices == ("lost", "other")

    def test_they_reach_the_run(self, lost_reg, photos, tmp_path):
        given = ("--method", "other", "--steps", "-3", "--step-size", "2", "--no-softly", "--start", "there")
        result = lost_reg("run", photos, *given, "--out", tmp_path / "out", "--center")
        assert result.exit_code == 0, result.output
        expected = Setting(FeatureConfig(center=True), OtherConfig(-3, 2.0, False, "there"))
        assert recorded(tmp_path / "out") == expected.recorded()

    def test_an_option_that_the_method_does_not_have_is_refused(self, refused, photos, tmp_path):
        out = ("--out", tmp_path / "out")
        line = refused("run", photos, *out, "--steps", 3)
        assert line == "Error: the method lost has no option --steps"
        line = refused("run", photos, *out, "--method", "other", "--k-patches", 3)
        assert line == "Error: the method other has no option --k-patches"
        line = refused("run", photos, *out, "--method", "other", "--preset", "registers")
        assert line == "Error: other has no preset 'registers': choose among published"
        assert "--method" in refused("run", photos, *out, "--method", "third", exit_code=2)
        assert not (tmp_path / "out").exists()

    def test_methods_lists_it(self, lost_reg):
        rows = [line.split("  ") for line in lost_reg("methods").stdout.splitlines()]
        text = lost_reg("methods").stdout
        assert "another method" in text and "the other way" in text and len(rows) == 2 + 3 + 2


def test_methods_lists_what_there_is(lost_reg):
    result = lost_reg("methods")
    assert result.exit_code == 0
    header, _, *rows = result.stdout.splitlines()
    assert header.split() == ["method", "preset", "about"]
    assert rows[0].startswith("lost") and methods.METHODS["lost"].about in rows[0]
    for row, (name, preset) in zip(rows[1:], methods.METHODS["lost"].presets.items(), strict=True):
        assert row.split()[0] == name and preset.about in row
