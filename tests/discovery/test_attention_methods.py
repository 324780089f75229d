"""DINO-seg and FOUND's background rule, against plain implementations and by hand."""

import cut_oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.discovery.background import BackgroundConfig, head_weights
from lost_reg.discovery.dino_seg import CODE, MEAN, DinoSegConfig, attended
from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.methods import METHODS
from lost_reg.errors import LostRegError

GRID = (7, 9)
PATCHES = GRID[0] * GRID[1]


def batch(count: int = 20, heads: int = 3, width: int = 24, seed: int = 0) -> PatchFeatures:
    """Features and attention that are high in one rectangle of each image."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, *GRID, width)) + rng.normal(size=width)
    attention = rng.gamma(1.0, size=(count, heads, *GRID))
    for image in range(count):
        top, left = rng.integers(0, 4), rng.integers(0, 6)
        attention[image, :, top : top + 3, left : left + 3] *= 6
        values[image, top : top + 3, left : left + 3] -= 2 * values[image, 0, 0]
    attention /= 1.1 * attention.sum(axis=(2, 3), keepdims=True)
    return PatchFeatures(
        torch.tensor(values.reshape(count, PATCHES, width), dtype=torch.float32),
        GRID,
        [tuple(map(float, GRID))] * count,
        attention=torch.tensor(attention.reshape(count, heads, PATCHES), dtype=torch.float32),
    )


def drawn(*rows: str, rule: str) -> tuple | None:
    """The box of patches with all the attention, drawn as 'o'."""
    weights = torch.tensor([[1.0 if char == "o" else 1e-6 for row in rows for char in row]])[:, None]
    grid_hw = len(rows), len(rows[0])
    features = PatchFeatures(torch.zeros(1, weights.shape[2], 4), grid_hw, [grid_hw], attention=weights)
    (found,) = METHODS["dino-seg"].discover(features, DinoSegConfig(attention_head=0, rule=rule, mass=0.99))()
    return found[0].box_xyxy if found else None


@pytest.mark.parametrize("head", [0, 2])
def test_dino_seg_is_that_of_the_papers(head):
    features = batch()
    plain = METHODS["dino-seg"].discover(features, DinoSegConfig(attention_head=head))()
    of_code = METHODS["dino-seg"].discover(features, DinoSegConfig(attention_head=head, rule=CODE))()
    differ = 0
    for image, ((one,), (quirky,)) in enumerate(zip(plain, of_code)):
        weights = features.attention[image, head].double().numpy()
        largest, of_script = cut_oracle.dino_seg_boxes(weights, GRID)
        assert one.box_xyxy == largest and quirky.box_xyxy == of_script
        assert one.mask[one.seed] and weights.reshape(GRID)[one.mask].max() == weights.reshape(GRID)[one.seed]
        assert one.score == pytest.approx(weights.reshape(GRID)[one.mask].sum() / weights.sum(), abs=1e-6)
        differ += largest != of_script
    assert 0 < differ < len(plain)


def test_the_mean_of_the_heads():
    features = batch()
    found = METHODS["dino-seg"].discover(features, DinoSegConfig(attention_head=MEAN))()
    for image, (one,) in enumerate(found):
        weights = features.attention[image].mean(dim=0).double().numpy()
        assert one.box_xyxy == cut_oracle.dino_seg_boxes(weights, GRID)[0]


def test_the_script_never_takes_the_last_component_and_boxes_the_background_of_a_single_one():
    two = ("o......", "....ooo", "....ooo")
    assert drawn(*two, rule="plain") == (4, 1, 7, 3)
    assert drawn(*two, rule="code") == (0, 0, 1, 1)
    one = (".......", "..oo...", ".......")
    assert drawn(*one, rule="plain") == (2, 1, 4, 2)
    assert drawn(*one, rule="code") == (0, 0, 7, 3)


def test_boxes_of_the_script_are_not_clipped_to_the_image():
    (one,) = METHODS["dino-seg"].discover(batch(1), DinoSegConfig(attention_head=0, rule=CODE))()[0]
    assert not one.clipped


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=30), st.floats(0.05, 0.95))
def test_the_mask_holds_the_mass_and_no_patch_too_many(weights, mass):
    attention = torch.tensor([weights], dtype=torch.float64)
    mask = attended(attention, mass)[0]
    kept = attention[0][mask]
    total = attention.sum()
    assert kept.sum() >= mass * total - 1e-9
    assert kept.sum() - kept.min() <= mass * total + 1e-9
    assert kept.min() >= attention[0][~mask].max() if (~mask).any() else True


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_the_background_is_founds(threshold):
    features = batch()
    found = METHODS["background"].discover(features, BackgroundConfig(threshold=threshold))()
    for image, objects in enumerate(found):
        background = cut_oracle.background_mask(
            features.values[image].double().numpy(), features.attention[image].double().numpy(), threshold
        ).reshape(GRID)
        if not objects:
            assert background.all()
            continue
        (one,) = objects
        assert not background[one.mask].any()
        assert (cut_oracle.component(~background, one.seed) == one.mask).all()
        assert one.box_xyxy == cut_oracle.box_of(one.mask)
    assert any(found)


def test_each_of_several_joined_facets_is_weighted_by_head():
    features = batch(5)
    twice = torch.cat([features.values, features.values], dim=2)
    joined = PatchFeatures(twice, GRID, features.extents_hw, 2, attention=features.attention)
    alone, both = (METHODS["background"].discover(one, BackgroundConfig())() for one in (features, joined))
    assert [[one.box_xyxy for one in found] for found in alone] == [
        [one.box_xyxy for one in found] for found in both
    ]


def test_a_head_that_attends_to_little_weighs_more():
    attention = torch.full((1, 2, 8), 0.01)
    attention[0, 0, :4] = 0.2  # half of the patches
    attention[0, 1, :1] = 0.2  # an eighth
    half, eighth = head_weights(attention)[0].tolist()
    assert half == pytest.approx(np.log((0.5 + 0.125) / 0.5), abs=1e-6)
    assert eighth == pytest.approx(np.log((0.5 + 0.125) / 0.125), abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        (DinoSegConfig, {"attention_head": -1}, "attention_head"),
        (DinoSegConfig, {"attention_head": "median"}, "attention_head"),
        (DinoSegConfig, {"mass": 0.0}, "mass"),
        (DinoSegConfig, {"rule": "other"}, "rule"),
        (BackgroundConfig, {"threshold": 1.5}, "threshold"),
    ],
)
def test_impossible_options_are_refused(kind, options, word):
    with pytest.raises(LostRegError, match=word):
        kind(**options)


def test_what_a_method_needs_and_does_not_get_is_said():
    features = batch(1)
    with pytest.raises(LostRegError, match="`attention_head` 3: the backbone has heads 0 to 2"):
        METHODS["dino-seg"].discover(features, DinoSegConfig(attention_head=3))
    without = PatchFeatures(features.values, GRID, features.extents_hw)
    with pytest.raises(LostRegError, match="class token"):
        METHODS["background"].discover(without, BackgroundConfig())
