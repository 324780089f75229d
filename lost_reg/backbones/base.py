"""The interface of a backbone: images in, patch features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.weights import Weights
from lost_reg.backbones.zoo import backbone_label
from lost_reg.discovery.features import Part
from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.text import counted

if TYPE_CHECKING:
    from lost_reg.backbones.cost import ModelCost

# What `facets` can give of a block besides the facets: the patch tokens that enter it, and the attention of
# the tokens before the patches to the patches.
TOKENS, ATTENTION = "tokens", "attention"
CLASS_TOKEN = "class"  # in `Backbone.prefix_tokens`, the first where there is one
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class BlockTokens:
    """All tokens that enter a block.

    tokens: (B, P + N, D), before the block's LayerNorm; patches come last, in row-major order.
    layer: the block's index; the depth for the tokens that leave the last block.
    prefix: P, how many tokens come before the patches: class token, registers, test-time registers.
    grid_hw: the patch grid (rows, columns); rows * columns = N.
    """

    tokens: Tensor
    layer: int
    prefix: int
    grid_hw: tuple[int, int]

    @property
    def patches(self) -> Tensor:
        """The tokens of the patches, (B, N, D)."""
        return self.tokens[:, self.prefix :]

    def with_patches(self, patches: Tensor) -> BlockTokens:
        """The same with other tokens of the patches, (B, N, D)."""
        return replace(self, tokens=torch.cat([self.tokens[:, : self.prefix], patches], dim=1))


class Backbone(ABC):
    """A model of patches. Images are (B, 3, H, W), normalised, H and W multiples of the patch size.

    An implementation refuses what it does not support in one line, as the methods here do by default.

    Attributes:
        name: as in results. family: of the table of backbones, or "".
        patch_size: in pixels.
        mean, std: for normalising images in [0, 1].
        weights: which weights it has.
        device, precision: where, and in which dtype, it runs.
        depth: how many blocks it has. heads: how many attention heads each has, 0 if it has no attention.
        prefix_tokens: the tokens before the patches whose attention it can give, such as ("class",
            "register 1"). All test-time registers of an image are alike, so only one is among them.
        registers: its test-time registers, or None.
        register_row: where its first register, trained or added, is among the tokens of
            `block_outputs(with_prefix=True)`; None without any.
        cost: what images cost, if known.
        parameters: how many numbers its weights are, if known.
    """

    name: str
    family: str = ""
    patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Weights
    device: torch.device
    precision: str
    depth: int
    heads: int = 0
    prefix_tokens: tuple[str, ...] = ()
    registers: AddedRegisters | None = None
    register_row: int | None = None
    cost: ModelCost | None = None
    parameters: int | None = None

    def __repr__(self) -> str:
        blocks = f", {counted(self.depth, 'block')} of {counted(self.heads, 'head')}" if self.heads else ""
        where = f"{self.device}, {self.precision}"
        return f"<Backbone {self.label}: patches of {self.patch_size} pixels{blocks}; {where}>"

    def recorded(self) -> dict[str, Any]:
        """As recorded in results: which model it is, and how it runs."""
        return {
            "backbone": self.name,
            "weights": self.weights.recorded(),
            "precision": self.precision,
            "test_time_registers": self.registers.settings if self.registers else None,
        }

    @property
    def label(self) -> str:
        """Its name with all differences from its published weights: see `backbone_label`."""
        registers = self.registers.settings if self.registers else None
        return backbone_label(self.name, self.weights.recorded(), registers)

    @abstractmethod
    def facets(self, images: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """Facets of layers, from one forward pass.

        Args:
            parts: (facet, layer) of each: "q", "k", "v", TOKENS or ATTENTION, and the index of the block;
                negative counts from the last.

        Returns:
            (B, N, D) for each part, patches in row-major order, without class and register tokens. For
            ATTENTION, (B, P, heads, N) float32: the weights with which each of the P `prefix_tokens` attends
            to each patch. The rest, up to a sum of 1, goes to the tokens before the patches.

        Raises:
            LostRegError: a facet or layer that the backbone does not have.
        """

    def features(self, images: Tensor, facet: str = "k", layer: int = -1) -> Tensor:
        """One facet of one layer, (B, N, D); see `facets`."""
        return self.facets(images, [(facet, layer)])[0]

    def patch_tokens(self, images: Tensor, layer: int = -1) -> Tensor:
        """The patch tokens that enter a block, before its LayerNorm: (B, N, D); see `facets`."""
        return self.facets(images, [(TOKENS, layer)])[0]

    def prefix_attention(self, images: Tensor, layer: int = -1) -> Tensor:
        """The attention of the `prefix_tokens` to the patches in a block: (B, P, heads, N); see `facets`.

        Raises:
            LostRegError: a backbone without such tokens.
        """
        if not self.prefix_tokens:
            raise LostRegError(f"{self.name} has no class token and no registers, whose attention is needed")
        return self.facets(images, [(ATTENTION, layer)])[0]

    def patch_embeddings(self, images: Tensor) -> Tensor:
        """The patch tokens right after the patch embedding, without position embedding: (B, N, D).

        Raises:
            LostRegError: a backbone without a patch embedding.
        """
        self._refuse_blocks()

    def block_outputs(self, images: Tensor, *, with_prefix: bool = False) -> Iterator[Tensor]:
        """The patch tokens after each block, in order: (B, N, D) each, before any final norm.

        Computed on demand: blocks after the last requested output do not run.

        Args:
            with_prefix: also the tokens before the patches, such as the class token: (B, P + N, D).

        Raises:
            LostRegError: a backbone without blocks.
        """
        self._refuse_blocks()

    def tokens_by_block(self, images: Tensor) -> Iterator[BlockTokens]:
        """The tokens that enter each block, in order, and then those that leave the last.

        Computed on demand, as in `block_outputs`. `facets_from` and `class_tokens_from` go on from them, also
        after a change.

        Raises:
            LostRegError: a backbone without blocks.
        """
        self._refuse_blocks()

    def facets_from(self, entering: BlockTokens, parts: Sequence[Part]) -> list[Tensor]:
        """`facets` of the block that given tokens enter, and of those after it.

        Raises:
            LostRegError: a backbone without blocks, or an earlier layer.
        """
        self._refuse_blocks()

    def class_tokens_from(self, entering: BlockTokens) -> Tensor:
        """`class_tokens` from the tokens that enter a block: (B, D).

        Raises:
            LostRegError: see `check_class_token`.
        """
        self.check_class_token()
        raise NotImplementedError

    def check_class_token(self) -> None:
        """Check that `class_tokens` can be computed.

        Raises:
            LostRegError: a backbone without a class token, or without the norm that is applied to it.
        """
        raise LostRegError(f"{self.name} has no class token, which is needed here: choose another `backbone`")

    def class_tokens(self, images: Tensor) -> Tensor:
        """The class token after the last block and the final norm: (B, D).

        Other tokens before the patches, such as registers, take part in attention only.

        Raises:
            LostRegError: see `check_class_token`.
        """
        self.check_class_token()
        raise NotImplementedError

    def last_tokens(self, images: Tensor, *, normed: bool = True) -> Tensor:
        """All tokens after the last block: (B, P + N, D), those before the patches first.

        Args:
            normed: after the final norm, too.

        Raises:
            LostRegError: a backbone without blocks, or without that norm.
        """
        (tokens,) = deque(self.block_outputs(images, with_prefix=True), maxlen=1)
        return self.final_norm(tokens) if normed else tokens

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens that leave the last block, (B, T, D), after the norm that the model applies to them.

        Raises:
            LostRegError: a backbone without it.
        """
        self._refuse_blocks()

    def block_index(self, layer: int) -> int:
        """The index of a block, 0 to depth - 1, for a layer that may be negative (counted from the last).

        Raises:
            LostRegError: a layer that the backbone does not have.
        """
        if not -self.depth <= layer < self.depth:
            raise LostRegError(
                f"{self.name} has no layer {layer}: expected {-self.depth} (first) to -1 (last)"
            )
        return layer % self.depth

    def from_last(self, layer: int) -> int:
        """The layer as a negative index, so that one layer has one name in results."""
        return self.block_index(layer) - self.depth

    def not_finite(self, what: str) -> str:
        """The reason why an image with infinite or NaN features or norms cannot be used."""
        remedy = "" if self.precision == "fp32" else ": use `precision` fp32"
        return f"{what} not finite in {self.precision}{remedy}"

    def _refuse_blocks(self) -> NoReturn:
        raise LostRegError(f"{self.name} has no transformer blocks, which are needed here")


def normalized(batch: list[DecodedImage], backbone: Backbone) -> Tensor:
    """Images of one padded size, normalised: (B, 3, H, W) float32 on the backbone's device, padding zero."""
    # For CUDA via pinned memory, which is copied while the host continues.
    pixels = torch.empty(
        (len(batch), *batch[0].pixels.shape), dtype=torch.uint8, pin_memory=backbone.device.type == "cuda"
    )
    np.stack([image.pixels for image in batch], out=pixels.numpy())
    pixels = pixels.to(backbone.device, non_blocking=True)
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # With Python numbers: creating a tensor of them would wait for the device.
    for channel, (mean, std) in enumerate(zip(backbone.mean, backbone.std)):
        images[:, channel].sub_(255 * mean).div_(255 * std)
    for image, (height, width) in zip(images, (one.size_hw for one in batch)):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
