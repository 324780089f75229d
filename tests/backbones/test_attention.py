"""The attention of class token and registers to the patches, against a softmax of what timm attends with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbone_cases import TOLERANCE, deviation, random_images
from helpers import refusal
from small_models import TINY_ARGS, small_backbone

from lost_reg.backbones import zoo
from lost_reg.backbones.base import ATTENTION
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.backbones.timm_models import random_model
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import RANDOM, Weights

GRID_HW = (5, 9)
ADDED = AddedRegisters(RegisterNeurons(((0, 3), (1, 0), (2, 5))), 2)


def small_rotary() -> VitBackbone:
    """A small DINOv3: rotary positions, and registers."""
    spec = replace(zoo.find_spec("dinov3_vits16"), model_args={"depth": 3, "embed_dim": 48, "num_heads": 3})
    return VitBackbone(spec, random_model(spec), Weights("random", "random"), torch.device("cpu"), "fp32")


def eva02() -> VitBackbone:
    """Split projections; patches of 14."""
    return load_backbone("timm:eva02_tiny_patch14_224", weights=RANDOM, device="cpu")


def with_qk_norm() -> VitBackbone:
    spec = replace(zoo.find_spec("dinov2_vits14"), model_args={**TINY_ARGS, "qk_norm": True})
    return VitBackbone(spec, random_model(spec), Weights("random", "random"), torch.device("cpu"), "fp32")


def uneven(backbone: VitBackbone) -> VitBackbone:
    """Random weights attend to all tokens alike: queries, keys and their norms are made larger and unlike."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in backbone.model.blocks:
            for name, parameter in block.attn.named_parameters():
                if not name.startswith("proj."):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return backbone


BACKBONES = {
    "tiny": (lambda: load_backbone("tiny", device="cpu"), ("class", *(f"register {n}" for n in range(1, 5)))),
    "small": (lambda: small_backbone("MLP"), ("class",)),
    "test-time registers": (lambda: small_backbone("MLP", ADDED), ("class", "test-time register")),
    "rotary": (lambda: uneven(small_rotary()), ("class", *(f"register {n}" for n in range(1, 5)))),
    "split projections": (lambda: uneven(eva02()), ("class",)),
    "qk norm": (lambda: uneven(with_qk_norm()), ("class",)),
}


@torch.inference_mode()
def expected_of(backbone: VitBackbone, images, layer: int, monkeypatch):
    """(B, T, heads, N) float64, of all tokens: what timm's own forward gives to torch's attention."""
    attended, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(q, k, v, **options):
        attended.append((q.double(), k.double()))
        return attend(q, k, v, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        list(backbone.block_outputs(images))
    assert len(attended) == backbone.depth
    queries, keys = attended[backbone.block_index(layer)]  # (B, heads, T, D / heads)
    logits = queries @ keys.mT / queries.shape[3] ** 0.5
    weights = logits.exp() / logits.exp().sum(dim=3, keepdim=True)
    return weights[..., backbone.num_prefix_tokens :].transpose(1, 2)


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("name", BACKBONES)
def test_attention_is_timms(name, layer, monkeypatch):
    make, tokens = BACKBONES[name]
    backbone = make()
    images = random_images(GRID_HW, backbone.patch_size, batch=2)
    expected = expected_of(backbone, images, layer, monkeypatch)
    found = backbone.prefix_attention(images, layer)
    assert backbone.prefix_tokens == tokens and found.dtype == torch.float32
    assert found.shape == (2, len(tokens), expected.shape[2], 45)
    assert deviation(found, expected[:, : len(tokens)]) < TOLERANCE
    of_one = expected[0, 0, 0]
    assert of_one.max() > 1.2 * of_one.min()  # it is uneven
    assert 0 < found.sum(dim=3).max() < 1  # the tokens before the patches take the rest


def test_all_test_time_registers_attend_alike(monkeypatch):
    """So one of them is enough."""
    backbone = small_backbone("MLP", replace(ADDED, count=3))
    images = random_images(GRID_HW, backbone.patch_size)
    attention = expected_of(backbone, images, -1, monkeypatch)  # of the class token, three registers, ...
    assert deviation(attention[:, 2:4], attention[:, 1:2].expand(-1, 2, -1, -1)) < 1e-6
    assert deviation(attention[:, :1], attention[:, 1:2]) > 0.1


def test_attention_and_features_come_from_one_pass(monkeypatch):
    backbone = small_backbone("MLP")
    images = random_images(GRID_HW, backbone.patch_size)
    passes, embed = [], backbone._embed
    monkeypatch.setattr(backbone, "_embed", lambda patches: passes.append(1) or embed(patches))
    keys, attention = backbone.facets(images, [("k", -2), (ATTENTION, -1)])
    assert len(passes) == 1
    assert torch.equal(keys, backbone.features(images, "k", -2))
    assert torch.equal(attention, backbone.prefix_attention(images))


def test_low_precision_attention_is_a_float32_softmax():
    images = random_images(GRID_HW, 16)
    exact = load_backbone("tiny", device="cpu").prefix_attention(images)
    low = load_backbone("tiny", device="cpu", precision="bf16").prefix_attention(images)
    assert low.dtype == torch.float32 and 0 < deviation(low, exact) < 0.1


def test_backbones_without_such_tokens_refuse_in_one_line():
    function = load_backbone(lambda images: images, preprocessing=Preprocessing(16), device="cpu")
    different = load_backbone("timm:vit_dlittle_patch16_reg1_gap_256", weights=RANDOM, device="cpu")
    for backbone in (small_backbone("no class token"), function, different):
        assert backbone.prefix_tokens == ()
        assert "has no class token and no registers" in refusal(backbone.prefix_attention, torch.zeros(1))
    with pytest.raises(Exception, match="cannot be chosen"):
        function.facets(torch.zeros(1, 3, 16, 16), [(ATTENTION, -1)])
