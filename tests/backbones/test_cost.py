"""What images cost a model: operations against torch's own count, and memory on CUDA."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MODELS, small_backbone
from torch.utils.flop_counter import FlopCounterMode

from lost_reg.backbones.cost import patch_count
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons


def counted(function, *args) -> float:
    """Operations of a call, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        function(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("size_hw", [(32, 48), (64, 16)])
@pytest.mark.parametrize(
    "parts", [[("v", -1)], [("v", 0)], [("k", -3), ("q", -3)], [("q", 2), ("k", 2), ("v", 2)]]
)
def test_operations_are_those_that_torch_counts(random_backbone, size_hw, parts):
    index = random_backbone.block_index(parts[0][1])
    expected = counted(random_backbone.facets, torch.zeros(1, 3, *size_hw), parts)
    assert random_backbone.cost.feature_operations(size_hw, index, len(parts)) == expected


def test_operations_of_the_whole_model_are_those_that_torch_counts(random_backbone):
    expected = counted(random_backbone.model.forward_features, torch.zeros(1, 3, 32, 48))
    assert random_backbone.cost.forward_operations((32, 48)) == expected


@pytest.mark.parametrize("name", ["dinov3_vits16", "timm:eva02_tiny_patch14_224"])
@pytest.mark.parametrize("layer", [-1, 0])
def test_operations_of_rotary_models_are_those_that_torch_counts(name, layer):
    backbone = load_backbone(name, weights="random", device="cpu")
    size_hw = (2 * backbone.patch_size, 3 * backbone.patch_size)
    images = torch.zeros(1, 3, *size_hw)
    expected = counted(backbone.features, images, "v", layer)
    assert backbone.cost.feature_operations(size_hw, backbone.block_index(layer)) == expected
    assert backbone.cost.forward_operations(size_hw) == counted(backbone.model.forward_features, images)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "added", [None, AddedRegisters(RegisterNeurons(((0, 1),)), 3)], ids=["plain", "registers"]
)
def test_operations_of_every_kind_of_mlp_and_of_registers_are_counted(name, added):
    backbone = small_backbone(name, added)
    size_hw = (2 * backbone.patch_size, 3 * backbone.patch_size)
    expected = counted(backbone.features, torch.zeros(1, 3, *size_hw))
    assert backbone.cost.feature_operations(size_hw, 3) == expected
    assert backbone.cost.width == 48


def test_a_size_between_two_counts_as_the_larger(random_backbone):
    assert patch_count((17, 1), 16) == random_backbone.cost.patches((17, 1)) == 2
    assert patch_count((1, 1), 16) == random_backbone.cost.patches((16, 16)) == 1
    assert patch_count((33, 48), 16) == 9


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_more_pixels_and_more_images_take_more_memory(random_backbone, rows, columns, images):
    def needed(r, n):
        return random_backbone.cost.peak_bytes((16 * r, 16 * columns), n)

    assert needed(rows, images) < needed(rows + 1, images)
    assert needed(rows, images) < needed(rows, images + 1)


def test_numbers_of_half_the_size_take_less_memory(random_backbone):
    half = load_backbone("tiny", weights="random", device="cpu", precision="bf16")
    full_bytes, half_bytes = (one.cost.peak_bytes((320, 320), 4) for one in (random_backbone, half))
    assert 0.4 * full_bytes < half_bytes < 0.9 * full_bytes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "size_hw"), [("dinov2_vits14_reg", (476, 644)), ("dinov3_vits16", (480, 640))]
)
def test_memory_on_cuda_is_at_most_what_was_expected(name, size_hw, precision):
    backbone = load_backbone(name, weights="random", device="cuda", precision=precision)
    images = torch.zeros(4, 3, *size_hw, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backbone.features(images)
    taken = torch.cuda.max_memory_allocated() - before
    expected = backbone.cost.peak_bytes(size_hw, 4)
    assert 0.3 * expected < taken < expected
