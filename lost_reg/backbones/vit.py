"""Patch features from timm's vision transformers: facets of the output of a block's qkv layer."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lost_reg.backbones.base import ATTENTION, CLASS_TOKEN, PRECISIONS, TOKENS, Backbone
from lost_reg.backbones.cost import ModelCost
from lost_reg.backbones.registers import AddedRegisters, add_registers, trained_registers
from lost_reg.backbones.timm_import import (
    Attention,
    Eva,
    EvaAttention,
    VisionTransformer,
    apply_rot_embed_cat,
)
from lost_reg.backbones.weights import Weights
from lost_reg.backbones.zoo import BackboneSpec
from lost_reg.discovery.features import FACETS, Part
from lost_reg.errors import LostRegError


class VitBackbone(Backbone):
    """A timm ViT with learned or rotary positions.

    Queries and keys are taken before any rotary embedding is applied to them: it differs from patch to patch,
    and discovery compares patches regardless of their position.

    Attributes besides those of `Backbone`:
        spec: its row in the table.
        model: timm's model, in evaluation mode.
        num_prefix_tokens: how many tokens come before the patches, test-time registers included.

    Raises:
        LostRegError: test-time registers that the model cannot use.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        model: VisionTransformer | Eva,
        weights: Weights,
        device: torch.device,
        precision: str,
        registers: AddedRegisters | None = None,
    ):
        self.spec, self.name, self.family, self.weights = spec, spec.name, spec.family, weights
        self.device, self.precision = device, precision
        self.model = model.eval().requires_grad_(False).to(device, PRECISIONS[precision])
        self.patch_size = model.patch_embed.patch_size[0]
        config: Any = model.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.depth = len(model.blocks)
        self.heads = int(getattr(model.blocks[0].attn, "num_heads", 0))
        self.registers = registers
        self.num_prefix_tokens = model.num_prefix_tokens + (registers.count if registers else 0)
        if registers:
            add_registers(self.model, registers, self.name)
        self._prefix_rows = _prefix_rows(self.model, registers)
        self.prefix_tokens = tuple(self._prefix_rows)
        if trained := trained_registers(model):
            self.register_row = model.num_prefix_tokens - trained
        elif registers:
            self.register_row = model.num_prefix_tokens
        self.cost = ModelCost(self.model, self.num_prefix_tokens, PRECISIONS[precision].itemsize)

    @torch.inference_mode()
    def facets(self, images: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """See `Backbone.facets`; in the backbone's precision.

        Only the blocks before the last of the layers run, and only the wanted rows of qkv are computed.
        """
        for facet, _ in parts:
            if facet not in (*FACETS, TOKENS, ATTENTION):
                raise LostRegError(f"unknown facet {facet!r}: choose among {', '.join(FACETS)}")
        indices = [self.block_index(layer) for _, layer in parts]
        found: dict[Part, Tensor] = {}
        for index, tokens in zip(range(max(indices) + 1), self._tokens_between_blocks(images)):
            for part, wanted in zip(parts, indices):
                if wanted != index:
                    continue
                if part[0] == ATTENTION:
                    found[part] = self._prefix_attention(tokens, index, images.shape[2:])
                else:
                    found[part] = self._facet(tokens[:, self.num_prefix_tokens :], part[0], index)
        return [found[part] for part in parts]

    def _prefix_attention(self, tokens: Tensor, index: int, size_hw: Sequence[int]) -> Tensor:
        """The attention in a block that (B, T, D) tokens enter: (B, P, heads, N); see `Backbone.facets`."""
        block: Any = self.model.blocks[index]
        attention, normed = block.attn, block.norm1(tokens)

        def of_heads(of: Tensor, facet: str) -> Tensor:  # (B, T, D) to (B, heads, T, D / heads)
            projected = F.linear(of, *facet_layer(attention, facet))
            return projected.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

        queries = attention.q_norm(of_heads(normed[:, list(self._prefix_rows.values())], "q"))
        keys = attention.k_norm(of_heads(normed, "k"))
        rotation = self._rotation([side // self.patch_size for side in size_hw])
        if rotation:  # of the patches; positions do not turn the tokens before them
            prefix, patches = keys.split([self.num_prefix_tokens, keys.shape[2] - self.num_prefix_tokens], 2)
            half = getattr(attention, "rotate_half", False)
            keys = torch.cat([prefix, apply_rot_embed_cat(patches, rotation["rope"], half=half)], dim=2)
        weights = (queries.float() * attention.scale @ keys.float().mT).softmax(dim=3)  # (B, heads, P, T)
        return weights[:, :, :, self.num_prefix_tokens :].transpose(1, 2)

    def _facet(self, patch_tokens: Tensor, facet: str, index: int) -> Tensor:
        """One facet of a block for the (B, N, D) patch tokens that enter it: (B, N, D)."""
        if facet == TOKENS:
            return patch_tokens
        block: Any = self.model.blocks[index]
        return F.linear(block.norm1(patch_tokens), *facet_layer(block.attn, facet))

    @torch.inference_mode()
    def patch_embeddings(self, images: Tensor) -> Tensor:
        return self._patch_embeddings(images).flatten(1, 2)

    @torch.inference_mode()
    def block_outputs(self, images: Tensor, *, with_prefix: bool = False) -> Iterator[Tensor]:
        for tokens in itertools.islice(self._tokens_between_blocks(images), 1, None):
            yield tokens if with_prefix else tokens[:, self.num_prefix_tokens :]

    def check_class_token(self) -> None:
        if self.model.cls_token is None:
            super().check_class_token()
        self._check_final_norm()

    def _check_final_norm(self) -> None:
        if isinstance(self.model.norm, nn.Identity):
            raise LostRegError(
                f"the weights of {self.name} have no norm after the last block, which its tokens need here: "
                "choose other `weights`"
            )

    @torch.inference_mode()
    def final_norm(self, tokens: Tensor) -> Tensor:
        self._check_final_norm()
        return self.model.norm(tokens)

    @torch.inference_mode()
    def class_tokens(self, images: Tensor) -> Tensor:
        self.check_class_token()
        (tokens,) = deque(self._tokens_between_blocks(images), maxlen=1)  # the last
        return self.model.norm(tokens[:, 0])

    def _tokens_between_blocks(self, images: Tensor) -> Iterator[Tensor]:
        """All tokens entering each block, then those leaving the last; computed on demand."""
        patches = self._patch_embeddings(images)
        rotation = self._rotation(patches.shape[1:3])
        tokens = self._embed(patches)
        yield tokens
        for block in self.model.blocks:
            tokens = block(tokens, **rotation)
            yield tokens

    def _rotation(self, grid_hw: Sequence[int]) -> dict[str, Tensor]:
        """What blocks with rotary positions need besides the tokens: sines and cosines for each patch."""
        rope = getattr(self.model, "rope", None)
        return {} if rope is None else {"rope": rope.get_embed(shape=grid_hw)}  # (N, 2 D / heads)

    def _patch_embeddings(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, rows, columns, D)."""
        with _float32_convolutions():
            return self.model.patch_embed(images.to(self.device, PRECISIONS[self.precision]))

    def _embed(self, patches: Tensor) -> Tensor:
        """(B, rows, columns, D) to the tokens that enter the first block, (B, num_prefix_tokens + N, D)."""
        model = self.model
        batch, rows, columns, _ = patches.shape
        patches = patches.flatten(1, 2)  # (B, N, D)
        prefix = [t.expand(batch, -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        if model.pos_embed is not None:
            # With no_embed_class only patches have a position, else the prefix has one too.
            split = 0 if model.no_embed_class else model.num_prefix_tokens
            of_prefix, of_patches = model.pos_embed[:, :split], model.pos_embed[:, split:]
            patches = patches + resample_position(of_patches, (rows, columns), self.spec.position_offset)
            if split:
                prefix = [torch.cat(prefix, dim=1) + of_prefix]
        if self.registers:  # tokens of zeros without a position
            prefix.append(patches.new_zeros(batch, self.registers.count, patches.shape[2]))
        return model.norm_pre(torch.cat([*prefix, patches], dim=1))


@contextlib.contextmanager
def _float32_convolutions() -> Iterator[None]:
    """Compute float32 convolutions in float32: cuDNN rounds them to TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _prefix_rows(model: VisionTransformer | Eva, registers: AddedRegisters | None) -> dict[str, int]:
    """The tokens that `Backbone.prefix_tokens` names, and where they are among all tokens.

    There are none where attention is more than one softmax per head, as in timm's DiffAttention.
    """
    if any(type(block.attn) not in (Attention, EvaAttention) for block in model.blocks):
        return {}
    trained = trained_registers(model)
    names = {CLASS_TOKEN: 0} if model.cls_token is not None else {}
    first = model.num_prefix_tokens - trained
    names |= {f"register {index + 1}": first + index for index in range(trained)}
    return names | ({"test-time register": model.num_prefix_tokens} if registers else {})


def facet_layer(attention: Any, facet: str) -> tuple[Tensor, Tensor | None]:
    """The part of an attention's qkv layer that gives one facet: weight (D, D), and bias (D,) or None.

    timm fuses q, k and v into one layer or has a layer for each; Eva's fused layer has a separate bias.
    """
    if attention.qkv is None:
        layer = getattr(attention, f"{facet}_proj")
        return layer.weight, layer.bias
    width = attention.qkv.out_features // 3
    rows = slice(FACETS.index(facet) * width, (FACETS.index(facet) + 1) * width)
    if isinstance(attention, EvaAttention):
        bias = getattr(attention, f"{facet}_bias")
    else:
        bias = None if attention.qkv.bias is None else attention.qkv.bias[rows]
    return attention.qkv.weight[rows], bias


def resample_position(position: Tensor, grid_hw: tuple[int, int], offset: float | None) -> Tensor:
    """Resample the position embedding of a square native grid to another grid, as the model was trained.

    Args:
        position: (1, N0, D), N0 a square number.
        grid_hw: the grid wanted (rows, columns).
        offset: see `BackboneSpec.position_offset`.

    Returns:
        (1, rows * columns, D), in the dtype of `position`.
    """
    native = math.isqrt(position.shape[1])
    if (native, native) == grid_hw:
        return position
    image = position.float().unflatten(1, (native, native)).permute(0, 3, 1, 2)  # (1, D, native, native)
    if offset is None:
        resampled = F.interpolate(image, size=grid_hw, mode="bicubic", antialias=True)
    else:
        # Pass the scale factor, not the size: interpolate computes its coordinates from the factor, so the
        # offset shifts them. The output size, rounded down, is the one wanted.
        scale = tuple((side + offset) / native for side in grid_hw)
        resampled = F.interpolate(image, scale_factor=scale, mode="bicubic")
    return resampled.flatten(2).mT.to(position.dtype)
