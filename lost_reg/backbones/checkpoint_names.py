"""The names of a backbone's tensors in checkpoints: what is wrapped around them, and who gave them.

A checkpoint may hold a backbone among other things and under any prefix. Its tensors get timm's names,
whether they had those of the authors, of Hugging Face transformers or of OpenAI's CLIP. Names that are not
known stay as they are, to be refused as no part of the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lost_reg.errors import LostRegError
from lost_reg.text import shown_names

State = dict[str, Tensor]

# What the weight of the patch embedding is called, after any prefix.
_PATCH_EMBEDDING = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?:"
    r"patch_embed\.proj|"  # timm; the authors of DINO, DINOv2, DINOv3 and DeiT-III
    r"embeddings\.patch_embeddings\.projection|"  # transformers: ViT, Dinov2
    r"embeddings\.patch_embeddings?|"  # transformers: DINOv3ViT; CLIP and SigLIP
    r"(?<=visual\.)conv1"  # OpenAI's CLIP, OpenCLIP
    r")\.weight"
)
# Modules that training wraps around others, anywhere in a name.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What may be integers or booleans, because no ViT's features depend on it.
_NO_WEIGHTS = re.compile(r"(?:^|[._])(?:position_ids|index|mask|num_batches_tracked)$")
# DINOv2 trains its blocks in chunks; the second number is the block's (dinov2/models/vision_transformer.py).
_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d)")


# --- wrappers --------------------------------------------------------------------------------------


def backbone_state(tensors: Mapping[str, Tensor], path: Path) -> State:
    """The tensors of the one backbone in a checkpoint, without prefixes and wrappers.

    Of a training checkpoint, the teacher is taken, as in dino/utils.py, load_pretrained_weights.

    Args:
        tensors: all tensors of the checkpoint, as `read_tensors` gives them.
        path: of the checkpoint, for errors.

    Raises:
        LostRegError: none that is known, several, or only a student; weights that are not floating-point
            numbers, before they are joined with others that are.
    """
    names = [(name, _WRAPPERS.sub("", name)) for name in tensors]
    prefix = _prefix([inner for _, inner in names], path)
    state: State = {}
    for name, inner in names:
        if inner.startswith(prefix):
            inner = _CHUNK.sub("blocks.", inner.removeprefix(prefix))
            if inner in state:
                raise LostRegError(f"{str(path)!r} has two tensors for {inner}, one of them {name}")
            tensor = state[inner] = tensors[name]
            if not (tensor.is_floating_point() or _NO_WEIGHTS.search(name)):
                raise LostRegError(
                    f"{str(path)!r} has other weights than floating-point numbers: {name} is {tensor.dtype}"
                )
    return state


def _prefix(names: Sequence[str], path: Path) -> str:
    """What comes before the names of the backbone."""
    found = [match["prefix"] for name in names if (match := _PATCH_EMBEDDING.fullmatch(name))]
    chosen = [prefix for prefix in found if "teacher" in prefix]
    chosen = chosen or [prefix for prefix in found if "student" not in prefix]
    if not found:
        raise LostRegError(
            f"{str(path)!r} holds no ViT that lost-reg knows: it has {shown_names(names)}, but lacks a patch "
            "embedding, such as patch_embed.proj.weight"
        )
    if not chosen:
        raise LostRegError(f"{str(path)!r} holds only a student ({found[0]}*): lost-reg reads its teacher")
    if len(chosen) > 1:
        several = shown_names(f"{prefix}*" for prefix in chosen)
        raise LostRegError(f"{str(path)!r} holds several backbones ({several}): save one of them alone")
    return chosen[0]


# --- names -----------------------------------------------------------------------------------------

Rules = list[tuple[re.Pattern[str], str]]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


# Names in transformers 4, as on the hub, and those that transformers 5 gives in memory.
_TRANSFORMERS = _rules(
    (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.position_embedding(?:s|\.weight)$", "pos_embed"),
    (r"^embeddings\.(register_tokens|mask_token|position_ids)$", r"\1"),
    (r"^embeddings\.patch_embeddings?\.(?:projection\.)?", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(?:layernorm|post_layernorm)\.", "norm."),
    (r"^(?:model\.)?(?:encoder\.)?layers?\.(?=\d)", "blocks."),
    (r"\.(?:layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(?:layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(?:attention\.attention|attention|self_attn)\.(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"\.mlp\.gate_proj\.", ".mlp.w1."),
    (r"\.mlp\.up_proj\.", ".mlp.w2."),
    (r"\.mlp\.down_proj\.", ".mlp.w3."),
)
_OPENAI = _rules(
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.weight"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
# The authors' names: SwiGLU's layers in DINOv2 (w12, w3) and DINOv3 (w1, w2, w3), and DINOv3's registers.
_AUTHORS = _rules(
    (r"^storage_tokens$", "reg_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def timm_names(state: State, wanted: Collection[str]) -> State:
    """A backbone's tensors under timm's names, in new layers where timm divides them otherwise.

    Args:
        state: as `backbone_state` gives it.
        wanted: the names of the model's own state dict. They decide what is called differently in timm's
            VisionTransformer and Eva.
    """
    if any(name.startswith("embeddings.") for name in state):
        state = _renamed(state, _TRANSFORMERS)
    elif "conv1.weight" in state:
        state = _renamed(state, _OPENAI)
    state = _renamed(state, _AUTHORS)
    _shape_embeddings(state)
    for block in _blocks(state):
        _arrange_attention(state, f"{block}.attn.", wanted)
        _arrange_mlp(state, f"{block}.mlp.", wanted)
        _arrange_scales(state, block, wanted)
    return state


def _renamed(state: State, rules: Rules) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = pattern.sub(replacement, new)
        renamed[name if new in renamed else new] = tensor  # a second one keeps its name, and is refused
    return renamed


def _shape_embeddings(state: State) -> None:
    """Give class token and positions a batch dimension, and registers a class token that has its position."""
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in state and state["pos_embed"].ndim == 2:
        state["pos_embed"] = state["pos_embed"][None]  # (1, 1 + N, D)
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        if "pos_embed" in state and "cls_token" in state:  # in timm, it has none beside registers
            position = state["pos_embed"]
            state["cls_token"], state["pos_embed"] = state["cls_token"] + position[:, :1], position[:, 1:]


def _blocks(state: State) -> list[str]:
    """The names of the blocks, such as "blocks.0"."""
    return sorted({match[0] for name in state if (match := re.match(r"blocks\.\d+(?=\.)", name))})


def _arrange_attention(state: State, attention: str, wanted: Collection[str]) -> None:
    """Join q, k and v into one layer; Eva's joined layer has separate biases instead of one."""
    separate = f"{attention}qkv.bias" not in wanted
    if separate and f"{attention}qkv.bias" in state:
        for part, bias in zip("qkv", state.pop(f"{attention}qkv.bias").chunk(3)):
            state[f"{attention}{part}.bias"] = bias
        if state.pop(f"{attention}qkv.bias_mask", None) is not None:  # DINOv3 has no bias for keys
            state.pop(f"{attention}k.bias", None)  # absent where the bias has fewer than three elements
    for kind in ("weight", "bias"):
        parts = [f"{attention}{part}.{kind}" for part in "qkv"]
        if kind == "bias" and separate:
            for part in "qkv":
                _move(state, f"{attention}{part}.bias", f"{attention}{part}_bias")
        elif all(part in state for part in parts):
            state[f"{attention}qkv.{kind}"] = torch.cat([state.pop(part) for part in parts])


def _arrange_mlp(state: State, mlp: str, wanted: Collection[str]) -> None:
    """Join the two input layers of a SwiGLU where timm has one; without a gate, it is a plain MLP."""
    for kind in ("weight", "bias"):
        gate, value, joined = (f"{mlp}{layer}.{kind}" for layer in ("fc1_g", "fc1_x", "fc1"))
        if gate not in state:
            _move(state, value, joined)
        elif joined in wanted and value in state:
            state[joined] = torch.cat([state.pop(gate), state.pop(value)])


def _arrange_scales(state: State, block: str, wanted: Collection[str]) -> None:
    """Give the factors of LayerScale the name that they have in the model."""
    for number in (1, 2):
        names = [f"{block}.ls{number}.gamma", f"{block}.gamma_{number}"]
        for name, other in (names, names[::-1]):
            if name in wanted:
                _move(state, other, name)


def _move(state: State, name: str, target: str) -> None:
    if name in state:
        state[target] = state.pop(name)
