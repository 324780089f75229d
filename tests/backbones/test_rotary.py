"""Backbones with rotary positions, DINOv3 and others of timm's Eva, against timm's own forward."""

from __future__ import annotations

import copy

import pytest
import torch
from backbone_cases import TOLERANCE, deviation, random_images
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from timm.models import eva
from torch import Tensor

from lost_reg.backbones import zoo
from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.timm_models import create_model
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import RANDOM
from lost_reg.discovery.features import FACETS

ROTARY = ["dinov3_vits16", "timm:vit_tiny_patch16_dinov3_qkvb", "timm:eva02_tiny_patch14_224"]


def with_weight(model: torch.nn.Module) -> torch.nn.Module:
    """Give every part of a model at random weights a say: biases, layer scales, and queries and keys that
    make attention uneven."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module", params=ROTARY)
def rotary(request):
    """Split projections and SwiGLU (EVA-02), a fused one with a bias beside it, and one without (DINOv3)."""
    backbone = load_backbone(request.param, weights=RANDOM, device="cpu")
    with_weight(backbone.model)
    return backbone


@torch.inference_mode()
def keys_before_rotation(backbone: VitBackbone, images: Tensor, layer: int, monkeypatch) -> dict[str, Tensor]:
    """q, k and v in timm's own forward: q and k as apply_rot_embed_cat gets them, (B, N, D) of patches; v
    as attention gets it."""
    rotated, attended = [], []
    rotate, attend = eva.apply_rot_embed_cat, torch.nn.functional.scaled_dot_product_attention

    def note_rotated(tokens, *args, **options):
        rotated.append(tokens)  # (B, heads, N, D / heads)
        return rotate(tokens, *args, **options)

    def note_attended(q, k, v, **options):
        attended.append((q, k, v))
        return attend(q, k, v, **options)

    with monkeypatch.context() as patched:
        patched.setattr(eva, "apply_rot_embed_cat", note_rotated)
        patched.setattr(eva.F, "scaled_dot_product_attention", note_attended)
        backbone.model.forward_features(images)
    index = backbone.block_index(layer)
    prefix = backbone.model.num_prefix_tokens
    assert len(rotated) == 2 * backbone.depth
    found = {"q": rotated[2 * index], "k": rotated[2 * index + 1], "v": attended[index][2][:, :, prefix:]}
    assert deviation(attended[index][1][:, :, prefix:], found["k"]) > 0.1  # the rotation is no small one
    return {facet: tensor.transpose(1, 2).flatten(2) for facet, tensor in found.items()}


@pytest.mark.parametrize("grid_hw", [(16, 16), (5, 9), (18, 3)], ids=["native", "5x9", "18x3"])
@pytest.mark.parametrize("layer", [-1, 0, -3])
def test_features_are_timms_before_the_rotation(rotary, grid_hw, layer, monkeypatch):
    images = random_images(grid_hw, rotary.patch_size, batch=2)
    expected = keys_before_rotation(rotary, images, layer, monkeypatch)
    for facet in FACETS:
        assert deviation(rotary.features(images, facet, layer), expected[facet]) < TOLERANCE, facet


def test_positions_reach_the_features_of_rotary_models(rotary):
    """Guards the test above: with another rotation features differ."""
    images = random_images((5, 9), rotary.patch_size)
    wrong = copy.copy(rotary)
    wrong._rotation = lambda grid_hw: {"rope": rotary._rotation(grid_hw)["rope"].flip(0)}
    assert deviation(wrong.features(images), rotary.features(images)) > 100 * TOLERANCE


def test_a_batch_of_a_rotary_model_gives_what_its_images_give(rotary):
    images = random_images((4, 6), rotary.patch_size, batch=3)
    alone = torch.cat([rotary.features(image[None]) for image in images])
    assert deviation(rotary.features(images), alone) < TOLERANCE


def test_block_outputs_of_rotary_models_are_timms(rotary):
    images = random_images((4, 6), rotary.patch_size)
    *_, last = rotary.block_outputs(images)
    with torch.inference_mode():
        expected = rotary.model.forward_features(images)[:, rotary.model.num_prefix_tokens :]
        assert deviation(rotary.model.norm(last), expected) < TOLERANCE


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_of_dinov3_is_near_fp32(precision):
    full = load_backbone("dinov3_vits16", weights=RANDOM, device="cpu")
    half = load_backbone("dinov3_vits16", weights=RANDOM, device="cpu", precision=precision)
    images = random_images((3, 5), 16)
    assert half.features(images).dtype == PRECISIONS[precision]
    assert 0 < deviation(half.features(images), full.features(images)) < 0.05


def test_dinov3_agrees_with_its_row():
    for size in "sbl":
        spec = zoo.find_spec(f"dinov3_vit{size}16")
        with torch.device("meta"):
            model = create_model(spec)
        assert model.num_prefix_tokens == 1 + spec.registers == 5
        assert model.patch_embed.patch_size == (spec.patch_size, spec.patch_size)
        assert model.pos_embed is None and model.blocks[0].attn.q_bias is None
        assert tuple(model.pretrained_cfg["mean"]) == IMAGENET_DEFAULT_MEAN
