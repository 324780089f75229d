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
from lost_reg.cli.setting_options import chosen_setting
from lost_reg.discovery import methods
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.lost import LostConfig
from lost_reg.discovery.methods import Setting, preset_setting, with_changes
from lost_reg.discovery.presets import ACROSS_METHODS, chosen_preset

CONFIGS = (FeatureConfig, *(method.config for method in methods.METHODS.values()))
FIELDS = [field for config in CONFIGS for field in dataclasses.fields(config)]


def run_options() -> dict[str, click.Parameter]:
    command = main.commands["run"]
    return {option.name: option for option in command.get_params(click.Context(command))}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.name} {field.default}")
def test_every_field_has_an_option_with_its_help_and_its_default(field):
    option = run_options()[field.name]
    assert f"--{field.name.replace('_', '-')}" in option.opts
    assert field.metadata["help"] and option.help.startswith(field.metadata["help"])
    shown = re.search(r"\[.*default: (.*)\]$", option.help)[1]
    if field.name in FeatureConfig.__dataclass_fields__:
        assert shown == "the preset's"  # methods and presets differ in features
    elif isinstance(field.default, bool):
        assert shown == field.name and option.secondary_opts
    else:
        default = str(field.metadata.get("shown_default", field.default))
        assert default in (shown, *re.split(" for [a-z-]+,? ?|, ", shown))
    wide = click.Context(main.commands["run"], terminal_width=1000, max_content_width=1000)
    assert option.help in main.commands["run"].get_help(wide)


def test_what_is_not_given_is_left_to_the_preset():
    assert all(run_options()[field.name].default is None for field in FIELDS)


def recorded(out) -> dict:
    """Method, features and options in run.json."""
    settings = json.loads((out / "run.json").read_text())["settings"]
    return {name: settings[name] for name in Setting().recorded()}


def spread(**changes) -> Setting:
    return with_changes(chosen_preset(None, "best", "bundled"), changes)


def tokencut(**changes) -> Setting:
    return with_changes(preset_setting("tokencut"), changes)


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], chosen_preset(None, "best", "bundled")),
        (["--preset", "best", "--max-side", "64"], spread(max_side=64)),
        (["--preset", "lost", "--bias", "-0.2"], setting(bias=-0.2, max_side=448)),
        (["--preset", "best", "--max-side", "native"], spread(max_side=None)),
        (["--preset", "best", "--square", "64"], spread(square=64)),
        (["--preset", "published"], setting(max_side=448)),
        (["--preset", "published", "--max-side", "native"], setting()),
        (["--method", "maskcut"], preset_setting("maskcut")),  # which has a size of its own
        (["--method", "tokencut", "--tau", "auto"], tokencut(tau="auto", max_side=448)),
        (["--method", "lost"], setting(max_side=448)),
        (["--method", "lost", "--center", "--normalize"], setting(center=True, normalize=True, max_side=448)),
        (
            ["--method", "lost", "--layer", "-2", "--facet", "v", "--k-patches", "7"],
            setting(facet="v", layer=-2, k_patches=7, max_side=448),
        ),
        (["--facet", "qk", "--layer", "-2,-1"], spread(facet="qk", layer=(-2, -1))),
        (["--method", "lost", "--max-side", "64", "--max-objects", "2"], setting(max_side=64, max_objects=2)),
    ],
    ids=str,
)
def test_parts_are_changed_one_by_one(lost_reg, tmp_path, save_scene, options, expected):
    save_scene(tmp_path / "a.jpg")
    result = lost_reg("run", tmp_path / "a.jpg", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert recorded(tmp_path / "out") == expected.recorded()


def test_datasets_are_run_as_published_and_your_own_images_with_the_best_preset():
    given = {"method": None, "preset": None} | {field.name: None for field in FIELDS}
    assert chosen_setting(dict(given), "DINOv2", own_images=False) == setting()
    best = chosen_setting(dict(given), "DINOv2", own_images=True)
    assert best == chosen_preset(None, "best", "DINOv2") != setting()
    as_published = {**given, "method": "lost"}
    assert chosen_setting(dict(as_published), "DINOv2", own_images=True) == setting(max_side=448)
    assert chosen_setting(as_published, "DINOv2", own_images=False) == setting()


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
        assert options["steps"].help == "Steps.  [other; default: 0]"
        assert options["softly"].secondary_opts == ["--no-softly"]
        assert options["softly"].help == "Softly.  [other; default: softly]"
        assert options["method"].type.choices[: len(methods.METHODS)] == tuple(methods.METHODS)

    def test_they_reach_the_run(self, lost_reg, photos, tmp_path):
        given = ("--method", "other", "--steps", "-3", "--step-size", "2", "--no-softly", "--start", "there")
        result = lost_reg("run", photos, *given, "--out", tmp_path / "out", "--center")
        assert result.exit_code == 0, result.output
        expected = Setting(FeatureConfig(center=True, max_side=448), OtherConfig(-3, 2.0, False, "there"))
        assert recorded(tmp_path / "out") == expected.recorded()

    def test_an_option_that_the_method_does_not_have_is_refused(self, refused, photos, tmp_path):
        out = ("--out", tmp_path / "out")
        line = refused("run", photos, *out, "--method", "lost", "--steps", 3)
        assert line == "Error: the method lost has no option --steps: it belongs to --method other"
        line = refused("run", photos, *out, "--method", "other", "--k-patches", 3)
        assert line == "Error: the method other has no option --k-patches: it belongs to --method lost"
        line = refused("run", photos, *out, "--method", "other", "--preset", "best")
        assert line.endswith("stands for the method spread with this backbone: leave out --method")
        assert "--method" in refused("run", photos, *out, "--method", "third", exit_code=2)
        assert not (tmp_path / "out").exists()

    def test_methods_lists_it(self, lost_reg):
        text = lost_reg("methods").stdout
        assert "another method" in text and "the other way" in text


def unfolded(lines: list[str]) -> list[str]:
    """The rows of a table whose last column is folded."""
    rows: list[str] = []
    for line in lines:
        if line.startswith(" " * 26):
            rows[-1] += " " + line.strip()
        else:
            rows.append(line)
    return rows


def test_methods_lists_what_there_is(lost_reg):
    result = lost_reg("methods")
    assert result.exit_code == 0
    header, _, *lines = result.stdout.splitlines()
    assert header.split() == ["method", "preset", "about"]
    rows = unfolded(lines)
    for name, method in methods.METHODS.items():
        assert any(row.startswith(name) and method.about in row for row in rows)
        for preset, one in method.presets.items():
            assert any(row.split()[0] == preset and one.about in row for row in rows)
    for name, one in ACROSS_METHODS.items():
        assert any(row.split()[:3] == ["(by", "preset)", name] and one.about in row for row in rows)
