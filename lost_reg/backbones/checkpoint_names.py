"""The names of a backbone's tensors in checkpoints: what is wrapped around them, and who gave them.

A checkpoint may hold a backbone among other things and under any prefix. Its tensors are brought under the
names of the backbone's authors or of timm; timm's own converter does the rest (`timm_models`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lost_reg.errors import LostRegError
from lost_reg.text import shown_names

State = dict[str, Tensor]

# What the weight of the patch embedding is called, after any prefix.
_PATCH_EMBEDDINGS = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?:"
    r"patch_embed\.proj|"  # timm; the authors of DINO, DINOv2, DINOv3 and DeiT-III
    r"embeddings\.patch_embeddings\.projection|"  # transformers: ViT, Dinov2
    r"embeddings\.patch_embeddings?|"  # transformers: DINOv3ViT; CLIP and SigLIP
    r"visual\.conv1"  # OpenAI's CLIP, OpenCLIP
    r")\.weight"
)
# Modules that training wraps around others, anywhere in a name.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# DINOv2 trains its blocks in chunks; the second number is the block's (dinov2/models/vision_transformer.py).
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")


def backbone_state(tensors: Mapping[str, Tensor], path: Path) -> State:
    """The tensors of the one backbone in a checkpoint, without prefixes and wrappers.

    Of a training checkpoint, the teacher is taken, as in dino/utils.py, load_pretrained_weights.

    Args:
        tensors: all tensors of the checkpoint, as `read_tensors` gives them.
        path: of the checkpoint, for errors.

    Raises:
        LostRegError: several backbones, or only a student.
    """
    names = {_WRAPPERS.sub("", name): name for name in tensors}
    prefix = _prefix(names, path)
    state: State = {}
    for name, original in names.items():
        if name.startswith(prefix):
            state[_CHUNK.sub(r"blocks.\1.", name.removeprefix(prefix))] = tensors[original]
    return _authors_names(state)


def _prefix(names: Iterable[str], path: Path) -> str:
    """What comes before the names of the backbone; empty if no backbone is recognised."""
    found = [match["prefix"] for name in names if (match := _PATCH_EMBEDDINGS.fullmatch(name))]
    teachers = [prefix for prefix in found if "teacher" in prefix]
    others = [prefix for prefix in found if "student" not in prefix]
    chosen = teachers or others
    if found and not chosen:
        raise LostRegError(f"{str(path)!r} holds only a student ({found[0]}*): lost-reg reads its teacher")
    if len(chosen) > 1:
        several = shown_names(prefix + "*" for prefix in chosen)
        raise LostRegError(f"{str(path)!r} holds several backbones ({several}): save one of them alone")
    return chosen[0] if chosen else ""


# --- transformers ----------------------------------------------------------------------------------

# Names in transformers 4, as on the hub, and in the memory of transformers 5. Applied in order.
_RULES = [
    (re.compile(pattern), name)
    for pattern, name in [
        (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.position_embedding(?:s|\.weight)$", "pos_embed"),
        (r"^embeddings\.(register_tokens|mask_token|position_ids)$", r"\1"),
        (r"^embeddings\.patch_embeddings?\.(?:projection\.)?", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^(?:layernorm|post_layernorm|norm)\.", "norm."),
        (r"^(?:model\.)?(?:encoder\.)?layers?\.(?=\d)", "blocks."),
        (r"\.(?:layernorm_before|layer_norm1)\.", ".norm1."),
        (r"\.(?:layernorm_after|layer_norm2)\.", ".norm2."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
        (r"\.(?:attention\.attention|attention|self_attn)\.(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
        (r"\.(?:intermediate\.dense)\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
    ]
]


def _authors_names(state: State) -> State:
    """The tensors of a transformers model under the names of the backbone's authors; others as they are."""
    if not any(name.startswith("embeddings.") for name in state):
        return state
    renamed: State = {}
    for name, tensor in state.items():
        for pattern, replacement in _RULES:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    for name in [name for name in renamed if name.endswith(".attn.q.weight")]:
        _join(renamed, name.removesuffix("q.weight"))
    return renamed


def _join(state: State, attention: str) -> None:
    """Replace q, k and v of an attention by one layer, qkv."""
    for kind in ("weight", "bias"):
        parts = [f"{attention}{part}.{kind}" for part in "qkv"]
        if all(part in state for part in parts):
            state[f"{attention}qkv.{kind}"] = torch.cat([state.pop(part) for part in parts])
