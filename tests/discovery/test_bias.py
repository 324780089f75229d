"""The automatic bias: against scikit-image's Otsu, in cases worked out by hand, and in properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lost_reg.discovery import bias as bias_module
from lost_reg.discovery.bias import BINS, otsu_bias


def off_diagonal(features: torch.Tensor) -> np.ndarray:
    affinities = (features.double() @ features.double().T).numpy()
    return affinities[~np.eye(len(affinities), dtype=bool)]


def variance_between(values: np.ndarray, threshold: float) -> float:
    below, above = values[values <= threshold], values[values > threshold]
    if not len(below) or not len(above):
        return 0.0
    return len(below) * len(above) / len(values) ** 2 * (below.mean() - above.mean()) ** 2


@pytest.mark.parametrize("seed", range(8))
def test_no_threshold_splits_the_affinities_better(seed):
    random = torch.Generator().manual_seed(seed)
    groups = torch.randn(3, 16, generator=random)
    chosen = groups[torch.randint(0, 3, (40,), generator=random)]
    features = chosen + 0.4 * torch.randn(40, 16, generator=random)
    affinities = off_diagonal(features)
    best = max(variance_between(affinities, value) for value in affinities)
    assert variance_between(affinities, -otsu_bias(features[None])[0].item()) > 0.999 * best


def test_two_kinds_of_patches_are_split_half_way():
    # of length 1; affinities 1 within a kind and -0.6 across
    features = torch.tensor([[1.0, 0.0]] * 3 + [[-0.6, 0.8]] * 4)
    assert otsu_bias(features[None])[0].item() == pytest.approx(-0.2, abs=2 / BINS)


def test_it_scales_with_the_affinities_and_images_do_not_disturb_one_another():
    features = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([otsu_bias(image[None]) for image in features])
    assert torch.equal(otsu_bias(features), alone)
    assert torch.allclose(otsu_bias(4 * features), 16 * alone)


@pytest.mark.parametrize("features", [torch.ones(1, 5, 3), torch.zeros(1, 5, 3), torch.ones(1, 1, 3)])
def test_affinities_that_are_all_alike_get_no_bias(features):
    assert otsu_bias(features).tolist() == [0.0]


@pytest.mark.parametrize("at_once", [1, 4 * 2 * 20 * 7, 2**25])
def test_in_blocks_of_rows_it_is_the_same(monkeypatch, at_once):
    features = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    expected = otsu_bias(features)
    monkeypatch.setattr(bias_module, "AFFINITIES_AT_ONCE", at_once)
    assert torch.equal(otsu_bias(features), expected)
