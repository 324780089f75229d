"""Any function from images to patch features, as a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lost_reg.backbones.base import TOKENS, Backbone
from lost_reg.backbones.weights import Weights
from lost_reg.discovery.features import Part
from lost_reg.errors import LostRegError


class FunctionBackbone(Backbone):
    """A user's function as a backbone.

    The function gets normalised float32 images on `device`, (B, 3, H, W) with H and W multiples of the patch
    size. It returns (B, N, D) features, patches in row-major order: its only facet and layer, which count as
    the keys of its last block.
    """

    precision = "fp32"
    depth = 1

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        patch_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: torch.device,
    ):
        self.function, self.patch_size = function, patch_size
        self.mean, self.std, self.device = mean, std, device
        self.name = getattr(function, "__name__", type(function).__name__)
        self.weights = Weights(source="callable", name=self.name)

    @torch.inference_mode()
    def facets(self, images: Tensor, parts: Sequence[Part]) -> list[Tensor]:
        """The function's features for its one part; see `Backbone.facets`.

        Raises:
            LostRegError: features of another shape, or another facet or layer.
        """
        if any(facet not in ("k", TOKENS) or layer != -1 for facet, layer in parts):
            raise LostRegError(f"facet and layer cannot be chosen for {self.name}: it is a function of yours")
        features = self.function(images.to(self.device))
        batch, _, height, width = images.shape
        patches = (height // self.patch_size) * (width // self.patch_size)
        is_tensor = isinstance(features, Tensor)
        if not is_tensor or features.ndim != 3 or features.shape[:2] != (batch, patches):
            got = str(tuple(features.shape)) if is_tensor else f"a {type(features).__name__}"
            raise LostRegError(
                f"expected {self.name} to give features of shape ({batch}, {patches}, D) for images of "
                f"{height} x {width} pixels, but got {got}"
            )
        return [features] * len(parts)
