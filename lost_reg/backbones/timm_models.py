"""timm's models: which are supported, and how weight files are loaded into them.

Loading is strict: a file that does not fit is refused, with the keys that differ.
"""

from __future__ import annotations

from pathlib import Path
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
    eva,
    timm,
    vision_transformer,
)
from lost_reg.backbones.weights import read_state_dict
from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec, find_spec
from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence

# Parts of a ViT that features never need: they come after the last qkv layer, or are used only in training.
_BEYOND_FEATURES = ("norm.", "fc_norm.", "head", "attn_pool.", "mask_token")


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
    spec = BackboneSpec(spec.name, spec.family, spec.architecture, 0, hub_id=config and config.hf_hub_id)
    empty_model(spec)  # refuses another family before any weights are looked for
    return spec


def create_model(spec: BackboneSpec) -> VisionTransformer | Eva:
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
    """Whether it is an Eva model, such as DINOv3, with a norm before each attention and one rotation for all
    blocks."""
    return (
        isinstance(model, Eva)
        and not model.rope_mixed
        and all(isinstance(b, EvaBlock) and isinstance(b.attn, EvaAttention) for b in model.blocks)
    )


def empty_model(spec: BackboneSpec) -> VisionTransformer | Eva:
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


def random_model(spec: BackboneSpec) -> VisionTransformer | Eva:
    """The model of a row with random weights, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return create_model(spec)


def fill_model(model: VisionTransformer | Eva, path: Path, spec: BackboneSpec) -> None:
    """Load a weight file into a model.

    Raises:
        LostRegError: a file that does not fit; lists the keys that differ.
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
    """Weights under timm's names, converted from the authors' names if necessary."""
    if isinstance(model, VisionTransformer):
        return vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    first: Any = model.blocks[0]
    if "storage_tokens" in state and first.attn.q_bias is None:
        # DINOv3's checkpoints have qkv biases that are zero, or unused for keys; timm's models have none.
        # Biases that are not zero are kept, and then refused by name.
        kept = {key: bias for key, bias in state.items() if key.endswith("attn.qkv.bias")}
        state = {key: tensor for key, tensor in state.items() if key not in kept}
        kept = {key: bias for key, bias in kept.items() if any(map(torch.any, bias.chunk(3)[::2]))}
        return eva.checkpoint_filter_fn(state, model) | kept
    return eva.checkpoint_filter_fn(state, model)


def _make_buffers(model: VisionTransformer | Eva) -> None:
    """For a model made on the meta device, compute what no file holds: frequencies of rotary positions."""
    for module in model.modules():
        initialise: Any = getattr(module, "init_non_persistent_buffers", None)
        if initialise is not None:
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty_like(buffer, device="cpu"))
            initialise()


def _misfits_of_another_model(
    state: dict[str, Tensor], wanted: dict[str, Tensor], model: VisionTransformer | Eva
) -> list[str]:
    """Misfits that timm's converter would hide by resampling to the model's size, or fail on."""
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
