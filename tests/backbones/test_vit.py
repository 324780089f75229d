"""Backbones against the authors' formulation, against timm's own forward, and what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import original_vits
import pytest
import torch
from backbone_cases import TOLERANCE, deviation, random_images
from helpers import refusal
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lost_reg.backbones import zoo
from lost_reg.backbones.base import PRECISIONS, TOKENS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.timm_models import create_model
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import RANDOM, Weights
from lost_reg.discovery.features import FACETS
from lost_reg.errors import LostRegError

ORIGINALS = {
    "dino_vits16": {"patch": 16, "native": 14},
    "dino_vits8": {"patch": 8, "native": 28},
    "dinov2_vits14": {"patch": 14, "native": 37, "dinov2": True},
    "dinov2_vits14_reg": {"patch": 14, "native": 37, "dinov2": True, "registers": 4},
}
GRIDS = ((6, 8), (10, 5), (16, 9))  # at patch 16, (16, 9) has more rows than the native grid


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request, tmp_path_factory):
    """A backbone loaded from a file in the authors' format, and the state dict of that file."""
    state = original_vits.random_state(**ORIGINALS[request.param])
    path = tmp_path_factory.mktemp("weights") / "original.pth"
    torch.save(state, path)
    backbone = load_backbone(request.param, weights=path, device="cpu")
    path.unlink()
    return backbone, state


@pytest.fixture(scope="module")
def timm_tiny():
    """A model of timm's that is not in the table, at random weights."""
    return load_backbone("timm:vit_tiny_patch16_224", weights=RANDOM, device="cpu")


@torch.inference_mode()
def timms_qkv(backbone: VitBackbone, images: Tensor, layer: int = -1) -> Tensor:
    """The output of a qkv layer in timm's own forward, prefix tokens included: (B, prefix + N, 3 D)."""
    outputs = []
    qkv = backbone.model.blocks[layer].attn.qkv
    handle = qkv.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    backbone.model.forward_features(images)
    handle.remove()
    return outputs[0]


def facet_of(qkv: Tensor, facet: str) -> Tensor:
    return qkv.chunk(3, dim=-1)["qkv".index(facet)]


@torch.inference_mode()
@pytest.mark.parametrize("grid_hw", GRIDS, ids=lambda grid: "x".join(map(str, grid)))
def test_features_equal_the_original_models(original, grid_hw):
    backbone, state = original
    images = random_images(grid_hw, backbone.patch_size, batch=2)
    expected = original_vits.qkv_of_blocks(state, images, heads=6)
    for layer, facet in [(-1, "k"), (-1, "q"), (-1, "v"), (-2, "k"), (0, "k")]:
        features = backbone.features(images, facet, layer)
        assert deviation(features, facet_of(expected[layer], facet)) < TOLERANCE, (layer, facet)


@torch.inference_mode()
def test_features_equal_the_original_models_at_the_native_grid(original):
    backbone, state = original
    native = ORIGINALS[backbone.name]["native"]
    images = random_images((native, native), backbone.patch_size)
    expected = original_vits.qkv_of_blocks(state, images, heads=6, blocks=2)
    for layer in (0, 1):
        assert deviation(backbone.features(images, "k", layer), facet_of(expected[layer], "k")) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("original", ["dino_vits16", "dino_vits8"], indirect=True)
def test_a_grid_of_as_many_patches_as_the_native_one_is_resampled_too(original):
    backbone, state = original
    native = ORIGINALS[backbone.name]["native"]
    images = random_images((native // 2, native * 2), backbone.patch_size)
    expected = original_vits.qkv_of_blocks(state, images, heads=6, blocks=1)
    assert deviation(backbone.features(images, "k", 0), facet_of(expected[0], "k")) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(
    ("original", "offset"),
    [(name, offset) for name in ("dino_vits16", "dino_vits8", "dinov2_vits14") for offset in (None, 0.0)]
    + [("dinov2_vits14_reg", 0.1)],
    indirect=["original"],
)
def test_another_position_rule_is_not_the_original_models(original, offset):
    """Guards the tests above: they would see it."""
    backbone, state = original
    wrong = copy.copy(backbone)
    wrong.spec = replace(backbone.spec, position_offset=offset)
    for grid_hw in GRIDS:
        images = random_images(grid_hw, backbone.patch_size)
        expected = original_vits.qkv_of_blocks(state, images, heads=6)[-1]
        assert deviation(wrong.features(images), facet_of(expected, "k")) > 100 * TOLERANCE


def test_timms_own_forward_differs_for_dino_and_dinov2_and_agrees_with_registers(original):
    backbone, _ = original
    images = random_images((6, 8), backbone.patch_size)
    prefix = backbone.model.num_prefix_tokens
    error = deviation(backbone.features(images), facet_of(timms_qkv(backbone, images), "k")[:, prefix:])
    if backbone.name == "dinov2_vits14_reg":
        assert error < TOLERANCE
    else:
        assert error > 100 * TOLERANCE


@torch.inference_mode()
def test_the_swiglu_of_vit_g_is_converted(monkeypatch, tmp_path):
    giant = zoo.find_spec("dinov2_vitg14")
    small = replace(giant, name="small_g", model_args={"depth": 3, "embed_dim": 48, "num_heads": 2})
    monkeypatch.setattr(zoo, "SPECS", (small,))
    state = original_vits.random_state(14, 37, dim=48, depth=3, dinov2=True, swiglu=True)
    torch.save(state, tmp_path / "g.pth")
    backbone = load_backbone("small_g", weights=tmp_path / "g.pth", device="cpu")
    images = random_images((5, 7), 14)
    expected = original_vits.qkv_of_blocks(state, images, heads=2)
    assert deviation(backbone.features(images), facet_of(expected[-1], "k")) < TOLERANCE


PARTS = [("v", -1), (TOKENS, -1), ("k", 0), ("q", 2), ("k", -4), (TOKENS, 0), ("k", -1)]


def test_several_facets_come_from_one_forward_pass(random_backbone):
    images, ran = random_images((2, 3), 16, batch=2), []
    handles = [
        block.register_forward_hook(lambda module, inputs, output, index=index: ran.append(index))
        for index, block in enumerate(random_backbone.model.blocks)
    ]
    together = random_backbone.facets(images, PARTS)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2, 3, 4]  # once each, and not the last
    for (facet, layer), found in zip(PARTS, together, strict=True):
        assert torch.equal(found, random_backbone.facets(images, [(facet, layer)])[0])
    assert torch.equal(together[3], random_backbone.features(images, "q", -4))  # 2 of 6


def test_patch_tokens_are_those_that_enter_a_block(random_backbone):
    images = random_images((2, 3), 16, batch=2)
    outputs = list(random_backbone.block_outputs(images))
    assert [tuple(one.shape) for one in outputs] == [(2, 6, 192)] * 6
    for layer in (1, 3, -1):
        entering = random_backbone.patch_tokens(images, layer)
        assert torch.equal(entering, outputs[random_backbone.block_index(layer) - 1])
    block = random_backbone.model.blocks[-1]
    with torch.inference_mode():
        keys = facet_of(block.attn.qkv(block.norm1(outputs[-2])), "k")
    assert deviation(random_backbone.features(images), keys) < TOLERANCE


def test_patch_embeddings_are_those_before_positions(random_backbone):
    images = random_images((2, 3), 16, batch=2)
    weight, bias = random_backbone.model.patch_embed.proj.weight, random_backbone.model.patch_embed.proj.bias
    expected = torch.nn.functional.conv2d(images, weight, bias, stride=16).flatten(2).mT
    assert deviation(random_backbone.patch_embeddings(images), expected) < TOLERANCE


def test_blocks_run_when_their_outputs_are_asked_for(random_backbone):
    ran = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output, index=index: ran.append(index))
        for index, block in enumerate(random_backbone.model.blocks)
    ]
    outputs = random_backbone.block_outputs(torch.zeros(1, 3, 32, 48))
    counts = [len(ran)] + [len(ran) for _ in zip(range(3), outputs)]
    for handle in handles:
        handle.remove()
    assert counts == [0, 1, 2, 3]


def test_only_the_blocks_before_the_layer_run(random_backbone):
    model, layer = random_backbone.model, 3
    ran = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
        for name, module in model.named_modules()
        if name.startswith("blocks.") and name.split(".")[2:] in (["norm1"], ["attn"], ["mlp"])
    ]
    random_backbone.features(torch.zeros(1, 3, 32, 48), layer=layer)
    for handle in handles:
        handle.remove()
    before = [f"blocks.{index}.{part}" for index in range(layer) for part in ("norm1", "attn", "mlp")]
    assert ran == [*before, f"blocks.{layer}.norm1"]


def test_only_the_facet_of_the_patches_is_computed(random_backbone):
    with FlopCounterMode(display=False) as counter:
        random_backbone.features(torch.zeros(1, 3, 32, 48), layer=0)
    patches, dim = 2 * 3, 192
    embedding, keys = 2 * patches * dim * 3 * 16 * 16, 2 * patches * dim * dim
    assert counter.get_total_flops() == embedding + keys


@pytest.mark.parametrize("facet", FACETS)
def test_features_are_those_of_the_patches_alone(random_backbone, facet):
    images = random_images((2, 3), 16, batch=2)
    features = random_backbone.features(images, facet)
    assert features.shape == (2, 6, 192)
    prefix = 1 + 4
    assert deviation(features, facet_of(timms_qkv(random_backbone, images), facet)[:, prefix:]) < TOLERANCE


def test_patches_are_in_row_major_order(random_backbone):
    images = torch.zeros(1, 3, 32, 48)
    images[:, :, 16:, :16] = 1  # row 1, column 0
    changed = random_backbone.features(images, layer=0) - random_backbone.features(images * 0, layer=0)
    assert changed.abs().amax(dim=(0, 2)).gt(0).tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_fp32(random_backbone, precision):
    half = load_backbone("tiny", weights=RANDOM, device="cpu", precision=precision)
    images = random_images((4, 6), 16)
    features = half.features(images)
    assert features.dtype == PRECISIONS[precision]
    assert features.isfinite().all()
    assert 0 < deviation(features, random_backbone.features(images)) < 0.05


@pytest.mark.parametrize("grid_hw", [(5, 9), (14, 14)], ids=["5x9", "native"])
def test_a_model_of_timm_equals_timms_own_forward(timm_tiny, grid_hw):
    images = random_images(grid_hw, 16)
    for facet, layer in [("k", -1), ("v", -2)]:
        expected = facet_of(timms_qkv(timm_tiny, images, layer), facet)[:, 1:]
        assert deviation(timm_tiny.features(images, facet, layer), expected) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("dino_vits16", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ("dinov2_vits14_reg", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ("openclip", OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    ],
)
def test_mean_and_std_are_the_models_own(name, mean, std):
    spec = zoo.find_spec(name)
    with torch.device("meta"):  # no weights
        model = create_model(spec)
    backbone = VitBackbone(spec, model, Weights(RANDOM, RANDOM), torch.device("meta"), "fp32")
    assert (backbone.mean, backbone.std) == (mean, std)


def test_the_table_agrees_with_the_models(original, random_backbone):
    for backbone in (original[0], random_backbone):
        assert backbone.patch_size == backbone.spec.patch_size
        assert backbone.model.num_prefix_tokens == 1 + backbone.spec.registers


def test_an_unknown_facet_is_refused(random_backbone):
    for parts in ([("x", -1)], [("k", -1), ("qk", -1)]):
        with pytest.raises(LostRegError, match=r"^unknown facet 'q?[xk]': choose among q, k, v$"):
            random_backbone.facets(torch.zeros(1, 3, 16, 16), parts)


@pytest.mark.parametrize("layer", [6, -7])
def test_a_layer_out_of_range_is_refused(random_backbone, layer):
    with pytest.raises(LostRegError, match=rf"^tiny has no layer {layer}: expected -6 .* -1 .*$"):
        random_backbone.features(torch.zeros(1, 3, 16, 16), layer=layer)
    assert f"no layer {layer}" in refusal(random_backbone.from_last, layer)


def test_a_layer_has_one_number_from_the_last(random_backbone):
    assert [random_backbone.from_last(layer) for layer in (0, -6, 5, -1)] == [-6, -6, -1, -1]
    assert [random_backbone.block_index(layer) for layer in (0, -6, 5, -1)] == [0, 0, 5, 5]


def test_what_is_not_finite_gets_advice_in_half_precision_alone(random_backbone):
    assert random_backbone.not_finite("its features are") == "its features are not finite in fp32"
    half = copy.copy(random_backbone)
    half.precision = "fp16"
    assert half.not_finite("its norms are") == "its norms are not finite in fp16: use `precision` fp32"
