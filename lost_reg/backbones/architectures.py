"""timm's models without weights, and which of them give features."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec, find_spec
from lost_reg.errors import LostRegError


def resolve_spec(name: str) -> BackboneSpec:
    """The row of a backbone; that of `timm:NAME` is completed by what timm knows of it.

    Raises:
        LostRegError: a name that neither the table nor timm knows.
    """
    spec = find_spec(name)
    if not spec.name.startswith(TIMM_PREFIX):
        return spec
    unknown = LostRegError(
        f"timm has no model {spec.architecture!r}: timm.list_models('vit*') lists those it has"
    )
    if not timm.is_model(spec.architecture):
        raise unknown
    try:
        config: Any = timm.get_pretrained_cfg(spec.architecture)
    except RuntimeError:  # the tag after the dot
        raise unknown from None
    spec = BackboneSpec(spec.name, spec.family, spec.architecture, 0, hub_id=config and config.hf_hub_id)
    with torch.device("meta"):
        create_model(spec)  # refuses another family before any weights are looked for
    return spec


def create_model(spec: BackboneSpec) -> VisionTransformer | Eva:
    """timm's model of a row, without weights of its own.

    Raises:
        LostRegError: an architecture that gives no features of the kind that is needed.
    """
    refusal = LostRegError(
        f"{spec.architecture} is not of timm's VisionTransformer or Eva family with plain blocks: not "
        "supported"
    )
    try:
        model: Any = timm.create_model(
            spec.architecture,
            pretrained=False,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            **spec.model_args,
        )
    except (TypeError, AssertionError):  # another family does not know these options
        raise refusal from None
    if not (_is_plain_vit(model) or _is_plain_eva(model)) or not isinstance(model.patch_embed, PatchEmbed):
        raise refusal
    model.norm = nn.Identity()  # comes after the last block
    return model


def _is_plain_vit(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer) and all(
        isinstance(block, Block) and isinstance(getattr(block.attn, "qkv", None), nn.Linear)
        for block in model.blocks
    )


def _is_plain_eva(model: nn.Module) -> bool:
    """Whether it is one of Eva's, such as DINOv3, with a norm before each attention and one rotation for all
    blocks."""
    return (
        isinstance(model, Eva)
        and not model.rope_mixed
        and all(isinstance(b, EvaBlock) and isinstance(b.attn, EvaAttention) for b in model.blocks)
    )


def random_model(spec: BackboneSpec) -> VisionTransformer | Eva:
    """The model of a row at random weights, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return create_model(spec)
