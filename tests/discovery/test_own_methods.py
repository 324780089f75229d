"""The two rules of this project, lost-rim and spread, against plain implementations."""

import cut_oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.grids import nearness_to_centre, rim
from lost_reg.discovery.lost_rim import BIASES, LostRimConfig, elected
from lost_reg.discovery.methods import METHODS
from lost_reg.discovery.otsu import affinity_thresholds, otsu_split
from lost_reg.discovery.spread import SpreadConfig, correlations, sound_patches, spread_maps
from lost_reg.errors import LostRegError

GRID = (9, 11)


def scenes(count: int, seed: int = 0, parts: int = 1) -> PatchFeatures:
    """A background, and a rectangle of patches of another kind, off the rim."""
    rng = np.random.default_rng(seed)
    values, attention = [], []
    for _ in range(count):
        mask = np.zeros(GRID, bool)
        top, left = rng.integers(1, 5), rng.integers(1, 6)
        mask[top : top + rng.integers(2, 4), left : left + rng.integers(2, 5)] = True
        centres = rng.normal(size=(2, 16 * parts)) + 1.5
        values.append(centres[mask.ravel().astype(int)] + 0.4 * rng.normal(size=(mask.size, 16 * parts)))
        attention.append(np.where(mask.ravel(), 3.0, 1.0) * rng.uniform(0.5, 1.5, mask.size) / 200)
    joined = torch.tensor(np.array(values), dtype=torch.float32)
    norms = torch.stack([one.norm(dim=2) for one in joined.chunk(parts, dim=2)], dim=1)
    return PatchFeatures(
        joined, GRID, [tuple(map(float, GRID))] * count, parts, norms,
        torch.tensor(np.array(attention), dtype=torch.float32)[:, None],
    )  # fmt: skip


def plain_lost_rim(features: np.ndarray, share: float) -> tuple:
    """Its box, in loops over the seeds."""
    units = cut_oracle.unit(features - features.mean(axis=0))
    affinities, outer = units @ units.T, rim(GRID, bottom=False)
    degrees = np.zeros(len(units))
    for bias in BIASES:
        similar = affinities > -bias
        degrees += similar[:, outer].sum(axis=1) - similar.sum(axis=1) / (2 * len(units))
    seeds = np.argsort(degrees, kind="stable")[: max(1, round(share * len(units)))]
    boxes = []
    for seed in seeds:
        joined = [other for other in seeds if affinities[seed, other] > 0 or other == seed]
        expanded = affinities[joined].mean(axis=0)
        mask = expanded > (expanded[outer].mean() + expanded.max()) / 2
        mask[seed] = True
        boxes.append(cut_oracle.box_of(cut_oracle.component(mask.reshape(GRID), divmod(seed, GRID[1]))))
    agreement = [sum(plain_iou(one, other) for other in boxes) for one in boxes]
    return boxes[int(np.argmax(agreement))]


def plain_iou(one: tuple, other: tuple) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_lost_rim_is_its_plain_implementation(share):
    features = scenes(25)
    found = METHODS["lost-rim"].discover(features, LostRimConfig(share))()
    for image, (one,) in zip(features.values.double().numpy(), found):
        assert one.box_xyxy == plain_lost_rim(image, share)
        assert one.mask[one.seed] and cut_oracle.box_of(one.mask) == one.box_xyxy
        assert one.details == {"seeds": max(1, round(share * 99))}


def test_the_box_that_most_others_agree_with_is_elected():
    masks = np.zeros((4, 5, 5), bool)
    masks[0, 0, 0] = True
    masks[1, 1:4, 1:4] = masks[2, 1:4, 1:5] = masks[3, 2:4, 1:4] = True
    one = elected([0, 6, 6, 11], masks)
    assert one.box_xyxy == (1, 1, 4, 4) and one.seed == (1, 1)
    assert one.score == pytest.approx((1 + 9 / 12 + 6 / 9) / 4, abs=1e-4)


def test_spread_finds_the_rectangle():
    features = scenes(30, parts=3)
    found = METHODS["spread"].discover(features, SpreadConfig())()
    inside = [one.mask[one.seed] for (one,) in found]
    assert all(inside)
    truth = features.attention[:, 0].reshape(-1, *GRID).numpy() > 0.0076  # only the object's reach it
    assert np.mean([(one.mask & mask).sum() >= 0.8 * mask.sum() for (one,), mask in zip(found, truth)]) > 0.9


@pytest.mark.parametrize("parts", [1, 3])
def test_spread_is_the_mean_prior_of_similar_patches(parts):
    """Each part has a graph and an unlikeness to the rim of its own."""
    features = scenes(4, parts=parts)
    maps = spread_maps(features)
    for image in range(4):
        attention = features.attention[image, 0].double().numpy()
        places = standardised(nearness_to_centre(GRID)) + standardised(attention)
        prior, spread = places.copy(), np.zeros(len(places))
        for part in np.split(features.values[image].double().numpy(), parts, axis=1):
            units = cut_oracle.unit(part)
            away = standardised(-units @ units[rim(GRID)].mean(axis=0))
            tau = float(affinity_thresholds(torch.tensor(units)[None])[0])
            similar = (units @ units.T > tau) | np.eye(len(units), dtype=bool)
            prior += away / parts
            spread += standardised(similar @ (places + away) / similar.sum(axis=1))
        assert maps.prior[image].numpy() == pytest.approx(prior, abs=1e-4)
        assert maps.spread[image].numpy() == pytest.approx(spread, abs=1e-3)


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_the_component_that_correlates_most_with_the_prior_is_chosen():
    rng = np.random.default_rng(0)
    prior, labels = rng.normal(size=GRID), rng.integers(0, 4, GRID)
    expected = [np.corrcoef((labels == one).ravel(), prior.ravel())[0, 1] for one in (1, 2, 3)]
    assert correlations(labels, prior).tolist() == pytest.approx(expected)
    assert correlations(np.ones(GRID, int), prior).tolist() == [0.0]
    assert correlations(labels, np.ones(GRID)).tolist() == [0.0] * 3


def test_artifacts_take_no_part():
    clean, planted = scenes(12, parts=3), scenes(12, parts=3)
    bad = [13, 40, 41, 77]
    planted.values[:, bad] = 10 * planted.values.norm(dim=2).median() / 48**0.5
    planted.norms[:, :, bad] *= 10
    planted.attention[:, :, bad] = 1.0
    sound = sound_patches(planted)
    assert (sound == 0).nonzero()[:, 1].reshape(12, 4).tolist() == [bad] * 12
    pairs = zip(*(METHODS["spread"].discover(one, SpreadConfig())() for one in (clean, planted)))
    same = [plain_iou(one.box_xyxy, other.box_xyxy) for (one,), (other,) in pairs]
    assert np.mean(same) > 0.85


def test_spread_works_without_attention_and_without_structure():
    features = scenes(5)
    without = PatchFeatures(features.values, GRID, features.extents_hw)
    assert all(len(found) == 1 for found in METHODS["spread"].discover(without, SpreadConfig())())
    flat = PatchFeatures(torch.zeros(1, 99, 8), GRID, [GRID])
    ((one,),) = METHODS["spread"].discover(flat, SpreadConfig())()
    assert one.mask.any() and np.isfinite(one.score)


@pytest.mark.parametrize("grid_hw", [(1, 1), (1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("name", ["lost-rim", "spread", "tokencut", "maskcut"])
def test_grids_of_a_few_patches(name, grid_hw):
    values = torch.randn(2, grid_hw[0] * grid_hw[1], 6, generator=torch.Generator().manual_seed(0))
    method = METHODS[name]
    found = method.discover(PatchFeatures(values, grid_hw, [grid_hw] * 2), method.config())()
    assert all(one.mask.any() for objects in found for one in objects)


@given(hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-5, 5)))
def test_otsus_split_separates_the_two_groups_that_differ_most(values):
    at = float(otsu_split(torch.tensor(values)[None])[0])

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        if not len(low) or not len(high):
            return 0.0
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    assert between(at) == pytest.approx(max(map(between, values)), rel=1e-6, abs=1e-9)


def test_otsus_split_is_midway_between_the_groups():
    values = torch.tensor([[0.0, 1.0, 0.0, 1.0], [12.0, 0.0, 10.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    assert otsu_split(values).tolist() == [0.5, 5.5, 3.0]


def test_rim_and_centre():
    assert rim((3, 4)).reshape(3, 4).astype(int).tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert rim((3, 4), bottom=False).reshape(3, 4)[2].tolist() == [True, False, False, True]
    assert nearness_to_centre((1, 3)).tolist() == pytest.approx([1 / 3, 1, 1 / 3])


def test_an_impossible_share_is_refused():
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(LostRegError, match="share"):
            LostRimConfig(share)
