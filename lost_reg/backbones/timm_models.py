"""timm's models: which are supported, and how they are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lost_reg.backbones.timm_import import (
    Block,
    Eva,
    EvaAttention,
    EvaBlock,
    PatchEmbed,
    VisionTransformer,
    timm,
)
from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec, find_spec
from lost_reg.errors import LostRegError

Vit = VisionTransformer | Eva


def resolve_spec(name: str) -> BackboneSpec:
    """The row of a backbone; for `timm:NAME`, timm provides the missing facts.

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
    hub_ids = (config.hf_hub_id,) if config and config.hf_hub_id else ()
    spec = replace(spec, hub_ids=hub_ids)
    empty_model(spec)  # refuses another family before any weights are looked for
    return spec


def create_model(spec: BackboneSpec) -> Vit:
    """timm's model for a row, without pretrained weights.

    Raises:
        LostRegError: an architecture that cannot give the features that are needed.
    """
    refusal = LostRegError(
        f"{spec.architecture} is not of timm's VisionTransformer or Eva family with plain blocks: not "
        "supported"
    )
    options = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True, **spec.model_args}
    try:
        model: Any = timm.create_model(spec.architecture, pretrained=False, **options)
    except (TypeError, AssertionError):  # another family does not know these options
        raise refusal from None
    if not is_plain(model):
        raise refusal
    return model


def is_plain(model: nn.Module) -> bool:
    """Whether it is a VisionTransformer or Eva model whose features are known how to get."""
    plain = _is_plain_vit(model) or _is_plain_eva(model)
    return plain and isinstance(getattr(model, "patch_embed", None), PatchEmbed)


def _is_plain_vit(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer) and all(
        isinstance(block, Block) and isinstance(getattr(block.attn, "qkv", None), nn.Linear)
        for block in model.blocks
    )


def _is_plain_eva(model: nn.Module) -> bool:
    """Whether it is an Eva model, such as DINOv3, with a norm before each attention and one rotation for all
    blocks."""
    return (
        isinstance(model, Eva)
        and not model.rope_mixed
        and all(isinstance(b, EvaBlock) and isinstance(b.attn, EvaAttention) for b in model.blocks)
    )


def empty_model(spec: BackboneSpec) -> Vit:
    """The model of a row on the meta device: spends no time on values that a file will replace."""
    with torch.device("meta"), _WithoutValues():
        return create_model(spec)


class _WithoutValues(TorchFunctionMode):
    """On the meta device, skips the functions for which torch would import its compiler.

    They only set values, which tensors there do not have.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", None) in ("normal_", "erfinv_", "clamp_"):
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return function(*args, **kwargs)


def random_model(spec: BackboneSpec) -> Vit:
    """The model of a row with random weights, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return create_model(spec)
