"""Affinities between patches: degrees at one bias or several, and cosines to a seed, with bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

# Affinities held at one time: 2**25 float32 are 128 MiB. So memory grows with the number of patches, not
# with its square.
AFFINITIES_AT_ONCE = 2**25
# Affinities sorted at one time, for Otsu's threshold: those of an image of 2,896 patches. Of larger images,
# only the affinities near the threshold are sorted.
AFFINITIES_SORTED_AT_ONCE = 2**22


def affinity_bytes(images: int, patches: int) -> float:
    """Memory for the affinities of a batch that are held at one time, and for what is computed from them."""
    held = max(min(AFFINITIES_AT_ONCE, images * patches**2), images * patches)
    of_patches = 64.0 * images * patches  # degrees, sums and masks
    of_batch = min(AFFINITIES_SORTED_AT_ONCE, images * patches**2)
    of_image = min(2 * AFFINITIES_SORTED_AT_ONCE, patches**2)  # half of them are sorted: q > p
    return max(2.0 * 4 * held, 48.0 * max(of_batch, of_image)) + of_patches


def copy_bytes(images: int, patches: int) -> float:
    """Memory for a normalised copy of a batch's features: of three joined facets of a ViT-g."""
    return 4.0 * 3 * 1536 * images * patches


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
    """Degrees of each patch at several biases, from one Gram matrix.

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
    """(B, R): how many of each row's affinities (B, R, N), q != p, exceed its image's threshold (B,).

    start: the patch of the first row. remaining: (B, N) bool, the patches q that count; None for all.
    out: of the affinities' shape and type; overwritten.
    """
    # As 1.0 and 0.0: a CPU sums floats ten times as fast as booleans, and their float32 sum is exact up to
    # 2**24.
    positive = torch.gt(affinities, threshold.view(-1, 1, 1), out=out)
    positive.diagonal(offset=start, dim1=1, dim2=2).zero_()
    if remaining is not None:
        positive.mul_(remaining[:, None])
    return positive.sum(dim=2, dtype=torch.float32)


def positive_shares(degrees: Tensor, remaining: Tensor | None = None) -> Tensor:
    """The share of each image's affinities between two different patches that are positive.

    Args:
        degrees: (B, N) int64, from `patch_degrees` with the same `remaining`.
        remaining: (B, N) bool, the patches that count; None for all.

    Returns:
        (B,) float32; 0 where fewer than two patches count.
    """
    if remaining is None:
        remaining = torch.ones_like(degrees, dtype=torch.bool)
    patches = remaining.sum(dim=1)
    return (degrees * remaining).sum(dim=1) / (patches * (patches - 1)).clamp(min=1)


def seed_cosines(features: Tensor, seeds: Tensor) -> Tensor:
    """The cosine between each patch's feature and the seed's.

    Args:
        features: (B, N, D), float32 or float64.
        seeds: (B,) int64.

    Returns:
        (B, N) in [-1, 1]; 0 for a feature of length zero, or of a length that overflows the type.
    """
    at = seeds[:, None]
    seed = features.gather(1, at[:, :, None].expand(-1, -1, features.shape[2]))  # (B, 1, D)
    # Not a matrix product, whose rounding depends on the number of images.
    products = torch.linalg.vecdot(features, seed)
    norms = features.norm(dim=2)
    cosines: Tensor = products / (norms * norms.gather(1, at))
    return cosines.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
