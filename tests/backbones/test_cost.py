"""What images cost a backbone: operations against torch's own count, memory on CUDA."""

from __future__ import annotations

import pytest
import torch
from helpers import counted_operations
from hypothesis import given, settings
from hypothesis import strategies as st

from lost_reg.backbones.cost import patch_count
from lost_reg.backbones.loading import load_backbone


@pytest.mark.parametrize("size_hw", [(32, 48), (64, 16)])
@pytest.mark.parametrize("layer", [-1, 0, -3])
@pytest.mark.parametrize("facets", ["v", "qk", "qkv"])
def test_operations_are_those_that_torch_counts(random_backbone, size_hw, layer, facets):
    parts = [(facet, layer) for facet in facets]
    expected = counted_operations(random_backbone.facets, torch.zeros(1, 3, *size_hw), parts)
    index = random_backbone.block_index(layer)
    assert random_backbone.cost.feature_operations(size_hw, index, facets=len(facets)) == expected


@pytest.mark.parametrize("name", ["dinov3_vits16", "timm:eva02_tiny_patch14_224"])
def test_operations_of_rotary_models_are_those_that_torch_counts(name):
    backbone = load_backbone(name, weights="random", device="cpu")
    size_hw = (2 * backbone.patch_size, 3 * backbone.patch_size)
    images = torch.zeros(1, 3, *size_hw)
    for layer in (-1, 0):
        expected = counted_operations(backbone.features, images, "v", layer)
        assert backbone.cost.feature_operations(size_hw, backbone.block_index(layer)) == expected


def test_a_size_between_two_counts_as_the_larger(random_backbone):
    size = random_backbone.patch_size
    assert patch_count((size + 1, 1), size) == random_backbone.cost.patches((1, size + 1)) == 2
    assert patch_count((1, 1), size) == 1


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_more_pixels_and_more_images_take_more_memory(random_backbone, rows, columns, images):
    side = random_backbone.patch_size

    def needed(r, n):
        return random_backbone.cost.peak_bytes((r * side, columns * side), n)

    assert needed(rows, images) < needed(rows + 1, images)
    assert needed(rows, images) < needed(rows, images + 1)
