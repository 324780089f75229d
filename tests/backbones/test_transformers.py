"""Checkpoints of Hugging Face transformers, with its own models as the oracle."""

from __future__ import annotations

import pytest
import torch
from backbone_cases import load
from transformers import Dinov2Config, Dinov2Model

pytestmark = pytest.mark.usefixtures("small_models")


@pytest.mark.parametrize("names", ["transformers 4", "transformers 5"])
def test_dinov2_gives_the_same_patch_tokens(names, tmp_path):
    config = Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=518)
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    path = tmp_path / "model.safetensors"
    if names == "transformers 4":
        model.save_pretrained(tmp_path)
    else:
        path = tmp_path / "pytorch_model.bin"
        torch.save(model.state_dict(), path)
    images = torch.randn(1, 3, 518, 518)
    with torch.inference_mode():
        hidden = model(images, output_hidden_states=True).hidden_states[1:]
    for got, expected in zip(load("dinov2_vits14", path).block_outputs(images), hidden, strict=True):
        assert (got - expected[:, 1:]).abs().max() < 1e-5 * expected.abs().max()
