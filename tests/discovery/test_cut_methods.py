"""TokenCut and MaskCut, against plain implementations with a dense eigensolver."""

import cut_oracle
import numpy as np
import pytest
import torch

from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.maskcut import MaskCutConfig, _Search
from lost_reg.discovery.method import PatchObject
from lost_reg.discovery.methods import METHODS
from lost_reg.discovery.tokencut import TokenCutConfig
from lost_reg.errors import LostRegError

GRID = (9, 12)


def scenes(count: int, objects: int = 1, seed: int = 0) -> torch.Tensor:
    """(B, N, D) features: a background, and rectangles of patches with features of their own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        centres = rng.normal(size=(objects + 1, 24))
        labels = np.zeros(GRID, int)
        for one in range(1, objects + 1):
            top, left = rng.integers(0, GRID[0] - 3), rng.integers(0, GRID[1] - 3)
            labels[top : top + rng.integers(2, 6), left : left + rng.integers(2, 6)] = one
        made.append(centres[labels.ravel()] + 0.7 * rng.normal(size=(labels.size, 24)))
    return torch.tensor(np.array(made), dtype=torch.float32)


def found_by(name: str, values: torch.Tensor, config) -> list:
    features = PatchFeatures(values, GRID, [tuple(map(float, GRID))] * len(values))
    return METHODS[name].discover(features, config)()


@pytest.mark.parametrize("tau", [0.1, 0.2, 0.4])
def test_tokencut_is_that_of_a_dense_eigensolver(tau):
    values = scenes(40)
    for image, (one,) in zip(values, found_by("tokencut", values, TokenCutConfig(tau=tau))):
        mask, seed = cut_oracle.tokencut(image.double().numpy(), GRID, tau)
        assert one.seed == seed
        assert (one.mask == mask).all()
        assert one.box_xyxy == cut_oracle.box_of(mask)
        _, eigenvalue, _ = cut_oracle.second_eigenpair(image.double().numpy(), tau)
        assert one.details["eigenvalue"] == pytest.approx(eigenvalue, abs=1e-4)
        assert one.details["tau"] == pytest.approx(tau)


def test_the_score_is_the_mean_cosine_to_the_seed():
    values = scenes(5)
    for image, (one,) in zip(values, found_by("tokencut", values, TokenCutConfig())):
        units = cut_oracle.unit(image.double().numpy())
        cosines = units @ units[one.seed[0] * GRID[1] + one.seed[1]]
        assert one.score == pytest.approx(cosines[one.mask.ravel()].mean(), abs=1e-4)


def test_auto_is_otsus_threshold_of_the_cosines():
    values = scenes(6)
    for image, (one,) in zip(values, found_by("tokencut", values, TokenCutConfig(tau="auto"))):
        units = cut_oracle.unit(image.double().numpy())
        cosines = (units @ units.T)[~np.eye(len(units), dtype=bool)]
        candidates = np.linspace(-1, 1, 401)[1:-1]
        between = [
            (cosines > at).mean()
            * (cosines <= at).mean()
            * (cosines[cosines > at].mean() - cosines[cosines <= at].mean()) ** 2
            if 0 < (cosines > at).mean() < 1
            else 0.0
            for at in candidates
        ]
        assert one.details["tau"] == pytest.approx(candidates[int(np.argmax(between))], abs=0.03)


def test_without_structure_the_object_is_the_whole_image():
    for name, config in (("tokencut", TokenCutConfig()), ("maskcut", MaskCutConfig(max_objects=1))):
        ((one,),) = found_by(name, torch.ones(1, GRID[0] * GRID[1], 4), config)
        assert one.box_xyxy == (0, 0, GRID[1], GRID[0])


@pytest.mark.parametrize("objects", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.15, 0.3])
def test_maskcut_is_that_of_a_dense_eigensolver(objects, tau):
    values = scenes(12, objects)
    for image, found in zip(values, found_by("maskcut", values, MaskCutConfig(tau=tau, max_objects=3))):
        expected = cut_oracle.maskcut(image.double().numpy(), GRID, tau, 3)
        assert len(found) == len(expected)
        for one, mask in zip(found, expected):
            assert (one.mask == mask).all()
            assert one.box_xyxy == cut_oracle.box_of(mask)


def test_masks_of_maskcut_do_not_overlap():
    for found in found_by("maskcut", scenes(8, 3), MaskCutConfig(max_objects=0)):
        assert sum(one.mask.astype(int) for one in found).max() == 1


def test_maskcut_goes_on_until_nothing_is_left():
    values = scenes(8, 5)
    few = found_by("maskcut", values, MaskCutConfig(max_objects=2))
    most = found_by("maskcut", values, MaskCutConfig(max_objects=0))
    for some, found in zip(few, most):
        assert [one.box_xyxy for one in found[: len(some)]] == [one.box_xyxy for one in some]
    assert max(map(len, most)) > 2 and all(len(found) < 9 for found in most)


def test_a_second_mask_of_a_hundredth_of_the_patches_is_dropped():
    search = _Search((10, 10))
    tiny, small, large = (np.zeros((10, 10), bool) for _ in range(3))
    tiny[0, 0] = small[5, 5:7] = large[1:3, 1:5] = True
    kept = [search.add(PatchObject((0, 0, 1, 1), (0, 0), mask=mask)) for mask in (tiny, large, tiny, small)]
    assert kept == [True, True, False, True]  # the first is kept, however small
    assert [one.box_xyxy for one in search.objects] == [(0, 0, 1, 1), (1, 1, 5, 3), (5, 5, 7, 6)]


def test_a_mask_like_the_one_before_is_dropped():
    search = _Search((10, 10))
    one, alike = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    one[2:6, 2:6] = alike[2:6, 2:7] = True
    objects = [PatchObject((0, 0, 1, 1), (2, 2), mask=mask) for mask in (one, alike, alike)]
    # the third is compared with the emptied mask, as in MaskCut's code; it keeps what is new in it
    assert [search.add(each) for each in objects] == [True, False, True]
    assert [each.box_xyxy for each in search.objects] == [(2, 2, 6, 6), (6, 2, 7, 6)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dict(tau=2.0), "tau"),
        (dict(tau="car"), "tau"),
        (dict(eps=0.0), "eps"),
        (dict(eps=float("nan")), "eps"),
    ],
)
def test_impossible_options_are_refused(config, words):
    for kind in (TokenCutConfig, MaskCutConfig):
        with pytest.raises(LostRegError, match=words):
            kind(**config)
