"""Decoded images as a backbone gets them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.images.batching import DecodedImage


def test_images_are_normalised_by_channel_and_their_padding_is_zero():
    random = np.random.default_rng(0)
    backbone = load_backbone(
        lambda images: images, preprocessing=Preprocessing(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)), device="cpu"
    )
    sizes = [(16, 24), (13, 24), (16, 17), (9, 18)]
    batch = [
        DecodedImage(str(size), random.integers(0, 256, (16, 24, 3), dtype=np.uint8), size, (99, 99))
        for size in sizes
    ]
    found = normalized(batch, backbone)
    assert found.shape == (4, 3, 16, 24) and found.dtype == torch.float32 and found.is_contiguous()
    for image, one, (height, width) in zip(found.numpy(), batch, sizes):
        plain = (one.pixels.astype(float) / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.3, 0.25)
        plain[height:] = 0
        plain[:, width:] = 0
        assert image.transpose(1, 2, 0) == pytest.approx(plain, abs=1e-5)
