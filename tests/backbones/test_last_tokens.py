"""All tokens after the last block, before and after the final norm."""

from __future__ import annotations

import pytest
import torch
from helpers import refusal
from small_models import small_backbone


@pytest.mark.parametrize("name", ["MLP", "no class token"])
def test_last_tokens_are_those_after_the_last_block(name):
    backbone = small_backbone(name)
    images = torch.randn(2, 3, 3 * backbone.patch_size, 2 * backbone.patch_size)
    *_, last = backbone.block_outputs(images, with_prefix=True)
    assert torch.equal(backbone.last_tokens(images, normed=False), last)
    assert torch.equal(backbone.last_tokens(images), backbone.model.norm(last))
    if name == "MLP":
        assert torch.allclose(backbone.last_tokens(images)[:, 0], backbone.class_tokens(images), atol=1e-6)


def test_a_function_has_none(colours):
    assert "no transformer blocks" in refusal(colours.last_tokens, torch.zeros(1, 3, 8, 8))
