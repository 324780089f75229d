"""What a person types for a sweep, and the settings it stands for."""

from __future__ import annotations

import pytest

from lost_reg.errors import LostRegError
from lost_reg.runs.sweep_grid import grid_of_protocols, parse_biases, parse_facets, parse_layers
from lost_reg.types import Protocol


@pytest.mark.parametrize(
    "text, expected",
    [("-1", [-1]), ("-4:-1", [-4, -3, -2, -1]), ("0:2,-1", [0, 1, 2, -1]), ("3,3", [3]), ("-2:-2", [-2])],
)
def test_layers(text, expected):
    assert parse_layers(text) == expected


@pytest.mark.parametrize("text", ["", "last", "-1:-4", "1:2:3", "1.5", "1,"])
def test_layers_that_cannot_be_read(text):
    with pytest.raises(LostRegError, match="cannot read the layers"):
        parse_layers(text)


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
    with pytest.raises(LostRegError, match="cannot read the biases"):
        parse_biases(text)


def test_too_many_are_refused():
    with pytest.raises(LostRegError, match="at most 10,000"):
        parse_biases("0:1:0.000001")
    with pytest.raises(LostRegError, match="20,000 settings are too many"):
        grid(biases=[index / 100 for index in range(10_000)], normalize=[False, True])


def grid(**parts) -> list[Protocol]:
    default = {"facets": ["k"], "layers": [-1], "biases": [0.0], "normalize": [False], "center": [False]}
    return grid_of_protocols(**(default | {"k_patches": 100, "max_side": None} | parts))


def test_the_grid_has_all_combinations_with_those_of_one_feature_together():
    protocols = grid(facets=parse_facets("k,v"), layers=[-2, -1], biases=[-0.1, 0.0], normalize=[False, True])
    assert len(protocols) == len(set(protocols)) == 16
    assert protocols[0] == Protocol(facet="k", layer=-2, bias=-0.1)
    assert protocols[1] == Protocol(facet="k", layer=-2, bias=0.0)
    assert protocols[2] == Protocol(facet="k", layer=-2, normalize=True, bias=-0.1)
    assert protocols[-1] == Protocol(facet="v", layer=-1, normalize=True, bias=0.0)
    assert grid(center=[True], k_patches=7, max_side=64) == [Protocol(center=True, k_patches=7, max_side=64)]


@pytest.mark.parametrize("facets", ["x", "k,", ""])
def test_facets_that_are_none_are_refused(facets):
    with pytest.raises(LostRegError, match="unknown facet"):
        grid(facets=parse_facets(facets))
