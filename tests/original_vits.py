"""An oracle: the authors' ViTs up to their keys, written anew as functions of a state dict.

The state dict has the names of the authors' files (facebookresearch/dino, vision_transformer.py, and
facebookresearch/dinov2, dinov2/models/vision_transformer.py). It shares no code with lost_reg and none
with timm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def qkv_of_blocks(state: State, images: Tensor, heads: int, blocks: int | None = None) -> list[Tensor]:
    """The output of every block's qkv layer for the patches: a list of (B, N, 3 D).

    Args:
        state: the model's weights.
        images: (B, 3, H, W).
        heads: attention heads.
        blocks: how many blocks are wanted, all by default.
    """
    return [qkv for qkv, _ in islice(run_blocks(state, images, heads), blocks)]


def tokens_after_blocks(state: State, images: Tensor, heads: int) -> list[Tensor]:
    """The patch tokens after every block: a list of (B, N, D)."""
    return [tokens for _, tokens in run_blocks(state, images, heads)]


def run_blocks(state: State, images: Tensor, heads: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each block, the output of its qkv layer and its own, for the patches: (B, N, 3 D), (B, N, D)."""
    tokens = embed(state, images)  # (B, prefix + N, D)
    prefix = 1 + (state["register_tokens"].shape[1] if "register_tokens" in state else 0)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for index in range(depth):
        block = f"blocks.{index}"
        qkv = linear(state, f"{block}.attn.qkv", norm(state, f"{block}.norm1", tokens))
        attended = linear(state, f"{block}.attn.proj", attention(qkv, heads))
        tokens = tokens + attended * state.get(f"{block}.ls1.gamma", 1)
        expanded = mlp(state, f"{block}.mlp", norm(state, f"{block}.norm2", tokens))
        tokens = tokens + expanded * state.get(f"{block}.ls2.gamma", 1)
        yield qkv[:, prefix:], tokens[:, prefix:]


def embed(state: State, images: Tensor) -> Tensor:
    """Class token, registers and patches with their positions: (B, 1 + registers + N, D)."""
    weight = state["patch_embed.proj.weight"]
    patches = F.conv2d(images, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1])
    batch, _, rows, columns = patches.shape
    patches = patches.flatten(2).transpose(1, 2)  # (B, N, D)
    tokens = torch.cat([state["cls_token"].expand(batch, -1, -1), patches], dim=1)
    tokens = tokens + positions(state, rows, columns)
    if "register_tokens" in state:  # they have no position
        registers = state["register_tokens"].expand(batch, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
    return tokens


def positions(state: State, rows: int, columns: int) -> Tensor:
    """The position embedding of the class token and of a grid of patches: (1, 1 + rows * columns, D)."""
    of_class, of_patches = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    native = math.isqrt(of_patches.shape[1])
    if rows == columns == native:
        return state["pos_embed"]
    image = of_patches.reshape(1, native, native, -1).permute(0, 3, 1, 2)
    if "register_tokens" in state:  # interpolate_antialias=True, interpolate_offset=0.0
        image = F.interpolate(image, size=(rows, columns), mode="bicubic", antialias=True)
    else:
        scale = ((rows + 0.1) / native, (columns + 0.1) / native)
        image = F.interpolate(image, scale_factor=scale, mode="bicubic")
    assert image.shape[-2:] == (rows, columns)
    return torch.cat([of_class, image.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """(B, T, 3 D) to (B, T, D): queries meet keys, head by head."""
    batch, length, width = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(batch, length, width // 3)


def mlp(state: State, name: str, tokens: Tensor) -> Tensor:
    if f"{name}.w12.weight" in state:  # SwiGLU, of ViT-g
        gate, value = linear(state, f"{name}.w12", tokens).chunk(2, dim=-1)
        return linear(state, f"{name}.w3", F.silu(gate) * value)
    return linear(state, f"{name}.fc2", F.gelu(linear(state, f"{name}.fc1", tokens)))


def norm(state: State, name: str, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def linear(state: State, name: str, tokens: Tensor) -> Tensor:
    return F.linear(tokens, state[f"{name}.weight"], state[f"{name}.bias"])


def random_state(
    patch: int, native: int, *, dim=384, depth=12, dinov2=False, registers=0, swiglu=False, seed=0
) -> State:
    """Random weights under the authors' names.

    Every part weighs in: tokens and positions are of deviation 1, layers keep the scale of their
    input, norms and layer scales differ from channel to channel.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, mean=0.0, std=1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * std + mean

    def layer(name: str, outputs: int, inputs: int) -> State:
        weight = random(outputs, inputs, std=inputs**-0.5)
        return {f"{name}.weight": weight, f"{name}.bias": random(outputs, std=0.1)}

    def layer_norm(name: str) -> State:
        return {f"{name}.weight": random(dim, mean=1, std=0.2), f"{name}.bias": random(dim, std=0.2)}

    state = {
        "cls_token": random(1, 1, dim),
        "pos_embed": random(1, 1 + native * native, dim),
        "patch_embed.proj.weight": random(dim, 3, patch, patch, std=(3 * patch * patch) ** -0.5),
        "patch_embed.proj.bias": random(dim, std=0.1),
        **layer_norm("norm"),
    }
    if dinov2:
        state["mask_token"] = random(1, dim)
    if registers:
        state["register_tokens"] = random(1, registers, dim)
    for index in range(depth):
        block = f"blocks.{index}"
        state |= layer_norm(f"{block}.norm1") | layer_norm(f"{block}.norm2")
        state |= layer(f"{block}.attn.qkv", 3 * dim, dim) | layer(f"{block}.attn.proj", dim, dim)
        if swiglu:
            hidden = (4 * dim * 2 // 3 + 7) // 8 * 8
            state |= layer(f"{block}.mlp.w12", 2 * hidden, dim) | layer(f"{block}.mlp.w3", dim, hidden)
        else:
            state |= layer(f"{block}.mlp.fc1", 4 * dim, dim) | layer(f"{block}.mlp.fc2", dim, 4 * dim)
        if dinov2:
            state[f"{block}.ls1.gamma"] = random(dim, mean=0.7, std=0.2)
            state[f"{block}.ls2.gamma"] = random(dim, mean=0.7, std=0.2)
    return state
