"""A bias for LOST's affinities, chosen for each image without labels: `LostConfig(bias="auto")`.

Darcet et al. ("Vision Transformers Need Registers", ICLR 2024) add a bias to the Gram matrix by hand, and
Jiang et al. ("Vision Transformers Don't Need Trained Registers", NeurIPS 2025) sweep it; neither reports the
values used. The rule here is this project's own: Otsu's threshold ("A Threshold Selection Method from
Gray-Level Histograms", 1979) on the image's affinities, which has no constant to tune. It assumes two kinds
of affinities, between patches that belong together and between those that do not, and splits them where the
variance between the two kinds is largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import AFFINITIES_AT_ONCE
from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BINS = 1024


def absolute_bias(features: Tensor, bias: float | str) -> Tensor | None:
    """The bias in the units of the affinities of (B, N, D) features: (B,), or None for none."""
    if isinstance(bias, str):
        return otsu_bias(features.float())
    if not bias:
        return None  # not 0 times a norm, which can overflow
    return bias * features.float().square().sum(dim=2).mean(dim=1)


def otsu_bias(features: Tensor) -> Tensor:
    """The bias that puts zero at Otsu's threshold of each image's affinities to other patches.

    Args:
        features: (B, N, D), float32 or float64, finite.

    Returns:
        (B,), in the units of the affinities; 0 for an image of one patch, or with equal affinities.
    """
    reach = features.square().sum(dim=2).amax(dim=1)  # (B,), an upper bound of the affinities
    counts = _affinity_counts(features, reach).double()  # (B, BINS)
    centres = (torch.arange(BINS, device=features.device, dtype=torch.float64) + 0.5) / BINS * 2 - 1
    below = counts.cumsum(dim=1)
    total = below[:, -1:]
    sums = (counts * centres).cumsum(dim=1)
    # the variance between what lies below each edge and what lies above, up to a factor
    between = (sums * total - sums[:, -1:] * below).square() / (below * (total - below))
    between = between.nan_to_num(0.0, posinf=0.0)
    largest = between.amax(dim=1, keepdim=True)
    best = between >= largest * (1 - 1e-12)  # where bins between are empty, several edges tie
    first = best.double().argmax(dim=1)
    last = BINS - 1 - best.flip(1).double().argmax(dim=1)
    threshold = ((first + last) / 2 + 1) / BINS * 2 - 1
    threshold = torch.where(largest[:, 0] > 0, threshold, 0.0)
    return -(threshold * reach).to(features.dtype)


def otsu_split(values: Tensor) -> Tensor:
    """Otsu's threshold of each row, exact: midway between the two groups that differ most.

    Args:
        values: (B, N), finite.

    Returns:
        (B,); the values themselves where all are equal.
    """
    ordered = values.double().sort(dim=1).values
    count = ordered.shape[1]
    below = torch.arange(1, count, device=values.device)  # patches in the lower group, for each split
    sums = ordered.cumsum(dim=1)
    lower, total = sums[:, :-1], sums[:, -1:]
    between = (lower * count - total * below).square() / (below * (count - below))
    between = torch.where(ordered[:, 1:] > ordered[:, :-1], between, -1)  # equal values stay together
    if count == 1:
        return values[:, 0]
    at = between.argmax(dim=1, keepdim=True)
    return ((ordered.gather(1, at) + ordered.gather(1, at + 1)) / 2)[:, 0].to(values.dtype)


def _affinity_counts(features: Tensor, reach: Tensor) -> Tensor:
    """(B, BINS) int64: how many affinities p != q lie in each bin between -reach and reach."""
    batch, patches, _ = features.shape
    counts = features.new_zeros(batch, BINS, dtype=torch.long)
    scale = 1 / reach.clamp(min=1e-30).view(-1, 1, 1)  # zero features fall into one bin
    rows_at_once = max(1, AFFINITIES_AT_ONCE // (4 * batch * patches))
    for start in range(0, patches, rows_at_once):
        affinities = features[:, start : start + rows_at_once] @ features.mT  # (B, R, N)
        affinities.mul_(scale).clamp_(-1, 1)
        affinities.diagonal(offset=start, dim1=1, dim2=2).fill_(2)  # p = q, out of range
        # histc counts in the features' type: exact, since there are fewer than 2**24 affinities
        counts += torch.stack([torch.histc(one, BINS, -1, 1) for one in affinities]).long()
    return counts
