"""What the config.json of a transformers checkpoint says that the shapes of its tensors do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from lost_reg.backbones.timm_import import QuickGELU, timm
from lost_reg.backbones.timm_models import Vit
from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.json_files import convert
from lost_reg.text import counted

# transformers leaves out of nested configurations what is its default (configuration_*.py of each model).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov2": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "dinov2_with_registers": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "vit": {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "dinov3_vit": {"num_attention_heads": 6, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "clip_vision_model": {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {
        "num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    },
}  # fmt: skip
_VISION_MODELS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
_TANH = "gelu_pytorch_tanh"
# Below this, eps does not matter: transformers has 1e-12 for DINO, whose authors have 1e-6.
_NEGLIGIBLE_EPS = 1e-6


@dataclass(frozen=True)
class VisionConfig:
    """What a configuration of transformers says about attention, activation and norms."""

    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float
    rope_theta: float = 100.0
    use_swiglu_ffn: bool = False


def vision_config(config: dict[str, Any]) -> VisionConfig | None:
    """The configuration of a vision model, alone or within one of images and texts; None if unknown.

    Raises:
        msgspec.ValidationError: values of another type.
    """
    kind, nested = config.get("model_type"), config.get("vision_config")
    if isinstance(nested, dict):
        kind, config = nested.get("model_type", _VISION_MODELS.get(str(kind))), nested
    known = _DEFAULTS.get(str(kind))
    return convert(known | config, VisionConfig) if known else None


def apply_config(model: Vit, content: dict[str, Any] | None, path: Path, spec: BackboneSpec) -> None:
    """Compare a model with the config.json beside its checkpoint, if transformers wrote one.

    A GELU that is approximated with tanh (SigLIP) is set in the model, whose own is exact in timm.

    Raises:
        LostRegError: another number of heads, activation or eps, all of which change features unseen.
    """
    try:
        config = vision_config(content) if content else None
    except msgspec.ValidationError as error:
        raise LostRegError(f"cannot read the config.json beside {str(path)!r}: {error}") from None
    if config is None:
        return
    block: Any = model.blocks[0]
    activation = _activation(block.mlp.act)
    wanted = "silu" if config.use_swiglu_ffn else config.hidden_act
    if wanted == _TANH and activation == "gelu":
        blocks: Any = model.blocks
        for one in blocks:
            one.mlp.act = nn.GELU(approximate="tanh")
        activation = _TANH
    differences = {
        f"{counted(config.num_attention_heads, 'head')}, but {spec.name} has {block.attn.num_heads}":
            config.num_attention_heads != block.attn.num_heads,
        f"the activation {wanted}, but {spec.name} has {activation}{_advice(spec, wanted)}":
            wanted != activation,
        f"a LayerNorm eps of {config.layer_norm_eps:g}, but {spec.name} has {block.norm1.eps:g}":
            max(config.layer_norm_eps, _NEGLIGIBLE_EPS) != max(block.norm1.eps, _NEGLIGIBLE_EPS),
    }  # fmt: skip
    rope: Any = getattr(model, "rope", None)
    if rope is not None:
        text = f"a rope_theta of {config.rope_theta:g}, but {spec.name} has {rope.temperature:g}"
        differences[text] = config.rope_theta != rope.temperature
    for text, is_different in differences.items():
        if is_different:
            raise LostRegError(f"the config.json beside {str(path)!r} says {text}")


def _activation(module: nn.Module) -> str:
    """The name of an activation in transformers."""
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else _TANH
    return "silu" if isinstance(module, nn.SiLU) else type(module).__name__


def _advice(spec: BackboneSpec, activation: str) -> str:
    """timm's model that differs only in the activation, if it has one."""
    name = spec.architecture.split(".")[0].replace("_clip_", "_clip_quickgelu_")
    if activation == "quick_gelu" and timm.is_model(name):
        return f": try {TIMM_PREFIX}{name}"
    return ""
