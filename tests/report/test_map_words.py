"""The words for maps: every method's maps have them."""

import pytest
import torch
from helpers import config_of

from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.methods import METHODS
from lost_reg.report.map_words import MAPS, explanations, titles


@pytest.mark.parametrize("name", METHODS)
def test_each_map_of_each_method_has_a_title_and_an_explanation(name):
    method = METHODS[name]
    if method.maps is None:
        return
    features = PatchFeatures(torch.eye(12)[None], (3, 4), [(3, 4)], attention=torch.ones(1, 6, 12))
    (maps,) = method.maps(features, config_of(method, 12))
    assert maps.values and set(maps.values) <= set(MAPS)


def test_only_maps_that_are_there_are_explained():
    assert titles(["cut", "votes", "degrees"]) == {"degrees": "Degree", "votes": "Votes"}
    assert [title for title, _ in explanations(["cut", "votes", "degrees"])] == ["Degree", "Votes", "Mask"]
