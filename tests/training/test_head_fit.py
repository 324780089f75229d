"""The arithmetic of a head, against plain least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.training.feature_cache import ImageFeatures
from lost_reg.training.head_fit import (
    Layer,
    covariance_with,
    in_chunks,
    moments,
    own_target,
    ridge,
    with_threshold,
)

CPU = torch.device("cpu")


def images_of(random: np.random.Generator, count: int, width: int) -> list[ImageFeatures]:
    """Images of different grids, whose channels have different scales and means."""
    scales, shifts = random.uniform(0.1, 10, width), random.uniform(-3, 3, width)
    images = []
    for number in range(count):
        rows, columns = (int(side) for side in random.integers(1, 6, 2))
        values = (random.normal(size=(rows * columns, width)) * scales + shifts).astype(np.float32)
        images.append(ImageFeatures(f"{number}.jpg", values, (rows, columns), (1.0, 1.0)))
    return images


def targets_of(random: np.random.Generator, images: list[ImageFeatures]) -> dict[str, np.ndarray]:
    return {one.image: random.random(one.grid_hw) < 0.4 for one in images}


def by_name(targets):
    return lambda chunk: [targets[one.image] for one in chunk.images]


def least_squares(images, targets, strength) -> np.ndarray:
    """By np.linalg.lstsq: a row for each patch, weighted by one over its image's patches; no shared code."""
    weights = np.concatenate([np.full(len(one.values), 1 / len(one.values) / len(images)) for one in images])
    values = np.concatenate([one.values for one in images]).astype(float)
    wanted = np.concatenate([targets[one.image].ravel() for one in images]).astype(float)
    mean, middle = weights @ values, weights @ wanted
    deviation = np.sqrt(weights @ (values - mean) ** 2)
    rows = np.sqrt(weights)[:, None] * (values - mean) / deviation
    rows = np.concatenate([rows, np.sqrt(strength) * np.eye(values.shape[1])])
    goal = np.concatenate([np.sqrt(weights) * (wanted - middle), np.zeros(values.shape[1])])
    return np.linalg.lstsq(rows, goal, rcond=None)[0] / deviation


@given(seed=st.integers(0, 10**6), count=st.integers(5, 40), strength=st.sampled_from([0.01, 1.0, 30.0]))
def test_the_weight_is_that_of_weighted_ridge_regression(seed, count, strength):
    random = np.random.default_rng(seed)
    images = images_of(random, count, 4)
    targets = targets_of(random, images)
    of_features = moments(images, CPU)
    covariance = covariance_with(images, by_name(targets), of_features)
    weight = ridge(of_features, covariance, strength).numpy()
    expected = least_squares(images, targets, strength)
    assert np.abs(weight - expected).max() < 1e-3 * np.abs(expected).max() + 1e-7


def test_a_constant_channel_gets_no_weight():
    random = np.random.default_rng(0)
    images = images_of(random, 6, 3)
    for one in images:
        one.values[:, 1] = 7.5
    targets = targets_of(random, images)
    of_features = moments(images, CPU)
    weight = ridge(of_features, covariance_with(images, by_name(targets), of_features), 1.0)
    assert torch.isfinite(weight).all() and abs(float(weight[1])) < 1e-6 < abs(float(weight[0]))


def test_zero_is_the_mean_of_the_thresholds_that_divide_each_image():
    grids = [np.array([[0, 0, 0, 1.0]], np.float32), np.array([[2, 2], [6, 6]], np.float32)]
    images = [ImageFeatures("", one.reshape(-1, 1), one.shape, (1.0, 1.0)) for one in grids]
    layer = with_threshold(torch.ones(1, dtype=torch.float64), images)
    assert layer.bias == pytest.approx(-(0.5 + 4) / 2)
    (chunk,) = in_chunks(images, CPU)
    assert np.allclose(chunk.on_grids(layer.objectness(chunk.values))[1], grids[1] - 2.25)


def test_the_own_target_is_the_first_object():
    grid = np.array([[1, 1, 0, 5.0], [0, 0, 0, 0]], np.float32)
    features = ImageFeatures("", grid.reshape(-1, 1), grid.shape, (1.0, 1.0))
    layer = Layer(torch.ones(1, dtype=torch.float64), -0.5)
    (chunk,) = in_chunks([features], CPU)
    (mask,) = own_target(layer)(chunk)
    assert mask.tolist() == [[False, False, False, True], [False] * 4]
    assert not own_target(Layer(layer.weight, -9.0))(chunk)[0].any()
