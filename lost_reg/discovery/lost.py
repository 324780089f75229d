"""LOST, seed and expand, batched over images of one patch grid.

Siméoni et al., "Localizing Objects with Self-Supervised Transformers and no Labels" (BMVC 2021),
as its published code (valeoai/LOST, object_discovery.py) computes it. Tensors in, tensors out:
this module knows nothing of files, pixels or backbones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from torch import Tensor

K_PATCHES = 100  # LOST's k: how many patches of lowest degree may join the expansion

# Affinities held at one time while degrees are counted: 2**25 float32 are 128 MiB, so that memory
# grows with the number of patches and not with its square.
AFFINITIES_AT_ONCE = 2**25


@dataclass(frozen=True)
class LostResult:
    """What LOST found in B images of one grid. Boxes and seeds are in patches, not pixels.

    boxes_xyxy: (B, 4) int64 on the CPU, half-open [xmin, ymin, xmax, ymax].
    seeds: (B, 2) int64 on the CPU, (row, column).
    degrees: (B,) int64 on the CPU, the degree of the seed.
    affinities: (B,) float64 on the CPU, mean cosine between the seed's feature and those of the patches in
        the box; None where cosines were not asked for.
    """

    boxes_xyxy: Tensor
    seeds: Tensor
    degrees: Tensor
    affinities: Tensor | None

    def rows(self) -> list[tuple[list[int], list[int], int, float | None]]:
        """Box, seed, degree and affinity of each image, as plain numbers."""
        affinities = [None] * len(self.seeds) if self.affinities is None else self.affinities.tolist()
        return list(zip(self.boxes_xyxy.tolist(), self.seeds.tolist(), self.degrees.tolist(), affinities))


def lost(
    features: Tensor,
    grid_hw: tuple[int, int],
    *,
    k_patches: int = K_PATCHES,
    bias: float | Tensor = 0.0,
) -> LostResult:
    """Find one object in each image from its patch features.

    Args:
        features: (B, N, D) or (N, D), patches in row-major order, without class or register
            tokens; on any device. float16 and bfloat16 are taken as float32.
        grid_hw: the patch grid (rows, columns); rows * columns = N.
        k_patches: how many patches of lowest degree may join the expansion (all, if N is less).
        bias: added to every entry of the Gram matrix; one number, or one for each image, (B,).

    Returns:
        A LostResult on the CPU.

    Raises:
        ValueError: shapes that do not agree, a k_patches below 1, or features that are not finite.

    Example:
        >>> background, thing = [1.0, 0.1], [-0.2, 1.0]
        >>> features = torch.tensor([background, thing, thing, background, background, background])
        >>> lost(features, (2, 3)).boxes_xyxy
        tensor([[1, 0, 3, 1]])
    """
    features = _checked(features, grid_hw, k_patches)
    bias = torch.as_tensor(bias, dtype=features.dtype, device=features.device)
    if bias.shape not in ((), (len(features),)):
        raise ValueError(f"expected one bias or {len(features)}, but got shape {tuple(bias.shape)}")
    found = seed_and_expand(features, k_patches=k_patches, bias=bias.expand(len(features)))
    return component_boxes(found.cpu(), grid_hw)


@dataclass(frozen=True)
class SeedsAndMasks:
    """LOST on B images but for the seed's component, on the device of the features.

    seeds: (B,) int64, row-major indices of patches; degrees: (B,) int64, those of the seeds.
    masks: (B, N) bool.
    cosines: (B, N) float, of each patch's feature and the seed's; None where they were not asked for.
    """

    seeds: Tensor
    degrees: Tensor
    masks: Tensor
    cosines: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """What there is, in the order of the fields."""
        return [one for field in fields(self) if (one := getattr(self, field.name)) is not None]

    def cpu(self) -> SeedsAndMasks:
        return SeedsAndMasks(*(one.cpu() for one in self.tensors()))

    @classmethod
    def joined(cls, parts: Sequence[SeedsAndMasks]) -> SeedsAndMasks:
        """Those of all parts, one after another; all of them with cosines, or all without."""
        return cls(*map(torch.cat, zip(*(part.tensors() for part in parts), strict=True)))


def seed_and_expand(
    features: Tensor,
    *,
    k_patches: int = K_PATCHES,
    bias: Tensor | None = None,
    degrees: Tensor | None = None,
    remaining: Tensor | None = None,
    cosines: bool = True,
) -> SeedsAndMasks:
    """Seeds and expansion masks, without waiting for the device.

    Args:
        features: (B, N, D), floating. An image whose features are not finite gets a seed and a mask that
            mean nothing, and disturbs no other.
        bias: (B,), added to every affinity; None for none.
        degrees: (B, N) int64, the patches' degrees at this bias, where they are known.
        remaining: (B, N) bool, the patches that the graph consists of; None for all. The others count in no
            degree, and are no seed, no candidate and in no mask. An image without any gets a seed and a mask
            that mean nothing.
        cosines: whether to give them, too.
    """
    precise = features if features.dtype == torch.float64 else features.float()
    # Of an affinity without a bias only the sign counts, and rounding float32 sums to bfloat16 keeps it; on
    # a GPU, products of bfloat16 are many times as fast.
    by_sign = features.is_cuda and features.dtype == torch.bfloat16 and bias is None
    if degrees is None:
        degrees = patch_degrees(features if by_sign else precise, bias, remaining)
    candidates = lowest_degree_patches(degrees, k_patches, remaining)
    seeds = candidates[:, 0]
    masks = expansion_masks(precise, candidates, bias, remaining)
    of_seeds = degrees.gather(1, seeds[:, None])[:, 0]
    return SeedsAndMasks(seeds, of_seeds, masks, seed_cosines(precise, seeds) if cosines else None)


def component_boxes(found: SeedsAndMasks, grid_hw: tuple[int, int]) -> LostResult:
    """The boxes of the masks' components that hold the seeds; `found` is on the CPU."""
    rows, columns = grid_hw
    seeds_rc = torch.stack([found.seeds // columns, found.seeds % columns], dim=1)
    masks_hw = found.masks.view(-1, rows, columns).to(torch.uint8).numpy()
    boxes = [_component_box(mask, seed) for mask, seed in zip(masks_hw, seeds_rc.tolist())]
    affinities = None
    if found.cosines is not None:
        cosines_hw = found.cosines.detach().view(-1, rows, columns).numpy()
        affinities = torch.tensor([_mean_in_box(*one) for one in zip(cosines_hw, boxes)], dtype=torch.float64)
    return LostResult(torch.tensor(boxes), seeds_rc, found.degrees, affinities)


def finite_images(features: Tensor) -> Tensor:
    """Which images have finite features only: (B, N, D) to (B,) bool."""
    # one pass to the largest magnitude, which is nan or infinite if any is: isfinite takes ten times as long
    return torch.isfinite(features.abs().amax(dim=(1, 2)))


def patch_degrees(features: Tensor, bias: Tensor | None, remaining: Tensor | None = None) -> Tensor:
    """Degree of each patch: the number of other patches with a positive affinity to it.

    Args:
        features: (B, N, D).
        bias: (B,), added to every affinity; None for none.
        remaining: (B, N) bool, the patches that count; None for all.

    Returns:
        (B, N) int64.
    """
    biases = features.new_zeros(len(features), 1) if bias is None else bias[:, None]
    return degrees_at_biases(features, biases, remaining)[:, 0]


def degrees_at_biases(features: Tensor, biases: Tensor, remaining: Tensor | None = None) -> Tensor:
    """Degrees of each patch at several biases, of one Gram matrix.

    Args:
        features: (B, N, D).
        biases: (B, S), each added to every affinity of its image.
        remaining: (B, N) bool, the patches that count; None for all.

    Returns:
        (B, S, N) int64.
    """
    batch, patches, _ = features.shape
    rows_at_once = max(1, AFFINITIES_AT_ONCE // (batch * patches))
    counted = []
    for start in range(0, patches, rows_at_once):
        rows = features[:, start : start + rows_at_once]  # (B, R, D)
        affinities = rows @ features.mT  # (B, R, N)
        counts = [
            _positive_others(affinities, threshold, start, remaining, torch.empty_like(affinities))
            for threshold in -biases.T[:-1]
        ]
        counts.append(_positive_others(affinities, -biases[:, -1], start, remaining, affinities))  # in place
        counted.append(torch.stack(counts, dim=1))  # (B, S, R)
    return torch.cat(counted, dim=2).long()


def _positive_others(
    affinities: Tensor, threshold: Tensor, start: int, remaining: Tensor | None, out: Tensor
) -> Tensor:
    """(B, R) How many affinities (B, R, N) of each row are over its image's threshold (B,), q != p.

    start: the patch of the first row. remaining: (B, N) bool, the patches q that count; None for all.
    out: of the affinities' shape and type; overwritten.
    """
    # As 1.0 and 0.0: on a CPU floats are summed over ten times as fast as booleans, and their sum in float32
    # is exact up to 2**24.
    positive = torch.gt(affinities, threshold.view(-1, 1, 1), out=out)
    positive.diagonal(offset=start, dim1=1, dim2=2).zero_()
    if remaining is not None:
        positive.mul_(remaining[:, None])
    return positive.sum(dim=2, dtype=torch.float32)


def lowest_degree_patches(degrees: Tensor, k_patches: int, remaining: Tensor | None = None) -> Tensor:
    """The patches of lowest degree, ordered by (degree, row-major index); the first is the seed.

    Args:
        degrees: (B, N) int64.
        remaining: (B, N) bool, the patches that come first; None for all.

    Returns:
        (B, min(k_patches, N)) int64, indices of patches.
    """
    patches = degrees.shape[1]
    if remaining is not None:
        degrees = degrees.masked_fill(~remaining, patches)  # more than any has
    # topk is not stable on ties, so the index is made part of the key: no two keys are equal.
    keys = degrees * patches + torch.arange(patches, device=degrees.device)
    lowest = keys.topk(min(k_patches, patches), dim=1, largest=False, sorted=True).values
    return lowest % patches


def expansion_masks(
    features: Tensor, candidates: Tensor, bias: Tensor | None, remaining: Tensor | None = None
) -> Tensor:
    """The patches whose summed affinity to the seed's similar patches is positive.

    Args:
        features: (B, N, D).
        candidates: (B, k) int64, patches of lowest degree, the seed first.
        bias: (B,), added to every affinity; None for none.
        remaining: (B, N) bool, the patches that can be similar or in the mask; None for all.

    Returns:
        (B, N) bool. The seed is always in it: by the definition of S if S is not empty, and as
        the one patch left to answer with if it is (a bias can make it so).
    """
    bias = features.new_zeros(len(features)) if bias is None else bias
    index = candidates[:, :, None].expand(-1, -1, features.shape[2])
    low = features.gather(1, index)  # (B, k, D)
    seed = low[:, :1]  # (B, 1, D)
    similar = (seed @ low.mT)[:, 0] > -bias[:, None]  # (B, k): S among the candidates
    if remaining is not None:
        similar &= remaining.gather(1, candidates)
    # M_q = sum over p in S of (F_q . F_p + b) = F_q . (sum over S of F_p) + b |S|
    summed = similar.to(features.dtype)[:, None] @ low  # (B, 1, D)
    total_bias = bias * similar.sum(dim=1)  # (B,)
    masks = (features @ summed.mT)[:, :, 0] + total_bias[:, None] > 0
    if remaining is not None:
        masks &= remaining
    return masks.scatter(1, candidates[:, :1], True)


def seed_cosines(features: Tensor, seeds: Tensor) -> Tensor:
    """The cosine between each patch's feature and the seed's.

    Args:
        features: (B, N, D), float32 or float64.
        seeds: (B,) int64.

    Returns:
        (B, N) in [-1, 1]; 0 for a feature of no length, or of one that the type cannot hold.
    """
    at = seeds[:, None]
    seed = features.gather(1, at[:, :, None].expand(-1, -1, features.shape[2]))  # (B, 1, D)
    # not a matrix product, whose rounding depends on the number of images
    products = torch.linalg.vecdot(features, seed)
    norms = features.norm(dim=2)
    return (products / (norms * norms.gather(1, at))).nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)


def _component_box(mask: np.ndarray, seed: list[int]) -> tuple[int, int, int, int]:
    """Extent of the 4-connected component of `mask` (rows, columns; uint8) that holds the seed."""
    row, column = seed
    # floodFill answers with the rectangle it filled; 4-connected is its default.
    x, y, width, height = cv2.floodFill(np.ascontiguousarray(mask), None, (column, row), 2)[3]
    return x, y, x + width, y + height


def _mean_in_box(values_hw: np.ndarray, box_xyxy: tuple[int, int, int, int]) -> float:
    xmin, ymin, xmax, ymax = box_xyxy
    return float(values_hw[ymin:ymax, xmin:xmax].mean(dtype=np.float64))


def _checked(features: Tensor, grid_hw: tuple[int, int], k_patches: int) -> Tensor:
    """`features` as a (B, N, D) floating tensor of at least 32 bits, or a ValueError."""
    if features.ndim == 2:
        features = features[None]
    rows, columns = grid_hw
    if features.ndim != 3 or features.shape[1] != rows * columns or features.numel() == 0:
        raise ValueError(
            f"expected features of shape (B, N, D) or (N, D) with N = {rows} * {columns} patches, "
            f"but got {tuple(features.shape)}"
        )
    if k_patches < 1:
        raise ValueError(f"expected k_patches of at least 1, but got {k_patches}")
    if features.dtype != torch.float64:
        features = features.float()
    if not finite_images(features).all():
        raise ValueError("expected finite features, but some are infinite or not a number")
    return features
