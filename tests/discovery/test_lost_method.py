"""LOST as a row of the registry: one or several configurations on features, and its maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import refusal
from lost_cases import drawn

from lost_reg.discovery.bias import absolute_bias, otsu_bias
from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.lost import (
    LostConfig,
    discover,
    discover_each,
    gram_operations,
    lost,
    lost_maps,
)
from lost_reg.discovery.method import PatchObject

GRID_HW = (5, 7)
CONFIGS = [
    LostConfig(),
    LostConfig(k_patches=3),
    LostConfig(bias=-0.2),
    LostConfig(bias="auto"),
    LostConfig(k_patches=1, bias=0.1),
]


@pytest.fixture(scope="module")
def features() -> PatchFeatures:
    values = torch.randn(6, 35, 8, generator=torch.Generator().manual_seed(0)) + 0.3
    values *= torch.arange(1, 7).view(-1, 1, 1)  # images of different norms
    return PatchFeatures(values, GRID_HW, [GRID_HW] * 6)


def numbers(one: PatchObject) -> tuple:
    return one.box_xyxy, one.seed, one.details


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_objects_are_those_of_lost(features, config):
    bias = absolute_bias(features.values, config.bias)
    expected = lost(features.values, GRID_HW, k_patches=config.k_patches, bias=0.0 if bias is None else bias)
    objects = discover(features, config)()
    assert [len(found) for found in objects] == [1] * 6
    for index, (one,) in enumerate(objects):
        assert list(one.box_xyxy) == expected.boxes_xyxy[index].tolist()
        assert list(one.seed) == expected.seeds[index].tolist()
        assert one.details["degree"] == expected.degrees[index].item()
        assert one.score == round(expected.affinities[index].item(), 4)


def test_the_share_of_positive_affinities_is_recorded():
    # 5 of 30 patches are the object's, and affinities are positive within each kind only
    values, grid_hw = drawn("......", ".ooo..", ".o....", ".o....", "......")
    ((one,),) = discover(PatchFeatures(values[None], grid_hw, [grid_hw]), LostConfig())()
    assert one.details == {"degree": 4, "positive_share": round((5 * 4 + 25 * 24) / (30 * 29), 6)}


def test_several_configurations_together_give_what_each_gives_alone(features):
    together = [deferred() for deferred in discover_each(features, CONFIGS)]
    for config, objects in zip(CONFIGS, together):
        alone = discover(features, config)()
        assert [[numbers(one) for one in found] for found in objects] == [
            [numbers(one) for one in found] for found in alone
        ]
        assert all(one.score is None for found in objects for one in found)
    boxes = [[one.box_xyxy for (one,) in objects] for objects in together]
    assert len(set(map(str, boxes))) >= 4  # the configurations differ


def test_several_objects_are_refused_for_several_configurations(features):
    text = refusal(discover_each, features, [LostConfig(), LostConfig(max_objects=2)])
    assert text == "settings that are tried together find one object each: `max_objects` is 1"


def test_the_mask_is_the_component_of_the_seed():
    values, grid_hw = drawn("......", ".ooo..", ".o....", ".o..o.", "......")
    ((one,),) = discover(PatchFeatures(values[None], grid_hw, [grid_hw]), LostConfig())()
    expected = np.zeros(grid_hw, bool)
    expected[1, 1:4] = expected[2:4, 1] = True  # without the patch that lies apart
    assert one.mask.dtype == bool and (one.mask == expected).all()
    assert one.box_xyxy == (1, 1, 4, 4)


def test_what_lost_found_does_not_hang_on_features_that_are_changed_later(features):
    values = features.values.clone()
    deferred = discover(PatchFeatures(values, GRID_HW, [GRID_HW] * 6), LostConfig())
    values.zero_()
    assert [numbers(one) for (one,) in deferred()] == [
        numbers(one) for (one,) in discover(features, LostConfig())()
    ]


# Bias


def test_a_bias_is_in_units_of_the_images_mean_squared_norm(features):
    expected = [-0.2 * float((image.double() ** 2).sum(dim=1).mean()) for image in features.values]
    assert absolute_bias(features.values, -0.2).tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(absolute_bias(features.values, "auto"), otsu_bias(features.values))


def test_no_bias_is_none_and_not_a_product_that_can_overflow():
    huge = torch.full((1, 4, 2), 1e30)
    assert absolute_bias(huge, 0.0) is None and absolute_bias(huge, 0) is None


# Maps


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_maps_are_those_of_the_plain_formulation(features, config):
    found = lost_maps(features, config)
    biases = absolute_bias(features.values, config.bias)
    for index, ((one,), maps) in enumerate(zip(discover(features, config)(), found)):
        values = features.values[index].double().numpy()
        gram = values @ values.T + (0.0 if biases is None else biases[index].item())
        degrees = (gram > 0).sum(axis=1) - (np.diag(gram) > 0)
        order = np.lexsort((np.arange(35), degrees))[: config.k_patches]
        seed = order[0]
        similar = order[gram[seed, order] > 0]
        mask = gram[similar].sum(axis=0) > 0
        mask[seed] = True
        assert maps.seed == divmod(seed, 7) == one.seed
        assert list(maps.values) == ["degrees", "affinities"]
        assert maps.values["degrees"].dtype == maps.values["affinities"].dtype == np.float32
        assert (maps.values["degrees"] == degrees.reshape(GRID_HW)).all()
        assert maps.values["affinities"] == pytest.approx(gram[seed].clip(min=0).reshape(GRID_HW), rel=1e-4)
        assert maps.mask.dtype == bool and (maps.mask == mask.reshape(GRID_HW)).all()
        assert maps.mask[one.mask].all()


def test_maps_of_features_whose_products_overflow_are_finite():
    values = torch.full((1, 6, 3), 1e30)
    (maps,) = lost_maps(PatchFeatures(values, (2, 3), [(2, 3)]), LostConfig(bias=-0.5))
    assert all(np.isfinite(one).all() for one in maps.values.values())


# Configurations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_patches": 0}, "expected `k_patches` of at least 1, but got 0"),
        ({"max_objects": 0}, "expected `max_objects` of at least 1, but got 0"),
        ({"bias": float("nan")}, "expected a finite `bias` or 'auto', but got nan"),
        ({"bias": -float("inf")}, "expected a finite `bias` or 'auto', but got -inf"),
        ({"bias": "much"}, "expected a finite `bias` or 'auto', but got much"),
        ({"bias": None}, "`bias` cannot be None"),
        ({"k_patches": 2.5}, "`k_patches` cannot be 2.5"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(changes, words):
    assert refusal(LostConfig, **changes) == words


def test_operations_are_those_of_a_gram_matrix_for_each_object():
    assert gram_operations(10, 3, LostConfig()) == 2 * 10 * 10 * 3  # a product and a sum for each entry
    assert gram_operations(10, 3, LostConfig(max_objects=4)) == 4 * gram_operations(10, 3, LostConfig())
