"""Degrees and cosines: counted in blocks of rows, at several biases, and finite whatever the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lost_cases import same

from lost_reg.discovery import affinities
from lost_reg.discovery.affinities import (
    affinity_bytes,
    degrees_at_biases,
    patch_degrees,
    positive_shares,
    seed_cosines,
)
from lost_reg.discovery.lost import lost


@pytest.mark.parametrize("remaining_share", [None, 0.6])
def test_degrees_are_those_of_a_plain_gram_matrix(remaining_share):
    random = np.random.default_rng(0)
    features = random.integers(-3, 4, (5, 24, 4)).astype(np.float32)
    biases = random.integers(-4, 4, 5).astype(np.float32)
    remaining = random.random((5, 24)) < (remaining_share or 1)
    positive = features @ features.swapaxes(1, 2) + biases[:, None, None] > 0  # (5, 24, 24)
    positive &= remaining[:, None, :] & ~np.eye(24, dtype=bool)
    given = None if remaining_share is None else torch.from_numpy(remaining)
    found = patch_degrees(torch.from_numpy(features), torch.from_numpy(biases), given)
    assert found.dtype == torch.int64 and found.tolist() == positive.sum(axis=2).tolist()


@pytest.mark.parametrize("remaining_share", [None, 0.6])
def test_positive_shares_are_those_of_a_plain_gram_matrix(remaining_share):
    random = np.random.default_rng(1)
    features = random.integers(-3, 4, (5, 24, 4)).astype(np.float32)
    kept = random.random((5, 24)) < (remaining_share or 1)
    expected = []
    for image, left in zip(features, kept):
        gram = image[left] @ image[left].T
        expected.append((gram > 0)[~np.eye(len(gram), dtype=bool)].mean())
    remaining = None if remaining_share is None else torch.from_numpy(kept)
    degrees = patch_degrees(torch.from_numpy(features), None, remaining)
    assert positive_shares(degrees, remaining).tolist() == pytest.approx(expected, rel=1e-6)


def test_fewer_than_two_patches_have_no_positive_affinity():
    assert positive_shares(torch.zeros(1, 1, dtype=torch.int64)).tolist() == [0]
    remaining = torch.tensor([[False, True, False], [False] * 3])
    assert positive_shares(torch.tensor([[1, 0, 1], [0, 0, 0]]), remaining).tolist() == [0, 0]


def test_no_bias_is_a_bias_of_zero():
    features = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(4))
    assert torch.equal(patch_degrees(features, None), patch_degrees(features, torch.zeros(2)))


@pytest.mark.parametrize("affinities_at_once", [1, 3 * 20 * 7, 3 * 20 * 19])
def test_degrees_counted_in_blocks_of_rows_are_the_same(monkeypatch, affinities_at_once):
    """1, 7 and 19 of 20 rows at once: whole blocks and a rest."""
    features = torch.randint(-3, 4, (3, 20, 4), generator=torch.Generator().manual_seed(4)).float()
    bias = torch.tensor([0.0, -2.0, 1.0])
    degrees, found = patch_degrees(features, bias), lost(features, (4, 5), bias=bias)
    monkeypatch.setattr(affinities, "AFFINITIES_AT_ONCE", affinities_at_once)
    assert torch.equal(patch_degrees(features, bias), degrees)
    assert same(lost(features, (4, 5), bias=bias), found)


@pytest.mark.parametrize("affinities_at_once", [1, 420, 2**25])
def test_degrees_at_several_biases_are_those_at_each(monkeypatch, affinities_at_once):
    monkeypatch.setattr(affinities, "AFFINITIES_AT_ONCE", affinities_at_once)
    features = torch.randint(-3, 4, (3, 20, 4), generator=torch.Generator().manual_seed(4)).float()
    biases = torch.tensor([[-2.0, 0.0, 1.5], [3.0, -1.0, 0.0], [0.0, 0.0, -100.0]])
    found = degrees_at_biases(features, biases)
    assert found.shape == (3, 3, 20) and found.dtype == torch.int64
    for index in range(3):
        assert torch.equal(found[:, index], patch_degrees(features, biases[:, index]))
    assert not found[2, 2].any()


def test_degrees_are_held_in_blocks_of_bounded_size(monkeypatch):
    """Memory grows with N, not with N squared."""
    monkeypatch.setattr(affinities, "AFFINITIES_AT_ONCE", 2 * 30 * 4)
    sizes = []
    product = torch.Tensor.__matmul__

    def measured(left, right):
        result = product(left, right)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(torch.Tensor, "__matmul__", measured)
    patch_degrees(torch.ones(2, 30, 3), torch.zeros(2))
    assert sizes and max(sizes) <= 2 * 30 * 4


def test_memory_for_affinities_is_bounded_until_single_rows_exceed_the_bound():
    one, many = affinity_bytes(1, 100), affinity_bytes(4, 100)
    assert many == 4 * one > 4 * 100**2 * 4  # bytes of float32
    assert affinity_bytes(8, 10_000) < 1.02 * affinity_bytes(1, 10_000)
    most = 4 * affinities.AFFINITIES_AT_ONCE
    assert affinity_bytes(2, most) == 2 * affinity_bytes(1, most)


def test_no_rounding_takes_a_cosine_beyond_one():
    features = torch.randn(200, 1, 7, generator=torch.Generator().manual_seed(0))
    alike = torch.cat([features, -features, 3 * features], dim=1)  # (200, 3, 7)
    found = seed_cosines(alike, torch.zeros(200, dtype=torch.int64))
    unclamped = torch.linalg.vecdot(features, features) / features.norm(dim=2) ** 2
    assert unclamped.max() > 1  # rounding does happen
    assert found.max() == 1 and found.min() == -1 and found.abs().min() > 0.999


def test_cosines_do_not_depend_on_scale_and_are_finite_whatever_the_features():
    random = torch.Generator().manual_seed(1)
    features = torch.randn(2, 12, 5, generator=random)
    seeds = torch.tensor([3, 0])
    expected = seed_cosines(features, seeds)
    assert torch.allclose(seed_cosines(features * torch.rand(2, 12, 1, generator=random), seeds), expected)
    assert expected[[0, 1], seeds].tolist() == pytest.approx([1, 1]) and expected.abs().max() <= 1
    features[0, 4] = 0
    features[1, 0] = 1e30  # its square is more than float32 holds
    found = seed_cosines(features, seeds)
    assert found.isfinite().all() and found[0, 4] == 0 and not found[1].any()
    assert lost(torch.zeros(1, 12, 5), (3, 4)).affinities.tolist() == [0]
