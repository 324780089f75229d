"""Otsu's threshold, exact: of a row of values, and of the affinities of an image in bounded memory.

Otsu ("A Threshold Selection Method from Gray-Level Histograms", 1979) splits values where the variance
between the two groups is largest. He had 256 levels of grey. Affinities have no levels, and in a histogram of
them one patch of large norm would set the width of all bins; so they are sorted, or those that can matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lost_reg.discovery.affinities import AFFINITIES_SORTED_AT_ONCE
from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_BINS = 1024
_TIE = 1e-12  # splits whose variances differ by less, relatively, are equal
_ROUNDING = 1e-6  # affinities whose range is a smaller share of the largest one differ by rounding alone


def otsu_split(values: Tensor) -> Tensor:
    """Otsu's threshold of each row: midway between the two groups that differ most.

    Args:
        values: (B, N), finite.

    Returns:
        (B,); the values themselves where all are equal.
    """
    ordered = values.sort(dim=1).values
    count = ordered.shape[1]
    if count == 1:
        return ordered[:, 0]
    sums = ordered.cumsum(dim=1, dtype=torch.float64)
    below = torch.arange(1, count, device=values.device)  # values in the lower group, for each split
    return _best_split(ordered, _variance_between(below, sums[:, :-1], count, sums[:, -1:]))


def affinity_thresholds(features: Tensor) -> Tensor:
    """Otsu's threshold of the affinities between different patches of each image.

    Args:
        features: (B, N, D), float32 or float64, finite.

    Returns:
        (B,); 0 for an image of one patch, or with affinities that differ by rounding alone.
    """
    batch, patches, _ = features.shape
    if patches == 1:
        return features.new_zeros(batch)
    if patches * (patches - 1) // 2 > AFFINITIES_SORTED_AT_ONCE:
        return torch.stack([_threshold_of_many(one) for one in features])
    parts = -(-batch // max(1, AFFINITIES_SORTED_AT_ONCE // patches**2))
    return torch.cat([_thresholds_of_few(some) for some in features.tensor_split(parts)])


def _thresholds_of_few(features: Tensor) -> Tensor:
    patches = features.shape[1]
    first, second = torch.triu_indices(patches, patches, 1, device=features.device)
    affinities = (features @ features.mT)[:, first, second]  # (B, N (N - 1) / 2)
    return torch.where(_are_alike(*affinities.aminmax(dim=1)), 0.0, otsu_split(affinities))


def _are_alike(lowest: Tensor, highest: Tensor) -> Tensor:
    return highest - lowest <= _ROUNDING * torch.maximum(lowest.abs(), highest.abs())


def _variance_between(below: Tensor, sums: Tensor, count: int, total: Tensor) -> Tensor:
    """The variance between a lower group and the rest, up to a factor; 0 if one of them is empty.

    below, sums: how many values the lower group has, and their sum. count, total: those of all values.
    """
    pairs = (below * (count - below)).clamp(min=1)
    return (sums * count - total * below).square() / pairs


def _best_split(ordered: Tensor, between: Tensor) -> Tensor:
    """The middle of the gap at which `between`, (B, N - 1), is largest; ordered: (B, N), ascending."""
    between = torch.where(ordered[:, 1:] > ordered[:, :-1], between, -1)  # equal values stay together
    at = between.argmax(dim=1, keepdim=True)
    beside = torch.cat([ordered.gather(1, at), ordered.gather(1, at + 1)], dim=1)
    return beside.double().mean(dim=1).to(ordered.dtype)


# --- images of many patches: bins are refined until those that can hold the threshold can be sorted --------


@dataclass(frozen=True)
class _Histogram:
    """Of E edges: how many affinities lie below each, and their sum; of all affinities, both, too."""

    edges: Tensor
    below: Tensor
    sums: Tensor
    count: int
    total: Tensor


def _threshold_of_many(features: Tensor) -> Tensor:
    """Otsu's threshold of the affinities of one image, (N, D), as a scalar."""
    extremes = [block.aminmax() for block in _affinities(features)]
    lowest, highest = min(low for low, _ in extremes), max(high for _, high in extremes)
    if _are_alike(lowest, highest):
        return torch.zeros_like(lowest)
    after = highest.nextafter(torch.full_like(highest, torch.inf))
    edges = _between(lowest[None], after[None], _BINS)
    while True:
        histogram = _histogram(features, edges)
        promising = _promising(histogram)
        if histogram.below.diff()[promising].sum() <= AFFINITIES_SORTED_AT_ONCE:
            return _split_in_bins(features, histogram, promising)
        lower, upper = edges[:-1][promising], edges[1:][promising]
        edges = _distinct(torch.cat([edges, _between(lower, upper, _BINS // len(lower) + 2)]))
        if len(edges) == len(histogram.edges):  # each bin holds one value: the threshold is at an edge
            return _split_at_edge(histogram)


def _affinities(features: Tensor) -> Iterator[Tensor]:
    """The affinities between different patches of one image, (N, D), in blocks."""
    patches = len(features)
    rows_at_once = max(1, AFFINITIES_SORTED_AT_ONCE // patches)
    for start in range(0, patches - 1, rows_at_once):
        rows = features[start : start + rows_at_once] @ features.mT  # (R, N)
        yield rows[torch.ones_like(rows, dtype=torch.bool).triu(start + 1)]


def _between(lower: Tensor, upper: Tensor, parts: int) -> Tensor:
    """The edges of bins (C,) that are each cut into so many parts."""
    steps = torch.linspace(0, 1, parts + 1, dtype=torch.float64, device=lower.device)
    edges = lower.double()[:, None] * (1 - steps) + upper.double()[:, None] * steps
    return _distinct(edges.to(lower.dtype))


def _distinct(values: Tensor) -> Tensor:
    """Each value once, ascending."""
    distinct: Tensor = values.unique()  # type: ignore[no-untyped-call]
    return distinct


def _histogram(features: Tensor, edges: Tensor) -> _Histogram:
    bins = len(edges) + 1  # with what lies below the first edge, and above the last
    counts = torch.zeros(bins, dtype=torch.int64, device=edges.device)
    sums = torch.zeros(bins, dtype=torch.float64, device=edges.device)
    for block in _affinities(features):
        at = torch.bucketize(block, edges, right=True)
        counts += torch.bincount(at, minlength=bins)
        sums += torch.bincount(at, weights=block.double(), minlength=bins)
    below, sums = counts.cumsum(0), sums.cumsum(0)
    return _Histogram(edges, below[:-1], sums[:-1], int(below[-1]), sums[-1])


def _promising(histogram: _Histogram) -> Tensor:
    """Which bins hold affinities, and can hold the threshold or border on it: (E - 1,) bool.

    With k of n values below a split, their sum S and the sum T of all, the variance between the groups is
    (k T - n S)^2 / (k (n - k)), up to a factor. Within a bin, each further value adds to S no less than the
    lower edge and no more than the upper one; this bounds the variance of every split in the bin.
    """
    edges, below, sums = histogram.edges.double(), histogram.below, histogram.sums
    count, total = histogram.count, histogram.total
    difference = below * total - count * sums  # of each edge; not negative
    in_bin = below.diff()
    from_left = difference[:-1] + in_bin * (total - count * edges[:-1]).clamp(min=0)
    from_right = difference[1:] + in_bin * (count * edges[1:] - total).clamp(min=0)
    inside = below.clamp(1, count - 1)
    pairs = (inside * (count - inside)).double()
    bounds = torch.minimum(from_left, from_right).square() / torch.minimum(pairs[:-1], pairs[1:])
    best = _variance_between(below, sums, count, total).max()
    return (in_bin > 0) & (bounds >= best * (1 - _TIE))


def _split_in_bins(features: Tensor, histogram: _Histogram, promising: Tensor) -> Tensor:
    """The threshold, from the affinities in some bins, sorted."""
    chosen = torch.nn.functional.pad(promising, (1, 1))  # not below the first edge, nor above the last
    bins = ((block, torch.bucketize(block, histogram.edges, right=True)) for block in _affinities(features))
    ordered = torch.cat([block[chosen[at]] for block, at in bins]).sort().values
    first = torch.searchsorted(ordered, histogram.edges)  # of the values at and above each edge
    at = torch.bucketize(ordered, histogram.edges, right=True) - 1  # the bin of each
    sums = torch.nn.functional.pad(ordered.cumsum(0, dtype=torch.float64), (1, 0))
    below = histogram.below[at] + torch.arange(1, len(ordered) + 1, device=at.device) - first[at]
    below_sums = histogram.sums[at] + sums[1:] - sums[first[at]]
    between = _variance_between(below, below_sums, histogram.count, histogram.total)[:-1]
    return _best_split(ordered[None], between[None])[0]


def _split_at_edge(histogram: _Histogram) -> Tensor:
    """The middle of the gap in which the variance between the groups is largest: no affinity is in it."""
    at_edges = _variance_between(histogram.below, histogram.sums, histogram.count, histogram.total)
    best = (at_edges >= at_edges.max() * (1 - _TIE)).nonzero()[0, 0]
    in_gap = histogram.edges[histogram.below == histogram.below[best]].double()
    return ((in_gap[0] + in_gap[-1]) / 2).to(histogram.edges.dtype)
