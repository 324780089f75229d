"""The method `head`: which patches a linear layer says are object, and the objects that they make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import made_up_head, refusal

from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.head import HeadConfig, discover, objects_in

OBJECTNESS = np.array(
    [
        [0.5, 0.5, -1.0, -1.0, 0.1],
        [0.5, 0.5, -1.0, -1.0, 0.2],
        [-1.0, -1.0, 3.0, -1.0, 0.1],
        [0.0, -1.0, -1.0, -1.0, -1.0],
    ],
    np.float32,
)


def test_objects_are_components_by_the_sum_of_their_objectness():
    found = objects_in(OBJECTNESS, max_objects=0)
    assert [one.box_xyxy for one in found] == [(2, 2, 3, 3), (0, 0, 2, 2), (4, 0, 5, 3)]
    assert [one.score for one in found] == [3.0, 0.5, 0.1333]
    assert [one.seed for one in found] == [(2, 2), (0, 0), (1, 4)]
    assert [int(one.mask.sum()) for one in found] == [1, 4, 3]
    assert [one.box_xyxy for one in objects_in(OBJECTNESS, max_objects=2)] == [(2, 2, 3, 3), (0, 0, 2, 2)]


def test_where_nothing_is_above_zero_nothing_is_found():
    assert objects_in(np.zeros((3, 4), np.float32), max_objects=0) == []


def test_the_layer_is_applied_to_each_patch():
    head = made_up_head(6, bias=-0.4)
    values = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(0))
    features = PatchFeatures(values, (3, 4), [(3, 4)] * 2)
    by_hand = [
        [sum(w * x for w, x in zip(head.weight, patch)) - 0.4 for patch in image] for image in values.tolist()
    ]
    assert np.allclose(head.objectness(values).numpy(), by_hand, atol=1e-5)
    for found, expected in zip(discover(features, HeadConfig(head, max_objects=0))(), by_hand, strict=True):
        masks = sum((one.mask.astype(int) for one in found), np.zeros((3, 4), int))
        assert (masks == (np.array(expected).reshape(3, 4) > 0)).all()


def test_a_head_that_does_not_fit_is_refused():
    features = PatchFeatures(torch.zeros(1, 4, 5), (2, 2), [(2, 2)])
    assert "dimension 6, but these have 5" in refusal(discover, features, HeadConfig(made_up_head(6)))
    assert "needs a head" in refusal(discover, features, HeadConfig())


@pytest.mark.parametrize(
    "changes", [{"weight": ()}, {"bias": float("nan")}, {"weight": (1.0, float("inf"))}, {"weight": (1e308,)}]
)
def test_a_head_of_other_numbers_is_refused(changes):
    refusal(made_up_head, 3, **changes)


def test_the_digest_is_of_what_the_head_finds_and_not_of_how_it_came_about():
    head = made_up_head(3, trained_on={"images": 5})
    assert replace(head, trained_on={}).digest == head.digest
    others = ({"bias": 0.2}, {"weight": head.weight[::-1]}, {"backbone": "other"})
    assert len({head.digest, *(replace(head, **one).digest for one in others)}) == 4
    assert head.recorded()["trained_on"] == {"images": 5} and "weight" not in head.recorded()
