"""The maps of each method: the component of their mask that contains the seed is the object."""

import cut_oracle
import numpy as np
import pytest
import torch
from helpers import config_of

from lost_reg.discovery import background, dino_seg, lost_rim, spread
from lost_reg.discovery.background import BackgroundConfig
from lost_reg.discovery.dino_seg import CODE, DinoSegConfig
from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.methods import METHODS

GRID, WIDTH = (5, 6), 8
CONFIGS = [
    *((name, config_of(one, WIDTH)) for name, one in METHODS.items() if one.maps and name != "dino-seg"),
    ("background", BackgroundConfig(threshold=0.6)),
    ("dino-seg", DinoSegConfig(attention_head=0)),
    ("dino-seg", DinoSegConfig(attention_head=0, rule=CODE)),
]


def images() -> PatchFeatures:
    """Random features and attention, then two blocks with the attention, one block, and equal patches."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8, 30, WIDTH, generator=generator)
    attention = torch.rand(8, 2, *GRID, generator=generator) ** 4 + 1e-6
    attention[5:] = 1e-6
    attention[5:, :, 2:4, 2:4] = 1
    attention[5, :, 0, 5] = 1
    values[7] = 1
    return PatchFeatures(values, GRID, [GRID] * 8, attention=attention.flatten(2) / 40)


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_the_component_at_the_seed_is_the_object(name, config):
    method, features = METHODS[name], images()
    for found, maps in zip(method.discover(features, config)(), method.maps(features, config), strict=True):
        if not found:
            assert not maps.mask.any()
            continue
        assert maps.seed == found[0].seed and maps.mask[maps.seed]
        component = cut_oracle.component(maps.mask, maps.seed)
        left, top, right, bottom = found[0].box_xyxy
        assert cut_oracle.box_of(component) == (left, top, right, bottom)
        if found[0].mask is not None:
            assert (component == found[0].mask).all()


def test_where_the_script_boxes_the_background_the_mask_is_the_background():
    one = METHODS["dino-seg"].maps(images(), DinoSegConfig(attention_head=0, mass=0.99, rule=CODE))[6]
    block = np.zeros(GRID, bool)
    block[2:4, 2:4] = True
    assert (one.mask == ~block).all() and one.seed == (0, 0)


@pytest.mark.parametrize(
    ("name", "module", "work"),
    [
        ("background", background, "background_cosines"),
        ("dino-seg", dino_seg, "attended"),
        ("lost-rim", lost_rim, "votes"),
        ("spread", spread, "spread_maps"),
    ],
)
def test_maps_are_computed_once(name, module, work, monkeypatch):
    calls, plain = [], getattr(module, work)
    monkeypatch.setattr(module, work, lambda *arguments: calls.append(1) or plain(*arguments))
    options = {"attention_head": 0} if name == "dino-seg" else {}
    METHODS[name].maps(images(), METHODS[name].config(**options))
    assert len(calls) == 1
