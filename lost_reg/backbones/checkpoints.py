"""Filling timm's models from weight files, strictly: a file that does not fit is refused by its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.models import eva, vision_transformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lost_reg.backbones.weights import read_state_dict
from lost_reg.backbones.zoo import BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence

# Parts of a ViT that features never need: they come after the last qkv layer, or only training has them.
_BEYOND_FEATURES = ("norm.", "fc_norm.", "head", "attn_pool.", "mask_token")


def fill_model(model: VisionTransformer | Eva, path: Path, spec: BackboneSpec) -> None:
    """Load a weight file into a model.

    Raises:
        LostRegError: a file that does not fit, with the keys that differ.
    """
    state = read_state_dict(path)
    wanted = model.state_dict()
    misfits = _misfits_of_another_model(state, wanted, model)
    if not misfits:
        try:
            state = _with_timms_names(state, model)
        except Exception as error:  # a file of another model can break timm's converter anywhere
            misfits = [f"timm cannot convert it ({first_sentence(error)})"]
    state = {key: tensor for key, tensor in state.items() if not key.startswith(_BEYOND_FEATURES)}
    misfits += [f"{key} is missing" for key in wanted if key not in state]
    misfits += [f"{key} is not part of the model" for key in state if key not in wanted]
    misfits += [
        f"{key} is {tuple(state[key].shape)} and should be {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if misfits:
        misfits = list(dict.fromkeys(misfits))
        more = f" and {len(misfits) - 4} more" if len(misfits) > 4 else ""
        raise LostRegError(f"{str(path)!r} does not fit {spec.name}: {'; '.join(misfits[:4])}{more}")
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    _make_buffers(model)


def _with_timms_names(state: dict[str, Tensor], model: VisionTransformer | Eva) -> dict[str, Tensor]:
    """Weights under timm's names, from those of their authors or of timm."""
    if isinstance(model, VisionTransformer):
        return vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    first: Any = model.blocks[0]
    if "storage_tokens" in state and first.attn.q_bias is None:
        # DINOv3's checkpoints have biases that are zero, or unused for keys; timm's models have none. What is
        # not zero stays, and is refused under its name.
        kept = {key: bias for key, bias in state.items() if key.endswith("attn.qkv.bias")}
        state = {key: tensor for key, tensor in state.items() if key not in kept}
        kept = {key: bias for key, bias in kept.items() if any(map(torch.any, bias.chunk(3)[::2]))}
        return eva.checkpoint_filter_fn(state, model) | kept
    return eva.checkpoint_filter_fn(state, model)


def _make_buffers(model: VisionTransformer | Eva) -> None:
    """Compute what no file holds for a model made on the meta device: frequencies of rotary positions."""
    for module in model.modules():
        initialise: Any = getattr(module, "init_non_persistent_buffers", None)
        if initialise is not None:
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty_like(buffer, device="cpu"))
            initialise()


def _misfits_of_another_model(
    state: dict[str, Tensor], wanted: dict[str, Tensor], model: VisionTransformer | Eva
) -> list[str]:
    """What timm's converter would hide by resampling to the model's size, or fail on."""
    misfits = []
    if "register_tokens" in state and "reg_token" not in wanted:
        misfits.append("register_tokens is not part of the model")
    if "reg_token" in wanted and not {"reg_token", "register_tokens", "storage_tokens"} & state.keys():
        misfits.append("reg_token is missing")
    projection, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    expected = wanted["patch_embed.proj.weight"]
    if projection is not None and projection.ndim == 4 and projection.shape != expected.shape:
        misfits.append(
            f"patch_embed.proj.weight is {tuple(projection.shape)} and should be {tuple(expected.shape)}"
        )
    if position is not None and "pos_embed" in wanted:
        native = model.patch_embed.num_patches
        if position.ndim != 3 or not native <= position.shape[1] <= native + model.num_prefix_tokens:
            misfits.append(f"pos_embed is {tuple(position.shape)} and should hold {native} patches")
    return misfits
