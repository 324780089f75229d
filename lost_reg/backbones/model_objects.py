"""Models that a program holds already, of timm or transformers, as backbones.

A backbone has a copy of the weights, in a model of timm's that is made and filled as that of a checkpoint is.
So it gives the features that the same weights give by the name of a backbone, and the user's model is left as
it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lost_reg.backbones import zoo
from lost_reg.backbones.checkpoint_names import backbone_state
from lost_reg.backbones.filling import filled, fits
from lost_reg.backbones.timm_import import Eva, Format, VisionTransformer
from lost_reg.backbones.timm_models import Vit, empty_model, is_plain, resolve_spec
from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec
from lost_reg.errors import LostRegError

# For each model of transformers: the family of its rows in the table, and timm's model of the same kind.
_KINDS = {
    "dinov2": ("DINOv2", "vit_small_patch14_dinov2.lvd142m"),
    "dinov2_with_registers": ("DINOv2 + registers", "vit_small_patch14_reg4_dinov2.lvd142m"),
    "dinov3_vit": ("DINOv3", "vit_small_patch16_dinov3.lvd1689m"),
    "vit": ("", "vit_small_patch16_224"),
}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def is_known(model: object) -> bool:
    """Whether a model can be taken by `model_of`: a ViT of timm or of transformers."""
    return isinstance(model, (VisionTransformer, Eva)) or _kind(model) is not None


def model_of(given: nn.Module) -> tuple[BackboneSpec, Vit]:
    """The row and the model for a model of timm or transformers, which stays as it is.

    The row is the one of the table whose weights these are, or could be: that of the same name in timm or on
    the hub, or of the same family and size. For others, it is made from the model.

    Raises:
        LostRegError: a model that does not have the plain blocks, positions or settings that are needed.
    """
    if isinstance(given, (VisionTransformer, Eva)):
        return _of_timm(given)
    return _of_transformers(given)


# --- timm --------------------------------------------------------------------------------------------


def _of_timm(given: Vit) -> tuple[BackboneSpec, Vit]:
    config: Any = getattr(given, "pretrained_cfg", None) or {}
    architecture = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    if not is_plain(given):
        raise LostRegError("this model of timm has other blocks than plain ones: not supported")
    own: Any = copy.deepcopy(given)
    own.patch_embed.flatten, own.patch_embed.output_fmt = False, Format.NHWC
    own.patch_embed.strict_img_size = own.patch_embed.dynamic_img_pad = False
    own.pretrained_cfg = {**_IMAGENET, **{name: config[name] for name in _IMAGENET if name in config}}
    _check_positions(own)
    rows = (spec for spec in zoo.SPECS if not spec.bundled_file)
    row = next((spec for spec in rows if spec.architecture == architecture), None)
    name = f"{TIMM_PREFIX}{architecture}" if architecture else type(given).__name__
    registers = getattr(given, "num_reg_tokens", 0)
    return row or BackboneSpec(name, "timm", architecture, own.patch_embed.patch_size[0], registers), own


def _check_positions(model: Vit) -> None:
    """Raises LostRegError for positions that cannot be resampled to the grids of other images."""
    rows, columns = model.patch_embed.grid_size
    if model.pos_embed is not None and rows != columns:
        raise LostRegError(f"this model of timm has positions of {rows} x {columns} patches: not a square")
    rope: Any = getattr(model, "rope", None)
    if rope is not None and len(rope.get_embed(shape=[rows + 1, columns + 2])) != (rows + 1) * (columns + 2):
        raise LostRegError(
            "this model of timm is for one size of images: create it with dynamic_img_size=True"
        )


# --- transformers ------------------------------------------------------------------------------------


def _kind(model: object) -> str | None:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return kind if isinstance(model, nn.Module) and kind in _KINDS else None


def _of_transformers(given: nn.Module) -> tuple[BackboneSpec, Vit]:
    kind, given_config = _kind(given), getattr(given, "config", None)
    if kind is None or given_config is None:
        raise LostRegError(f"a {type(given).__name__} is not supported: expected one of {', '.join(_KINDS)}")
    named, config = Path(type(given).__name__), given_config.to_dict()
    state = backbone_state(given.state_dict(), named)
    family, architecture = _KINDS[kind]
    hub_id = str(config.get("_name_or_path") or given_config.name_or_path)
    rows = sorted(
        (spec for spec in zoo.SPECS if hub_id in spec.hub_ids or spec.family == family),
        key=lambda spec: hub_id not in spec.hub_ids,
    )
    heads = config["num_attention_heads"]
    row = next((spec for spec in rows if fits(dict(state), spec) and _heads(spec) == heads), None)
    spec = row or _own_row(named.name, family, architecture, config)
    return spec, filled(spec, dict(state), config, named)


def _heads(spec: BackboneSpec) -> int:
    block: Any = empty_model(spec).blocks[0]
    return int(block.attn.num_heads)


def filled_from(spec: BackboneSpec, given: nn.Module) -> Vit:
    """The model of a row with the weights of a model, of timm, of transformers, or of the authors.

    Raises:
        LostRegError: weights that do not fit.
    """
    named = Path(type(given).__name__)
    config = given.config.to_dict() if _kind(given) else None  # type: ignore[operator, union-attr]
    return filled(spec, backbone_state(given.state_dict(), named), config, named)


def _own_row(name: str, family: str, architecture: str, config: Mapping[str, Any]) -> BackboneSpec:
    """A row for a model of a size that the table does not have."""
    like = next((spec for spec in zoo.SPECS if spec.family == family), None)
    row = like or resolve_spec(f"{TIMM_PREFIX}{architecture}")
    width, registers = config["hidden_size"], config.get("num_register_tokens", 0)
    hidden = config.get("intermediate_size") or width * config.get("mlp_ratio", 4)
    arguments = {
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "patch_size": config["patch_size"],
        "mlp_ratio": hidden / width,
    }
    if registers:
        arguments["num_reg_tokens" if family == "DINOv3" else "reg_tokens"] = registers
    return replace(
        row,
        name=name,
        family=family or "timm",
        architecture=architecture,
        patch_size=config["patch_size"],
        registers=registers,
        model_args=arguments,
    )


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device
