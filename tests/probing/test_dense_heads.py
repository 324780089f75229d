"""Linear heads: interpolation, predictions, losses and outcomes, by hand and beside plain implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lost_reg.probing import dense_heads
from lost_reg.probing.dense_heads import DepthHead, SegmentationHead, at_pixels, head_tokens, predictions
from lost_reg.probing.dense_options import BINS
from lost_reg.probing.measures import value

RANDOM = np.random.default_rng(0)


def all_places(height: int, width: int, of_width: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (rows * of_width + columns).flatten()


def test_outputs_between_patches_by_hand():
    # two patches of 2 x 2 pixels: their centres are at 1 and 3
    found = at_pixels(torch.tensor([[0.0], [1.0]]), (1, 2), (2.0, 4.0), torch.arange(8), 4)
    assert found[:, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1] * 2)


def test_outputs_at_pixels_are_those_of_interpolate():
    outputs = torch.randn(3 * 4, 5, generator=torch.Generator().manual_seed(1))
    image = F.interpolate(outputs.mT.view(1, 5, 3, 4), size=(42, 56), mode="bilinear")[0]
    found = at_pixels(outputs, (3, 4), (42.0, 56.0), all_places(42, 56, 56), 56)
    assert torch.allclose(found, image.flatten(1).mT, atol=1e-5)
    # an image of 40 x 50 pixels, which was padded to the same patches
    found = at_pixels(outputs, (3, 4), (42.0, 56.0), all_places(40, 50, 50), 50)
    assert torch.allclose(found, image[:, :40, :50].flatten(1).mT, atol=1e-5)


def test_predictions_in_parts_are_those_of_the_whole(monkeypatch):
    head, outputs = SegmentationHead(4, 5), torch.randn(12, 5)
    arguments = head, outputs, (3, 4), (42.0, 56.0), torch.arange(42 * 56), 56
    whole = predictions(*arguments)
    assert whole.shape == (42 * 56,) and len(np.unique(whole)) > 1
    monkeypatch.setattr(dense_heads, "_VALUES_AT_ONCE", 500)
    assert (predictions(*arguments) == whole).all()


def test_miou_by_hand():
    head = SegmentationHead(2, 4)
    truth, found = np.array([0, 0, 1, 1, 2], np.float32), np.array([0, 1, 1, 1, 1])
    row = head.outcome(found, truth)
    assert row.tolist() == [1, 2, 0, 0, 2, 4, 1, 0]  # intersections, then unions
    # of three classes that occur: 1/2, 2/4 and 0; the fourth does not count
    assert value("miou", row[None]) == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    # with an image of class 3 alone that is found: sums come before ratios
    rows = np.stack(
        [row, head.outcome(np.full(6, 3), np.full(6, 3.0)), head.outcome(np.zeros(2, int), np.zeros(2))]
    )
    assert value("miou", rows) == pytest.approx((3 / 4 + 2 / 4 + 0 + 1) / 4)


def test_miou_beside_plain_loops():
    classes, images = 6, 4
    head = SegmentationHead(2, classes)
    truths, founds = RANDOM.integers(classes - 1, size=(2, images, 300))
    rows = np.stack([head.outcome(found, truth.astype(np.float32)) for found, truth in zip(founds, truths)])
    shares = []
    for one in range(classes):
        both = sum(t == one and f == one for t, f in zip(truths.flat, founds.flat))
        either = sum(t == one or f == one for t, f in zip(truths.flat, founds.flat))
        shares += [both / either] if either else []
    assert value("miou", rows) == pytest.approx(np.mean(shares))


def test_rmse_by_hand():
    head = DepthHead(2, 10.0, class_token=False)
    first = head.outcome(np.array([1.0, 2.0], np.float32), np.array([2.0, 4.0], np.float32))
    second = head.outcome(np.array([5.0], np.float32), np.array([5.5], np.float32))
    assert first.tolist() == pytest.approx([math.sqrt((1 + 4) / 2)])
    # the mean over images, not the root over all pixels
    assert value("rmse", np.stack([first, second])) == pytest.approx((math.sqrt(2.5) + 0.5) / 2)


def test_depth_is_the_mean_of_evenly_spread_depths():
    head = DepthHead(2, 10.0, class_token=False)
    outputs = torch.full((3, BINS), -5.0)
    outputs[1, -1], outputs[2, 0] = 1e6, 1e6
    depths = head.predict(outputs)
    assert depths.tolist() == pytest.approx([(1e-3 + 10) / 2, 10, 1e-3], abs=2e-3)
    # as in AdaBins and DINOv2: cut off below 0, raised by 0.1, normalised, and the expectation
    random = torch.randn(4, BINS)
    weights = [[max(float(one), 0) + 0.1 for one in row] for row in random]
    bins = np.linspace(1e-3, 10, BINS)
    expected = [sum(w * b for w, b in zip(row, bins)) / sum(row) for row in weights]
    assert head.predict(random).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_depths_by_hand():
    class Given(DepthHead):
        def predict(self, outputs):
            return outputs[:, 0]

    head = Given(2, 10.0, class_token=False)
    labels = torch.tensor([1.0, 2.0]) - 1e-3
    outputs = torch.tensor([[math.e], [2.0]]) - 1e-3  # errors of the logarithms: 1 and 0
    assert float(head.loss(outputs, labels, 99)) == pytest.approx(math.sqrt(0.15 * 0.25), rel=1e-4)
    assert float(head.loss(outputs, labels, 100)) == pytest.approx(math.sqrt(0.5 + 0.15 * 0.25), rel=1e-4)


def test_patches_are_read_with_the_class_token_if_the_head_does():
    tokens = torch.arange(10.0).view(5, 2)  # a class token, two registers, two patches
    assert head_tokens(tokens, 2, SegmentationHead(2, 3)).tolist() == [[6, 7], [8, 9]]
    with_class = head_tokens(tokens, 2, DepthHead(2, 10.0, class_token=True))
    assert with_class.tolist() == [[6, 7, 0, 1], [8, 9, 0, 1]]
    assert DepthHead(2, 10.0, class_token=True)(with_class).shape == (2, BINS)
