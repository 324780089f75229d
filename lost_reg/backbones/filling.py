"""Filling timm's models with checkpoints, strictly: one that does not fit is refused, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lost_reg.backbones import zoo
from lost_reg.backbones.checkpoint_config import apply_config
from lost_reg.backbones.checkpoint_files import read_tensors
from lost_reg.backbones.checkpoint_folders import config_of
from lost_reg.backbones.checkpoint_names import State, backbone_state, timm_names
from lost_reg.backbones.timm_import import timm
from lost_reg.backbones.timm_models import Vit, empty_model
from lost_reg.backbones.zoo import TIMM_PREFIX, BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.text import counted, first_sentence, shown_names

# Parts of a ViT that nothing needs: they come after the final norm, are used only in training, or are
# computed by the model itself.
_NOT_NEEDED = (
    "fc_norm.", "head", "pooler.", "pre_logits.", "attn_pool.",
    "mask_token", "local_cls_norm.",
    "position_ids", "rope",
)  # fmt: skip
_FINAL_NORM = "norm."


def filled_model(spec: BackboneSpec, path: Path) -> Vit:
    """The model of a row, with the weights of a checkpoint.

    Learned positions of another square grid make it a model of that grid; they are resampled to each image's
    grid in any case.

    Raises:
        LostRegError: a checkpoint that does not fit; says why, and which rows it fits.
    """
    return filled(spec, backbone_state(read_tensors(path), path), config_of(path), path)


def filled(spec: BackboneSpec, state: State, config: dict[str, Any] | None, path: Path) -> Vit:
    """The model of a row with the tensors of a backbone; see `filled_model`.

    Args:
        state: as `backbone_state` gives it.
        config: what transformers says about the model, if it is known.
        path: the checkpoint, for errors.
    """
    model, fitted = _matched(spec, state, config, path)
    del state  # what is copied below is not held twice, if the caller does not hold it
    try:
        for name in list(fitted):  # copies, so that the model does not depend on the file any more
            fitted[name] = fitted.pop(name).to(
                torch.float32, copy=True, memory_format=torch.contiguous_format
            )
            if not fitted[name].isfinite().all():
                raise LostRegError(f"{str(path)!r} has NaN or infinite values in {name}")
    except (RuntimeError, IndexError) as error:  # torch's, for tensors of impossible shapes or kinds
        raise LostRegError(f"{str(path)!r} does not fit {spec.name}: {first_sentence(error)}") from None
    model.load_state_dict(fitted, assign=True)
    _make_buffers(model)
    return model


def check_fits(spec: BackboneSpec, path: Path) -> None:
    """Check that a checkpoint fits a row, by the names and shapes of its tensors; their values are not read.

    Raises:
        LostRegError: see `filled_model`.
    """
    _matched(spec, backbone_state(read_tensors(path), path), config_of(path), path)


def _matched(
    spec: BackboneSpec, state: State, config: dict[str, Any] | None, path: Path
) -> tuple[Vit, State]:
    """The empty model of a row, and the tensors that fit it."""
    model = empty_model(spec)
    try:
        fitted = _fitted(state, model)
        if misfits := _misfits(fitted, model):
            raise LostRegError(
                f"{str(path)!r} does not fit {spec.name}: {_reason(state, model, spec, misfits)}"
            )
        apply_config(model, config, path, spec)
    except (RuntimeError, IndexError) as error:  # torch's, for tensors of impossible shapes
        raise LostRegError(f"{str(path)!r} does not fit {spec.name}: {first_sentence(error)}") from None
    return model, fitted


def _fitted(state: State, model: Vit) -> State:
    """The tensors under the model's names, without those not needed; the model gets their positions' grid.

    Only class tokens need the final norm: without one in the checkpoint, the model has none.
    """
    named = timm_names(state, model.state_dict())
    if not any(name.startswith(_FINAL_NORM) for name in named):
        model.norm = nn.Identity()
    wanted = model.state_dict()
    fitted = {
        name: tensor
        for name, tensor in named.items()
        if name in wanted or not (name.startswith(_NOT_NEEDED) or _is_zero_bias(name, tensor))
    }
    _set_grid(model, fitted)
    return fitted


def _is_zero_bias(name: str, bias: Tensor) -> bool:
    """Whether it is a bias of q, k or v that changes nothing: some DINOv3 have them, timm's models none."""
    return name.endswith(("q_bias", "k_bias", "v_bias")) and not bias.any()


def _set_grid(model: Vit, state: State) -> None:
    """Make it a model of the square grid that the learned positions are of, if they are of one."""
    positions = state.get("pos_embed")
    if model.pos_embed is None or positions is None or positions.ndim != 3:
        return
    prefix = model.pos_embed.shape[1] - math.prod(model.patch_embed.grid_size)
    side = math.isqrt(max(positions.shape[1] - prefix, 0))
    if side and side**2 == positions.shape[1] - prefix and (side, side) != model.patch_embed.grid_size:
        model.set_input_size(img_size=(side * model.patch_embed.patch_size[0],) * 2)


def _make_buffers(model: Vit) -> None:
    """For a model made on the meta device, compute what no file holds: frequencies of rotary positions."""
    for module in model.modules():
        initialise: Any = getattr(module, "init_non_persistent_buffers", None)
        if initialise is not None:
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty_like(buffer, device="cpu"))
            initialise()


def _misfits(state: State, model: Vit) -> str:
    """What differs from the model's own names and shapes; empty if nothing."""
    wanted = model.state_dict()
    lacking = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    parts = [
        f"it lacks {shown_names(lacking)}" if lacking else "",
        f"it has {shown_names(unknown)}, not part of the model" if unknown else "",
        shown_names(reshaped, most=2),
    ]
    return "; ".join(filter(None, parts))


# --- advice ----------------------------------------------------------------------------------------


class _Size(NamedTuple):
    """What the shapes of its tensors tell about a ViT."""

    registers: int
    patch: int
    width: int
    blocks: int


def _size(state: Mapping[str, Tensor]) -> _Size | None:
    """The size of a model, from a state dict with timm's names; None for what is no ViT."""
    projection = state.get("patch_embed.proj.weight")
    if projection is None or projection.ndim != 4:
        return None
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return _Size(registers, projection.shape[-1], len(projection), len(blocks))


def _reason(state: State, model: Vit, spec: BackboneSpec, misfits: str) -> str:
    """Why a checkpoint does not fit: how its size differs, and the backbones that it fits or the misfits."""
    state = {  # shapes, to be tried on other models; biases that are zero may be left out
        name: tensor if tensor.ndim == 1 else torch.empty_like(tensor, device="meta")
        for name, tensor in state.items()
    }
    found, own = _size(timm_names(state, ())), _size(model.state_dict())
    if found is None or own is None:
        return misfits
    registers = counted(found.registers, "register token") if found.registers else "no register tokens"
    differences = {
        f"has {registers}": found.registers - own.registers,
        f"patch size {found.patch}": found.patch - own.patch,
        f"width {found.width}": found.width - own.width,
        counted(found.blocks, "block"): found.blocks - own.blocks,
    }
    fitting = [row.name for row in _other_rows(spec) if _may_fit(row, found) and fits(state, row)]
    words = ", ".join(text for text, difference in differences.items() if difference)
    if fitting:
        return f"{words or 'other layers'}: try {' or '.join(fitting)}"
    return "; ".join(filter(None, (words, misfits)))


def _other_rows(spec: BackboneSpec) -> list[BackboneSpec]:
    """The rows of the table, and timm's model that is the same but has biases (of DINOv3)."""
    biased = f"{spec.architecture.split('.')[0]}_qkvb"
    rows = [row for row in zoo.SPECS if row.name != spec.name]
    if timm.is_model(biased):
        rows.append(replace(spec, name=f"{TIMM_PREFIX}{biased}", architecture=biased))
    return rows


def _may_fit(row: BackboneSpec, size: _Size) -> bool:
    """Whether it can fit, as far as the row tells."""
    return row.patch_size in (0, size.patch) and row.registers == size.registers


def fits(state: State, row: BackboneSpec) -> bool:
    """Whether the tensors of a backbone fit a row."""
    model = empty_model(row)
    return not _misfits(_fitted(state, model), model)
