"""What images cost a vision transformer: arithmetic operations and memory.

A multiplication and an addition count as two operations. Only matrix products count: all else is a few per
cent of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class ModelCost:
    """The cost of one model.

    model: timm's. num_prefix_tokens: see `VitBackbone`. itemsize: bytes per number in its precision.
    """

    model: VisionTransformer | Eva
    num_prefix_tokens: int
    itemsize: int

    @property
    def width(self) -> int:
        """The dimension of one facet's patch features."""
        return self.model.embed_dim

    def patches(self, size_hw: tuple[int, int]) -> int:
        """The number of patches of an image of this size in pixels, rounded up to whole patches."""
        return patch_count(size_hw, self.model.patch_embed.patch_size[0])

    def feature_operations(self, size_hw: tuple[int, int], index: int, facets: int = 1) -> float:
        """Operations for one image, up to `facets` facets of the qkv layer of block `index`, from 0."""
        model, patches = self.model, self.patches(size_hw)
        tokens = patches + self.num_prefix_tokens
        weights = patches * model.patch_embed.proj.weight.numel()
        weights += tokens * sum(_linear_weights(block) for block in model.blocks[:index])
        weights += patches * facets * self.width**2
        attention = index * 2 * tokens**2 * self.width  # queries with keys, and weights with values
        return 2.0 * (weights + attention)

    def peak_bytes(self, padded_hw: tuple[int, int], images: int = 1) -> float:
        """Peak memory of a batch besides the weights: an estimate on the large side.

        The peak is either in a block's attention or in its MLP.
        """
        model, patches = self.model, self.patches(padded_hw)
        tokens = patches + self.num_prefix_tokens
        hidden = max(m.out_features for m in model.blocks[0].modules() if isinstance(m, nn.Linear))
        width = 2 * self.width + 2 * max(hidden, 3 * self.width)
        activations = tokens * width * self.itemsize
        if getattr(model, "rope", None) is not None:  # queries and keys, rotated in float32
            activations += 4 * tokens * self.width * 4
        pixels = 3 * math.prod(padded_hw) * (1 + 4 + self.itemsize)
        features = 3 * patches * self.width * 4
        return images * (pixels + max(activations, features))


def patch_count(size_hw: tuple[int, int], patch_size: int) -> int:
    """The number of patches of an image of this size in pixels, rounded up to whole patches."""
    return math.prod(-(-side // patch_size) for side in size_hw)


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
