"""Training linear heads: tasks that one can solve, the schedule, and trainings that are continued."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import refusal

from lost_reg.probing import dense_training
from lost_reg.probing.dense_heads import DepthHead, SegmentationHead, head_tokens, predictions
from lost_reg.probing.dense_options import PROTOCOLS
from lost_reg.probing.dense_training import TrainingViews, train
from lost_reg.probing.dense_views import Pixels, View
from lost_reg.training.checkpoints import CHECKPOINT_FILE
from lost_reg.training.feature_cache import FeatureCache, ImageFeatures

WIDTH, GRID, PATCH, IMAGES = 8, (4, 5), 10, 24


@pytest.fixture
def cache(tmp_path):
    """Random tokens, with a class token, whose every image has a depth and a class that its patches hide."""
    with FeatureCache(tmp_path / "features", 1e9) as cache:
        for number in range(IMAGES):
            values = np.random.default_rng(number).normal(size=(1 + 20, WIDTH)).astype(np.float32)
            cache.add(ImageFeatures(str(number), values, GRID, (40.0, 50.0)))
        yield cache


def centres() -> np.ndarray:
    """The pixel in the middle of each patch, of images of 40 x 50 pixels."""
    rows, columns = np.mgrid[:4, :5] * PATCH + PATCH // 2
    return (rows * 50 + columns).ravel().astype(np.int32)


def images_of(cache, label) -> TrainingViews:
    """Each image's labels at the middle of its patches. label: from (1 + N, D) tokens to (N,) labels."""
    names = [str(number) for number in range(IMAGES)]
    labels = [label(cache.get(name).values.astype(np.float32)).astype(np.float32) for name in names]
    return TrainingViews(
        cache, [View(name, name, None, None, Pixels(50, centres(), one)) for name, one in zip(names, labels)]
    )


def classes(tokens: np.ndarray) -> np.ndarray:
    return 1 + 2 * (tokens[1:, 3] > tokens[1:, 0])  # 1 or 3, of 4 classes


def depths(tokens: np.ndarray) -> np.ndarray:
    return 5 + np.tanh(tokens[1:, 2]) + 2 * np.tanh(tokens[0, 1])  # of the patch and of the class token


def found(head, images) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of all images."""
    pairs = []
    for view in images.views:
        pixels, tokens = view.pixels, torch.tensor(images.cache.get(view.name).values, dtype=torch.float32)
        with torch.inference_mode():
            outputs = head(head_tokens(tokens, 20, head))
            places = torch.tensor(pixels.places)
            pairs.append((predictions(head, outputs, GRID, (40.0, 50.0), places, 50), pixels.labels))
    return tuple(map(np.concatenate, zip(*pairs)))


def test_a_linear_segmentation_is_learned(cache, tmp_path):
    images, head = images_of(cache, classes), SegmentationHead(WIDTH, 4)
    train(head, images, replace(PROTOCOLS["segmentation"], steps=60, learning_rate=0.1), 0, tmp_path)
    predicted, labels = found(head, images)
    # where a patch's centre lies at a pixel's edge, its neighbours count a little
    assert (predicted == labels).mean() > 0.97
    assert not head.training


def test_a_depth_of_patch_and_class_token_is_learned(cache, tmp_path):
    images, protocol = images_of(cache, depths), replace(PROTOCOLS["depth"], steps=150, learning_rate=0.1)
    torch.manual_seed(0)
    errors = {}
    for class_token in (True, False):
        head = DepthHead(WIDTH, 10.0, class_token=class_token)
        train(head, images, protocol, 0, tmp_path / str(class_token))
        predicted, labels = found(head, images)
        errors[class_token] = np.sqrt(np.mean((predicted - labels) ** 2))
    spread = labels.std()
    assert errors[True] < 0.3 * spread < 0.7 * spread < errors[False]


def test_a_training_that_was_stopped_ends_at_the_same_weights(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(dense_training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    images, protocol = images_of(cache, classes), replace(PROTOCOLS["segmentation"], steps=12)

    def new() -> SegmentationHead:
        torch.manual_seed(0)
        return SegmentationHead(WIDTH, 4)

    whole, stopped, steps = new(), new(), []
    train(whole, images, protocol, 3, tmp_path / "whole")

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, images, protocol, 3, tmp_path / "stopped", stop)
    continued = new()
    train(continued, images, protocol, 3, tmp_path / "stopped", lambda done, total: steps.append(done))
    assert steps == list(range(6, 13))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name
    other = new()
    train(other, images, protocol, 4, tmp_path / "other")
    assert not torch.equal(other.linear.weight, whole.linear.weight)


def test_what_cannot_be_continued(cache, tmp_path):
    images, protocol = images_of(cache, classes), replace(PROTOCOLS["segmentation"], steps=2)
    train(SegmentationHead(WIDTH, 4), images, protocol, 0, tmp_path)
    other = SegmentationHead(WIDTH, 5)
    assert "is not of this training: delete it" in refusal(train, other, images, protocol, 0, tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"?")
    assert "is damaged" in refusal(train, other, images, protocol, 0, tmp_path)


def test_a_loss_that_is_not_finite_is_refused(cache, tmp_path):
    protocol = replace(PROTOCOLS["segmentation"], steps=50, learning_rate=1e38)
    head = SegmentationHead(WIDTH, 4)
    text = refusal(train, head, images_of(cache, classes), protocol, 0, tmp_path)
    assert "not finite" in text and "lower the `learning_rate`" in text


def test_the_schedules_are_those_of_dinov2():
    segmentation, depth = PROTOCOLS["segmentation"], PROTOCOLS["depth"]
    assert segmentation.rate(0, 40_000) == pytest.approx(1e-6)
    assert segmentation.rate(750, 40_000) == pytest.approx(0.5 * (1 - 750 / 40_000), rel=1e-3)
    assert segmentation.rate(20_000, 40_000) == pytest.approx(0.5)
    assert segmentation.rate(39_999, 40_000) == pytest.approx(1 / 40_000)
    assert depth.rate(0, 38_400) == pytest.approx(1e-3)
    assert depth.rate(6_400, 38_400) == pytest.approx(0.5005 * (1 + np.cos(np.pi / 6)) / 2)
    assert depth.rate(19_200, 38_400) == pytest.approx(0.5)
    assert depth.rate(75, 100) == pytest.approx((1 + np.cos(0.75 * np.pi)) / 2)  # as of any number of steps
