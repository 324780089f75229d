"""The second eigenvector of a normalised cut, against LAPACK's dense solver."""

import numpy as np
import pytest
import torch
from cut_oracle import EPS, second_eigenpair
from hypothesis import given, settings
from hypothesis import strategies as st

from lost_reg.discovery import normalized_cut
from lost_reg.discovery.normalized_cut import RESIDUAL, binary_graph, graph_bytes, second_eigenvectors
from lost_reg.discovery.tokencut import eigenvectors_of, unit_features


def clustered(
    images: int, patches: int, width: int = 32, clusters: int = 3, noise: float = 0.6, seed: int = 0
):
    """(B, N, D) unit features of patches in a few noisy clusters of different size."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(images, clusters, width, generator=generator)
    shares = torch.rand(images, clusters, generator=generator) + 0.2
    of_patches = torch.multinomial(shares, patches, replacement=True, generator=generator)
    features = centres.gather(1, of_patches[:, :, None].expand(-1, -1, width))
    return unit_features(features + noise * torch.randn(images, patches, width, generator=generator))


def solve(features: torch.Tensor, tau: float):
    return second_eigenvectors(binary_graph(features, torch.full((len(features),), tau), EPS))


@pytest.mark.parametrize("tau", [-0.2, 0.1, 0.2, 0.5, 0.8])
def test_it_is_the_second_eigenvector(tau):
    features = clustered(6, 90)
    found = solve(features, tau)
    assert (found.residuals <= RESIDUAL).all()
    for image in range(6):
        vector, value, gap = second_eigenpair(features[image].double().numpy(), tau)
        assert found.values[image].item() == pytest.approx(value, abs=1e-9)
        if gap > 1e-7:
            mine = found.vectors[image].double().numpy()
            cosine = mine @ vector / np.linalg.norm(mine) / np.linalg.norm(vector)
            assert abs(cosine) > 1 - 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.floats(-0.5, 0.9), st.integers(0, 1000))
def test_it_has_the_second_smallest_eigenvalue_of_any_graph(patches, tau, seed):
    features = clustered(1, patches, width=4, seed=seed)
    cosines = (features[0] @ features[0].T).numpy().astype(float)
    if np.abs(cosines - tau).min() < 1e-6:
        return  # rounding decides a weight
    _, value, _ = second_eigenpair(features[0].double().numpy(), tau)
    found = solve(features, tau)
    assert torch.isfinite(found.vectors).all()
    assert found.values.item() == pytest.approx(value, abs=1e-8)


def test_an_image_does_not_depend_on_the_others():
    features = clustered(4, 60)
    together = eigenvectors_of(features, torch.full((4,), 0.2), EPS)
    for image in range(4):
        alone = eigenvectors_of(features[image : image + 1], torch.full((1,), 0.2), EPS)
        assert torch.equal(alone.vectors[0], together.vectors[image])


def test_the_batched_solver_agrees_with_one_at_a_time():
    features = clustered(5, 70)
    taus = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    batched = second_eigenvectors(binary_graph(features, taus, EPS))
    alone = eigenvectors_of(features, taus, EPS)
    assert (batched.residuals <= RESIDUAL).all()
    cosines = torch.nn.functional.cosine_similarity(batched.vectors, alone.vectors, dim=1)
    assert (cosines.abs() > 1 - 1e-9).all()


def test_where_all_patches_are_alike_nothing_is_found():
    found = solve(torch.ones(1, 12, 8) / 8**0.5, 0.2)
    assert not found.vectors.any() and not found.residuals.any()


def test_a_feature_of_zeros_is_similar_to_none_not_even_itself():
    features = clustered(1, 10)
    features[0, 3] = 0
    ones = binary_graph(features, torch.tensor([-0.5]), EPS).ones[0]
    expected = (features[0] @ features[0].T > -0.5).float()
    expected[3, 3] = 0
    assert torch.equal(ones.diagonal(), expected.diagonal())
    assert ones[3, 3] == 0 and ones.diagonal().sum() == 9


def test_weights_are_kept_in_float32_and_in_the_memory_that_is_stated(monkeypatch):
    graph = binary_graph(clustered(2, 50), torch.tensor([0.2, 0.3]), EPS)
    assert graph.ones.dtype == torch.float32 and graph.roots.dtype == torch.float64
    monkeypatch.setattr(normalized_cut, "AFFINITIES_AT_ONCE", 400)  # several rows at a time
    assert torch.equal(binary_graph(clustered(2, 50), torch.tensor([0.2, 0.3]), EPS).ones, graph.ones)
    assert graph_bytes(8, 5000) < 1.5 * 2**30


def test_degrees_near_zero_are_precise():
    """Patches that are similar to none have v near its mean, on which their side depends."""
    features = clustered(1, 80)
    features[0, :8] = 0
    vector, _, _ = second_eigenpair(features[0].double().numpy(), 0.2)
    mine = solve(features, 0.2).vectors[0].double().numpy()
    mine *= np.sign(mine @ vector) * np.linalg.norm(vector) / np.linalg.norm(mine)
    assert ((mine > mine.mean()) == (vector > vector.mean())).all()
    assert np.abs(mine - vector).max() < 1e-6 * np.abs(vector).max()
