"""Small models of each kind of MLP, at random weights that make tokens attend to each other."""

from __future__ import annotations

from dataclasses import replace

import torch
from timm.layers import SwiGLU

from lost_reg.backbones import zoo
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.timm_models import random_model
from lost_reg.backbones.vit import VitBackbone
from lost_reg.backbones.weights import Weights

TINY_ARGS = {"depth": 4, "embed_dim": 48, "num_heads": 2, "init_values": 1.0}
MODELS = {
    "MLP": replace(zoo.find_spec("dinov2_vits14"), model_args=TINY_ARGS),
    "SwiGLU, packed": replace(zoo.find_spec("dinov2_vitg14"), model_args=TINY_ARGS),
    "SwiGLU": replace(zoo.find_spec("dinov2_vits14"), model_args={**TINY_ARGS, "mlp_layer": SwiGLU}),
    "CLIP": replace(zoo.find_spec("openclip"), model_args={**TINY_ARGS, "init_values": None}),
    "no class token": replace(
        zoo.find_spec("dino_vits16"), model_args={**TINY_ARGS, "class_token": False, "no_embed_class": True}
    ),
}


def small_backbone(name: str, added: AddedRegisters | None = None) -> VitBackbone:
    """A small model at random weights, large enough that tokens attend to each other and neurons matter."""
    spec = MODELS[name]
    model = random_model(spec)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim in (2, 4):
                parameter.normal_(std=0.3, generator=generator)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return VitBackbone(spec, model, Weights("random", "random"), torch.device("cpu"), "fp32", added)
