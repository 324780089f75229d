"""What a person types for a sweep, and the settings it stands for."""

from __future__ import annotations

import pytest
from helpers import refusal, setting

from lost_reg.discovery.methods import preset_setting, with_changes
from lost_reg.runs.sweep_grid import Grid, grid_of_settings, parse_values, settings_of_methods


@pytest.mark.parametrize(
    "text, expected",
    [
        ("-1", [-1]),
        ("-4:-1", [-4, -3, -2, -1]),
        ("0:2,-1", [0, 1, 2, -1]),
        ("3,3", [3]),
        ("-2:-2", [-2]),
        ("0,auto,-0.2", [0, "auto", -0.2]),
        ("-0.3:0:0.1,auto,0", [-0.3, -0.2, -0.1, 0.0, "auto"]),
        ("0:0.25:0.1", [0.0, 0.1, 0.2]),
        ("1:1:5", [1.0]),
        ("k,v,qkv,k", ["k", "v", "qkv"]),
        ("true,false", [True, False]),
        ("1e-3", [0.001]),
    ],
)
def test_values(text, expected):
    assert parse_values(text) == expected
    assert list(map(type, parse_values(text))) == list(map(type, expected))


def test_a_range_has_both_ends():
    assert parse_values("-1:0:0.05") == [round(-1 + 0.05 * index, 2) for index in range(21)]


@pytest.mark.parametrize(
    "text",
    [
        "-1:-4",
        "1:0:0.1",
        "0:1:0",
        "0:1:-0.1",
        "0:1:0.1:2",
        "0.5:1",
        "0:1.5",
        "0:1:inf",
        "a:b",
        "-inf:0:1",
        "0:nan:1",
        ":",
    ],
)
def test_ranges_that_cannot_be_read(text):
    assert "cannot read the range" in refusal(parse_values, text)


@pytest.mark.parametrize("text", ["", "1,", ",k"])
def test_empty_values_are_refused(text):
    assert "one of them is empty" in refusal(parse_values, text)


def test_too_many_are_refused():
    assert "at most 10,000" in refusal(parse_values, "0:1:0.000001")
    biases = [index / 100 for index in range(10_000)]
    grid = Grid(features={"normalize": [False, True]}, options={"bias": biases})
    assert "20,000 settings are too many: at most 10,000" in refusal(grid_of_settings, grid)


def test_the_grid_has_all_combinations_with_those_of_one_feature_together():
    features = {"facet": parse_values("k,v"), "layer": [-2, -1], "normalize": [False, True]}
    settings = grid_of_settings(Grid(features=features, options={"bias": [-0.1, 0.0]}))
    assert len(settings) == len(set(settings)) == 16
    assert settings[0] == setting(facet="k", layer=-2, bias=-0.1)
    assert settings[1] == setting(facet="k", layer=-2, bias=0.0)
    assert settings[2] == setting(facet="k", layer=-2, normalize=True, bias=-0.1)
    assert settings[-1] == setting(facet="v", layer=-1, normalize=True, bias=0.0)
    one = Grid(features={"center": [True]}, options={"k_patches": [7]}, max_side=64)
    assert grid_of_settings(one) == [setting(center=True, k_patches=7, max_side=64)]
    assert grid_of_settings(Grid()) == [setting()]


def test_facets_that_do_not_exist_are_refused():
    grid = Grid(features={"facet": ["x"]})
    assert "unknown facet" in refusal(grid_of_settings, grid)


def test_what_the_method_cannot_have_is_refused():
    assert "unknown method 'x': choose among lost" in refusal(grid_of_settings, Grid(method="x"))
    assert "the method lost has no option `tau`: it belongs to `method` tokencut and" in refusal(
        grid_of_settings, Grid(options={"tau": [1]})
    )
    assert "`k_patches` of at least 1" in refusal(grid_of_settings, Grid(options={"k_patches": [0]}))
    for value in (2.5, "abc", True):
        text = refusal(grid_of_settings, Grid(options={"k_patches": [value]}))
        assert text == f"`k_patches` cannot be {value!r}"
    assert refusal(grid_of_settings, Grid(features={"layer": [1.5]})) == "`layer` cannot be 1.5"


# --- several methods ---------------------------------------------------------------------------------


def test_an_option_applies_to_the_methods_that_have_it_and_defaults_to_the_others():
    layer, taus = {"layer": [-1]}, {"tau": [0.2, "auto"]}
    settings = settings_of_methods(["tokencut", "lost", "maskcut", "spread"], layer, taus)
    biases = [*(round(-1 + 0.05 * index, 2) for index in range(21)), "auto"]
    assert settings == [
        *(with_changes(preset_setting("tokencut"), {"tau": tau}) for tau in (0.2, "auto")),
        *(setting(bias=bias) for bias in biases),
        *(with_changes(preset_setting("maskcut"), {"tau": tau, "square": None}) for tau in (0.2, "auto")),
        preset_setting("spread"),  # on its own features: qkv
    ]
    assert settings[0] == preset_setting("tokencut") and settings[-1].features.facet == "qkv"


def test_features_and_size_are_those_of_all_methods():
    features = {"facet": ["v"], "layer": [-1], "normalize": [False, True]}
    settings = settings_of_methods(["lost", "tokencut"], features, {"bias": [0], "tau": [0.5]}, max_side=64)
    assert settings == [
        setting(facet="v", max_side=64),
        setting(facet="v", max_side=64, normalize=True),
        with_changes(preset_setting("tokencut"), {"facet": "v", "max_side": 64, "tau": 0.5}),
    ]
    assert settings_of_methods(["lost", "lost"], {}, {}) == settings_of_methods(["lost"], {}, {})
    normalised = {"layer": [-1], "normalize": [True]}
    (one,) = settings_of_methods(["tokencut"], normalised, {"tau": [0.2]})
    assert one.features.normalize  # asked for alone, it is tried


def test_by_default_every_method_is_tried_at_the_last_four_layers_and_lost_at_the_automatic_bias():
    for method, options in (("lost", 22), ("tokencut", 7), ("spread", 1)):
        settings = settings_of_methods([method], {}, {})
        assert len(settings) == 4 * options
        assert {one.features.layer for one in settings} == {-4, -3, -2, -1}
        assert preset_setting(method) in settings
    assert setting(layer=-1, bias="auto") in settings_of_methods(["lost"], {}, {})


def test_options_that_none_of_several_methods_has_are_refused():
    refused = refusal(settings_of_methods, ["lost", "spread"], {}, {"k_patches": [5], "tau": [0.1]})
    assert refused == (
        "none of the methods lost, spread has the option `tau`: it belongs to `method` tokencut and maskcut"
    )
    assert "has the option `x`" in refusal(settings_of_methods, ["lost", "spread"], {}, {"x": [1]})
    assert "unknown method 'x'" in refusal(settings_of_methods, ["lost", "x"], {}, {})
    layer, many = (
        {"layer": [-1]},
        {"bias": [index / 9000 for index in range(9000)], "tau": [index / 9000 for index in range(1001)]},
    )
    assert "10,001 settings are too many" in refusal(settings_of_methods, ["lost", "tokencut"], layer, many)
