"""Going on from the tokens that enter a block: the same as from the images, and what a change does."""

from __future__ import annotations

import pytest
import torch
from helpers import refusal
from torch.nn.functional import linear

from lost_reg.backbones.base import ATTENTION, TOKENS
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons

REGISTERS = AddedRegisters(RegisterNeurons(((2, 5), (5, 3), (11, 0))), count=2)


def with_registers():
    return load_backbone("timm:vit_tiny_patch16_224", weights="random", device="cpu", registers=REGISTERS)


@pytest.fixture(
    scope="module", params=["tiny", "dinov3_vits16", with_registers], ids=["tiny", "dinov3", "added"]
)
def backbone(request):
    """One with registers, one with rotary positions, and one with test-time registers."""
    if callable(request.param):
        return request.param()
    return load_backbone(request.param, weights="random", device="cpu")


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_the_tokens_of_each_block_are_those_between_the_blocks(backbone, images):
    entering = list(backbone.tokens_by_block(images))
    assert [one.layer for one in entering] == list(range(backbone.depth + 1))
    assert {one.grid_hw for one in entering} == {(2, 3)}
    assert {one.prefix for one in entering} == {backbone.num_prefix_tokens}
    for one, patches in zip(entering[1:], backbone.block_outputs(images), strict=True):
        assert torch.equal(one.patches, patches)
    with torch.inference_mode():
        again = list(backbone.block_outputs(images, with_prefix=True))
    assert torch.equal(entering[-1].tokens, again[-1])


def test_from_any_block_on_all_is_as_from_the_images(backbone, images):
    last = backbone.depth - 1
    parts = [("k", -1), ("v", last), (TOKENS, -1), (ATTENTION, -1), ("q", -2)]
    expected = backbone.facets(images, parts)
    for entering in list(backbone.tokens_by_block(images))[:last]:
        for one, wanted in zip(backbone.facets_from(entering, parts), expected, strict=True):
            assert torch.equal(one, wanted)
        assert torch.equal(backbone.class_tokens_from(entering), backbone.class_tokens(images))


def test_a_changed_patch_changes_its_own_key_and_the_class_token(backbone, images):
    entering = list(backbone.tokens_by_block(images))[backbone.depth - 1]
    patches = entering.patches.clone()
    patches[0, 4] = 0
    changed = entering.with_patches(patches)
    assert torch.equal(changed.tokens[:, : changed.prefix], entering.tokens[:, : entering.prefix])
    (before,), (after,) = (backbone.facets_from(one, [("k", -1)]) for one in (entering, changed))
    differs = (before != after).any(dim=2)
    assert differs.nonzero().tolist() == [[0, 4]]
    block = backbone.model.blocks[-1]
    weight, bias = block.attn.qkv.weight.split(before.shape[2])[1], block.attn.qkv.bias
    if bias is not None and block.norm1.bias is not None:  # a token of zeros becomes the norm's bias
        key = linear(block.norm1.bias, weight, bias.split(before.shape[2])[1])
        torch.testing.assert_close(after[0, 4], key, rtol=1e-4, atol=1e-5)
    classes = [backbone.class_tokens_from(one) for one in (entering, changed)]
    assert not torch.allclose(classes[0][0], classes[1][0]) and torch.equal(classes[0][1], classes[1][1])


def test_what_cannot_be_is_refused(images):
    tiny = load_backbone("tiny", weights="random", device="cpu")
    entering = list(tiny.tokens_by_block(images))[3]
    assert "layer 2 is before block 3" in refusal(tiny.facets_from, entering, [("k", 2)])
    function = load_backbone(lambda images: images, device="cpu", preprocessing=Preprocessing(16))
    assert "no transformer blocks" in refusal(function.tokens_by_block, images)
    assert "no transformer blocks" in refusal(function.facets_from, entering, [("k", -1)])
    assert "no class token" in refusal(function.class_tokens_from, entering)
