"""The automatic bias: against exact Otsu by NumPy, in cases worked out by hand, and in properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lost_reg.discovery import otsu
from lost_reg.discovery.bias import otsu_bias
from lost_reg.discovery.otsu import affinity_thresholds


def exact_threshold(features: torch.Tensor) -> float:
    """Otsu's threshold by its definition, from the means and weights of the two groups."""
    affinities = (features.double() @ features.double().T).numpy()
    values = np.unique(np.round(affinities[np.triu_indices(len(affinities), 1)], 9))
    groups = affinities[np.triu_indices(len(affinities), 1)]
    middles = (values[1:] + values[:-1]) / 2
    between = []
    for middle in middles:
        above = groups > middle
        between.append(above.mean() * (~above).mean() * (groups[above].mean() - groups[~above].mean()) ** 2)
    return float(middles[np.argmax(between)])


def grouped_features(seed: int, patches: int = 40, groups: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randn(groups, 16, generator=random)
    chosen = kinds[torch.randint(0, groups, (patches,), generator=random)]
    return chosen + 0.4 * torch.randn(patches, 16, generator=random)


@pytest.mark.parametrize("largest_sort", [2**22, 60])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_exact_also_with_patches_of_large_norm(seed, largest_sort, monkeypatch):
    monkeypatch.setattr(otsu, "AFFINITIES_SORTED_AT_ONCE", largest_sort)
    features = grouped_features(seed)
    features[: seed % 3] *= 10.0**seed
    assert otsu_bias(features[None])[0].item() == pytest.approx(-exact_threshold(features), rel=1e-5)


@pytest.mark.parametrize("norm", [0, 1, 20, 22, 1e3, 1e6])
def test_an_orthogonal_patch_of_any_norm_changes_nothing(norm):
    # of length 1: affinities 1 within a kind, -0.6 across, and 0 to the odd patch
    kinds = [[1.0, 0.0, 0.0]] * 10 + [[-0.6, 0.8, 0.0]] * 14
    features = torch.tensor([*kinds, [0.0, 0.0, norm]])
    assert otsu_bias(features[None])[0].item() == pytest.approx(-0.5)  # between 0 and 1


@pytest.mark.parametrize("largest_sort", [2**22, 4])
def test_two_kinds_of_patches_are_split_half_way(largest_sort, monkeypatch):
    monkeypatch.setattr(otsu, "AFFINITIES_SORTED_AT_ONCE", largest_sort)
    features = torch.tensor([[1.0, 0.0]] * 3 + [[-0.6, 0.8]] * 4)
    assert otsu_bias(features[None])[0].item() == pytest.approx(-0.2, abs=1e-6)


@given(st.integers(0, 2**16), st.sampled_from([5, 30, 200]), st.sampled_from([1, 7, 100]))
@settings(max_examples=60, deadline=None)
def test_narrowing_down_a_histogram_finds_what_sorting_all_finds(seed, patches, sorted_at_once):
    features = grouped_features(seed, patches)
    features[seed % patches] *= 1 + seed % 1000
    whole = affinity_thresholds(features[None])[0].item()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otsu, "AFFINITIES_SORTED_AT_ONCE", sorted_at_once)
        narrowed = affinity_thresholds(features[None])[0].item()
    assert narrowed == pytest.approx(whole, rel=1e-5, abs=1e-5)


def test_it_scales_with_the_affinities_and_images_do_not_disturb_one_another():
    features = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([otsu_bias(image[None]) for image in features])
    assert torch.equal(otsu_bias(features), alone)
    assert torch.allclose(otsu_bias(4 * features), 16 * alone)


@pytest.mark.parametrize("largest_sort", [2**22, 4])
@pytest.mark.parametrize("features", [torch.ones(1, 5, 3), torch.zeros(1, 5, 3), torch.ones(1, 1, 3)])
def test_affinities_that_are_all_alike_get_no_bias(features, largest_sort, monkeypatch):
    monkeypatch.setattr(otsu, "AFFINITIES_SORTED_AT_ONCE", largest_sort)
    assert otsu_bias(features).tolist() == [0.0]


def test_affinities_that_differ_by_rounding_alone_get_no_bias():
    directions = torch.nn.functional.normalize(torch.full((1, 50, 3), 0.1), dim=2)
    directions[0, ::2] *= 1 + 2e-7
    assert otsu_bias(directions).tolist() == [0.0]


def test_of_two_equal_splits_the_threshold_is_in_the_first():
    """Of two values each of 0, 1 and 2, with edges beside and between them."""
    below, sums = torch.tensor([0, 2, 2, 4, 4, 6]), torch.tensor([0.0, 0, 0, 2, 2, 6])
    histogram = otsu._Histogram(torch.arange(6) / 2, below, sums, 6, torch.tensor(6.0))
    assert otsu._split_at_edge(histogram).item() == 0.75  # not 1.25, among the values that are 1
