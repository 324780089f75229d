"""What a person types for a sweep, and the settings it stands for."""

from __future__ import annotations

import pytest
from helpers import refusal, setting

from lost_reg.runs.sweep_grid import (
    Grid,
    grid_of_settings,
    parse_biases,
    parse_layers,
    parse_names,
    parse_option,
)


@pytest.mark.parametrize(
    "text, expected",
    [("-1", [-1]), ("-4:-1", [-4, -3, -2, -1]), ("0:2,-1", [0, 1, 2, -1]), ("3,3", [3]), ("-2:-2", [-2])],
)
def test_layers(text, expected):
    assert parse_layers(text) == expected


@pytest.mark.parametrize("text", ["", "last", "-1:-4", "1:2:3", "1.5", "1,"])
def test_layers_that_cannot_be_read(text):
    assert "cannot read the layers" in refusal(parse_layers, text)


def test_biases():
    assert parse_biases("-1:0:0.05") == [round(-1 + 0.05 * index, 2) for index in range(21)]
    assert parse_biases("0,auto,-0.2") == [0.0, "auto", -0.2]
    assert parse_biases("-0.3:0:0.1,auto,0") == [-0.3, -0.2, -0.1, 0.0, "auto"]
    assert parse_biases("0:0.25:0.1") == [0.0, 0.1, 0.2]
    assert parse_biases("1:1:5") == [1.0]


@pytest.mark.parametrize(
    "text", ["", "much", "0:1", "1:0:0.1", "0:1:0", "0:1:-0.1", "0:1:0.1:2", "0,", "nan", "-inf:0:1"]
)
def test_biases_that_cannot_be_read(text):
    assert "cannot read the biases" in refusal(parse_biases, text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("k-patches=1,50,1", ("k_patches", [1, 50])),
        ("tau=0.2,1e-3", ("tau", [0.2, 0.001])),
        ("soft=true,false", ("soft", [True, False])),
        ("start=a=b", ("start", ["a=b"])),
    ],
)
def test_an_option_of_a_method(text, expected):
    assert parse_option(text) == expected


@pytest.mark.parametrize("text", ["", "tau", "tau=", "=1"])
def test_options_that_cannot_be_read(text):
    assert "write NAME=VALUE,VALUE" in refusal(parse_option, text)


def test_too_many_are_refused():
    assert "at most 10,000" in refusal(parse_biases, "0:1:0.000001")
    biases = [index / 100 for index in range(10_000)]
    grid = Grid(features={"normalize": [False, True]}, options={"bias": biases})
    assert "20,000 settings are too many: at most 10,000" in refusal(grid_of_settings, grid)


def test_the_grid_has_all_combinations_with_those_of_one_feature_together():
    features = {"facet": parse_names("k,v"), "layer": [-2, -1], "normalize": [False, True]}
    settings = grid_of_settings(Grid(features=features, options={"bias": [-0.1, 0.0]}))
    assert len(settings) == len(set(settings)) == 16
    assert settings[0] == setting(facet="k", layer=-2, bias=-0.1)
    assert settings[1] == setting(facet="k", layer=-2, bias=0.0)
    assert settings[2] == setting(facet="k", layer=-2, normalize=True, bias=-0.1)
    assert settings[-1] == setting(facet="v", layer=-1, normalize=True, bias=0.0)
    one = Grid(features={"center": [True]}, options={"k_patches": [7]}, max_side=64)
    assert grid_of_settings(one) == [setting(center=True, k_patches=7, max_side=64)]
    assert grid_of_settings(Grid()) == [setting()]


@pytest.mark.parametrize("facets", ["x", "k,", ""])
def test_facets_that_are_none_are_refused(facets):
    grid = Grid(features={"facet": parse_names(facets)})
    assert "unknown facet" in refusal(grid_of_settings, grid)


def test_what_the_method_cannot_have_is_refused():
    assert "unknown method 'x': choose among lost" in refusal(grid_of_settings, Grid(method="x"))
    assert "the method lost has no option `tau`" in refusal(grid_of_settings, Grid(options={"tau": [1]}))
    assert "`k_patches` of at least 1" in refusal(grid_of_settings, Grid(options={"k_patches": [0]}))
    for value in (2.5, "abc", True):
        text = refusal(grid_of_settings, Grid(options={"k_patches": [value]}))
        assert "Expected 'int', got" in text and "k_patches" in text
