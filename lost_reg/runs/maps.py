"""Making the maps of a batch: what LOST saw in each image. Tensors in, `Maps` out; see map_files.py."""

from __future__ import annotations

import torch
from torch import Tensor

from lost_reg.backbones.vit import Backbone
from lost_reg.discovery.lost import expansion_masks, lowest_degree_patches, patch_degrees
from lost_reg.runs.map_files import Maps


def features_and_norms(backbone: Backbone, images: Tensor, facet: str, layer: int) -> tuple[Tensor, Tensor]:
    """The features of a batch, as `backbone.features` gives them, and the norms of the tokens behind them.

    Returns:
        (B, N, D) features, and (B, N) float32 norms (see `Maps`).
    """
    if not hasattr(backbone, "patch_tokens"):
        features = backbone.features(images, facet, layer)
        return features, features.float().norm(dim=2)
    tokens = backbone.patch_tokens(images, layer)
    return backbone.facet_of(tokens, facet, layer), tokens.float().norm(dim=2)


def batch_maps(
    features: Tensor, bias: Tensor | None, norms: Tensor, grid_hw: tuple[int, int], k_patches: int
) -> list[Maps]:
    """The maps of B images of one grid.

    Args:
        features: (B, N, D) float32, finite, as LOST takes them: normalised if the protocol says so.
        bias: (B,), added to every affinity; None for none.
        norms: (B, N), of `features_and_norms`.
        k_patches: LOST's k.
    """
    degrees = patch_degrees(features, bias)  # (B, N)
    candidates = lowest_degree_patches(degrees, k_patches)
    seeds = candidates[:, :1]  # (B, 1)
    of_seeds = features.gather(1, seeds[:, :, None].expand(-1, -1, features.shape[2]))  # (B, 1, D)
    affinities = (features @ of_seeds.mT)[:, :, 0]  # (B, N)
    affinities = (affinities if bias is None else affinities + bias[:, None]).clamp(min=0)
    masks = expansion_masks(features, candidates, bias)

    stacked = torch.stack([norms.float(), degrees.float(), affinities, masks.float()], dim=1)
    # products of large features can overflow; what is drawn and kept is finite
    stacked = stacked.nan_to_num().reshape(len(stacked), 4, *grid_hw).cpu().numpy()
    return [
        Maps(*three, mask > 0, divmod(seed, grid_hw[1]))
        for (*three, mask), seed in zip(stacked, seeds[:, 0].tolist())
    ]
