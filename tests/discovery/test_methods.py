"""The registry of methods, and settings: presets, records, words and changes."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields, replace

import pytest
from helpers import refusal, setting

from lost_reg.backbones.zoo import find_spec
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.lost import LOST, LostConfig
from lost_reg.discovery.method import Preset
from lost_reg.discovery.methods import (
    METHODS,
    Setting,
    departures,
    describe_setting,
    find_method,
    list_methods,
    method_of,
    preset_setting,
    with_changes,
)
from lost_reg.discovery.presets import chosen_preset


@dataclass(frozen=True)
class OtherConfig:
    steps: int = field(default=3, metadata={"help": "Steps."})
    soft: bool = field(default=True, metadata={"help": "Softly."})


@pytest.fixture
def other(monkeypatch) -> str:
    """Another method, published on normalised features of two layers."""
    published = Preset("as published", FeatureConfig(layer=(-2, -1), normalize=True), OtherConfig())
    method = replace(LOST, name="other", config=OtherConfig, presets={"published": published})
    monkeypatch.setitem(METHODS, "other", method)
    return "other"


# The registry


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_each_method_has_what_a_row_needs(method):
    assert METHODS[method.name] is method and method.about
    for item in fields(method.config):
        assert item.default is not MISSING and item.metadata["help"].endswith("."), item.name
        assert item.name not in FeatureConfig.__dataclass_fields__
    assert "published" in method.presets
    for preset in method.presets.values():
        assert type(preset.config) is method.config and preset.about
        assert method.operations(100, 64, preset.config) >= 0
    assert 0 < method.peak_bytes(1, 100) < method.peak_bytes(2, 100)


def test_methods_are_found_by_name_and_by_their_options(other):
    assert find_method("lost") is LOST is method_of(LostConfig(bias=-0.2))
    assert method_of(OtherConfig()).name == "other"
    assert list_methods() == {name: method.about for name, method in METHODS.items()}
    assert list_methods()["other"] == LOST.about


def test_unknown_methods_are_refused_with_those_there_are(other):
    assert refusal(find_method, "x") == "unknown method 'x': choose among " + ", ".join(METHODS)
    for wrong, name in ((FeatureConfig(), "FeatureConfig"), ("lost", "str"), (None, "None")):
        text = refusal(method_of, wrong)
        assert text.startswith("expected a method's options (LostConfig, TokenCutConfig, ")
        assert text.endswith(f", OtherConfig), but got {name}")


# Presets


def test_lost_is_as_published():
    expected = Setting(
        FeatureConfig(facet="k", layer=-1, center=False, normalize=False, max_side=None),
        LostConfig(k_patches=100, bias=0.0, max_objects=1),
    )
    assert Setting() == expected
    assert preset_setting("lost", "published") == expected


def test_presets_across_methods_choose_the_method_for_the_backbone():
    dino, other = find_spec("dino").family, find_spec("dinov2_reg").family
    assert chosen_preset(None, "lost", dino) == chosen_preset(None, "lost", "bundled") == Setting()
    assert chosen_preset(None, "lost", other).method.name == "lost-rim"
    for family in (dino, other, "OpenCLIP"):
        best = chosen_preset(None, "best", family)
        assert (best.method.name, best.features) == ("spread", FeatureConfig("qkv", max_side=336))
    # a function of the user's has one kind of features
    assert chosen_preset(None, "best", "").features == FeatureConfig(max_side=336)
    assert chosen_preset("spread", "best", other) == chosen_preset(None, "best", other)
    assert chosen_preset(None, None, other) == chosen_preset("lost", None, other) == Setting()
    assert refusal(chosen_preset, "tokencut", "best", other) == (
        "the preset 'best' stands for the method spread with this backbone: leave out `method`"
    )


def test_a_preset_without_a_method_that_it_needs_is_refused_with_what_to_do():
    assert refusal(chosen_preset, None, "native", "DINO") == (
        "the preset 'native' belongs to a method: add `method` maskcut"
    )
    for word in ("spread", "tokencut"):
        line = f"{word!r} is a method, not a preset: give it as `method`"
        assert refusal(chosen_preset, None, word, "DINO") == line
    unknown = refusal(chosen_preset, None, "bset", "DINO")
    assert unknown.startswith("unknown `preset` 'bset': choose among published, ") and "best" in unknown
    assert chosen_preset(None, "published", "DINO") == Setting()


def test_unknown_presets_are_refused_with_those_there_are(other):
    assert refusal(preset_setting, "lost", "x") == ("lost has no preset 'x': choose among published")
    assert refusal(preset_setting, "other", "best") == ("other has no preset 'best': choose among published")
    assert "unknown method 'x'" in refusal(preset_setting, "x")


# Records


def test_a_record_has_the_method_the_features_and_the_options():
    assert Setting().recorded() == {
        "method": "lost",
        "features": {"facet": "k", "layer": -1, "center": False, "normalize": False, "max_side": None},
        "options": {"k_patches": 100, "bias": 0.0, "max_objects": 1},
    }
    # as JSON has it, so that a record can be compared with one that was read
    assert setting(layer=(-2, -1)).recorded()["features"]["layer"] == [-2, -1]


def test_what_is_refined_is_recorded_only_if_it_is():
    assert "refine" not in Setting().recorded()  # so that runs of earlier versions can be resumed
    assert Setting(refine="bilateral").recorded() == {**Setting().recorded(), "refine": "bilateral"}
    assert "choose among bilateral" in refusal(Setting, refine="sharper")


def test_the_record_of_another_method_has_its_options(other):
    record = Setting(FeatureConfig("v"), OtherConfig(steps=5)).recorded()
    assert record["method"] == "other" and record["options"] == {"steps": 5, "soft": True}


# In words


@pytest.mark.parametrize(
    ("chosen", "words", "changed"),
    [
        (Setting(), "k of layer -1, raw, bias 0", []),
        (
            setting(normalize=True, bias=-0.2),
            "k of layer -1, normalised, bias -0.2",
            ["normalize=True", "bias=-0.2"],
        ),
        (setting(bias="auto"), "k of layer -1, raw, bias auto", ["bias=auto"]),
        (
            setting(facet="qk", layer=(-2, -1), k_patches=7, max_objects=3),
            "qk of layers -2 and -1, raw, k_patches 7, bias 0, max_objects 3",
            ["facet=qk", "layer=[-2, -1]", "k_patches=7", "max_objects=3"],
        ),
        (
            Setting(refine="bilateral"),
            "k of layer -1, raw, bias 0, refine bilateral",
            ["refine=bilateral"],
        ),
    ],
    ids=str,
)
def test_settings_in_words_and_how_they_depart_from_the_published_one(chosen, words, changed):
    record = json.loads(json.dumps(chosen.recorded()))
    assert (describe_setting(record), departures(record)) == (words, changed)


def test_another_method_departs_from_its_own_published_setting(other):
    published = json.loads(json.dumps(preset_setting(other).recorded()))
    assert departures(published) == ["other"]
    assert describe_setting(published) == "k of layers -2 and -1, normalised"
    changed = with_changes(preset_setting(other), {"layer": -1, "normalize": False, "soft": False})
    assert departures(changed.recorded()) == ["other", "layer=-1", "normalize=False", "soft=False"]
    assert describe_setting(changed.recorded()) == "k of layer -1, raw, soft False"


def test_a_method_that_is_not_installed_is_described_by_all_its_options():
    record = {
        "method": "gone",
        "features": FeatureConfig(normalize=True).recorded(),
        "options": {"tau": 0.25, "steps": 3},
    }
    assert describe_setting(record) == "k of layer -1, normalised, tau 0.25, steps 3"
    assert departures(record) == ["gone", "normalize=True", "tau=0.25", "steps=3"]


# Changes


def test_changes_reach_features_and_options_and_nothing_else():
    before = Setting(FeatureConfig(facet="v"), LostConfig(k_patches=7))
    after = with_changes(before, {"layer": -2, "bias": -0.1})
    assert after == Setting(FeatureConfig(facet="v", layer=-2), LostConfig(k_patches=7, bias=-0.1))
    assert before == Setting(FeatureConfig(facet="v"), LostConfig(k_patches=7))
    assert with_changes(before, {}) == before
    assert with_changes(Setting(refine="bilateral"), {"bias": 0.1}).refine == "bilateral"


def test_options_of_another_method_are_refused(other):
    assert refusal(with_changes, Setting(), {"steps": 2}) == (
        "the method lost has no option `steps`: it belongs to `method` other"
    )
    assert refusal(with_changes, preset_setting(other), {"layer": -1, "bias": 0.1}) == (
        "the method other has no option `bias`: it belongs to `method` lost"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"facet": "x"}, "unknown facet 'x'"),
        ({"max_side": 0}, "`max_side` of at least 1"),
        ({"k_patches": 0}, "`k_patches` of at least 1, but got 0"),
        ({"max_objects": -1}, "`max_objects` of at least 1, but got -1"),
        ({"bias": float("nan")}, "finite `bias`"),
        ({"bias": float("inf")}, "finite `bias`"),
        ({"bias": "much"}, "finite `bias`"),
        # as `lost-reg sweep --option k_patches=many` has it
        ({"k_patches": "many"}, "k_patches"),
        ({"k_patches": 1.5}, "k_patches"),
        ({"max_objects": True}, "max_objects"),
        ({"layer": "last"}, "layer"),
        ({"center": "yes"}, "center"),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(changes, words):
    assert words in refusal(with_changes, Setting(), changes)
