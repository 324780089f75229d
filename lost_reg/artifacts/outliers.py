"""Outlier statistics: shares above each cut-off, similarity to neighbours, LOST's seeds.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024). Only counts and sums are kept: memory
does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.artifacts.probes import Probe, position_cells, sample_others
from lost_reg.artifacts.records import (
    GROUPS,
    RULES,
    CosineDistribution,
    Group,
    OutlierReport,
    Rule,
    SeedStatistics,
)
from lost_reg.backbones.base import Backbone
from lost_reg.discovery.affinities import patch_degrees
from lost_reg.discovery.features import finite_images


@dataclass(frozen=True)
class BatchOutliers:
    """Measurements of a batch of B images, on the CPU.

    outliers: (B, N) bool; cosines: (B, N), to the neighbours at the patch embedding.
    above: (L, 3) int64, how many patches are above each cut-off after each layer.
    seeds: (b, N) bool, the patches that LOST can seed at in the images that are `usable`, (B,) bool: those
        that tie for the lowest degree.
    to_probe: (n, D) tokens, (n,) cells, (n, P) pixels and (n,) indices of images of each group; empty if
        there are no outliers.
    """

    outliers: Tensor
    cosines: Tensor
    above: Tensor
    seeds: Tensor
    usable: Tensor
    to_probe: dict[Group, tuple[Tensor, Tensor, Tensor, Tensor]]


class OutlierStatistics:
    """Running statistics of outliers and of the other patches.

    `measure` takes a batch and changes nothing, so that it can be retried after running out of memory;
    `update` adds what it returned.

    cutoffs: of each layer, by rule; None where the reference has no such layer.
    layer, rule: patches above that layer's cut-off of that rule are the outliers.
    """

    def __init__(
        self, backbone: Backbone, cutoffs: Sequence[dict[Rule, float | None]], layer: int, rule: Rule
    ):
        self._backbone, self._layer, self._rule = backbone, layer, rule
        self._cutoff = cutoffs[layer][rule]
        self._cutoffs = torch.tensor(
            [[torch.nan if one[name] is None else one[name] for name in RULES] for one in cutoffs],
            dtype=torch.float64,
        )  # (L, 3); nothing is above NaN
        self._above = torch.zeros(self._cutoffs.shape, dtype=torch.int64)
        self._cosines: dict[Group, CosineHistogram] = {group: CosineHistogram() for group in GROUPS}
        self._probes: dict[Group, Probe] = {group: Probe() for group in GROUPS}
        self.images = self.patches = self._with_any = self._count = 0
        self._seeded = self._ties = 0
        self._seeds_on_outliers = self._seeds_by_chance = 0.0

    def measure(self, images: Tensor) -> BatchOutliers:
        """Measure a batch of normalised images, (B, 3, H, W)."""
        (height, width), patch_size = images.shape[2:], self._backbone.patch_size
        grid_hw = height // patch_size, width // patch_size
        above = []
        for layer, (output, cutoffs) in enumerate(zip(self._backbone.block_outputs(images), self._cutoffs)):
            norms = output.float().norm(dim=2)[..., None].cpu()  # (B, N, 1)
            above.append(norms > cutoffs)  # (B, N, 3)
            if layer == self._layer:
                tokens = output  # (B, N, D)
        outliers = above[self._layer][..., list(RULES).index(self._rule)]  # (B, N)
        seeds, usable = self._seeds(images)
        return BatchOutliers(
            outliers=outliers,
            cosines=neighbour_cosines(self._backbone.patch_embeddings(images), grid_hw).cpu(),
            above=torch.stack([one.sum(dim=(0, 1)) for one in above]),
            seeds=seeds,
            usable=usable,
            to_probe=self._patches_to_probe(images, tokens, outliers, grid_hw),
        )

    def _seeds(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The patches of lowest degree, (b, N) bool, of the images with finite features: (B,) bool."""
        features = self._backbone.features(images).float()  # the keys of the last layer, as published
        usable = finite_images(features)
        if not usable.any():
            return usable.new_zeros(0, features.shape[1]).cpu(), usable.cpu()
        degrees = patch_degrees(features[usable], bias=None)  # (b, N)
        return (degrees == degrees.amin(dim=1, keepdim=True)).cpu(), usable.cpu()

    def _patches_to_probe(
        self, images: Tensor, tokens: Tensor, outliers: Tensor, grid_hw: tuple[int, int]
    ) -> dict[Group, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Equally many outliers and other patches from each image, so that the probes are comparable."""
        if not outliers.any():
            return {}
        pixels = F.unfold(images, self._backbone.patch_size, stride=self._backbone.patch_size).mT  # (B, N, P)
        cells = position_cells(grid_hw).expand(len(images), -1)  # (B, N)
        # seeded by the number of earlier images: a retry after running out of memory draws the same patches
        others = sample_others(outliers, torch.Generator().manual_seed(self.images))
        balanced = outliers.sum(dim=1) * 2 <= outliers.shape[1]  # (B,) at least as many others as outliers
        groups: dict[Group, Tensor] = {"outliers": outliers, "rest": others}
        chosen = {group: patches & balanced[:, None] for group, patches in groups.items()}
        return {
            group: (
                tokens[at.to(tokens.device)].cpu(),
                cells[at],
                pixels[at.to(pixels.device)].cpu(),
                at.nonzero()[:, 0],
            )
            for group, at in chosen.items()
        }

    def update(self, batch: BatchOutliers, is_training: bool) -> None:
        """Add what `measure` returned; it trains the probes, or tests them."""
        outliers = batch.outliers
        self.images += len(outliers)
        self._with_any += int(outliers.any(dim=1).sum())
        self.patches += outliers.numel()
        self._above += batch.above
        self._count += int(outliers.sum())
        self._cosines["outliers"].update(batch.cosines[outliers])
        self._cosines["rest"].update(batch.cosines[~outliers])
        seeded = outliers[batch.usable]
        self._seeded += len(seeded)
        tied = batch.seeds.sum(dim=1)  # (b,)
        self._ties += int((tied > 1).sum())
        self._seeds_on_outliers += float(((seeded & batch.seeds).sum(dim=1) / tied.double()).sum())
        self._seeds_by_chance += float(seeded.double().mean(dim=1).sum())
        for group, patches in batch.to_probe.items():
            probe = self._probes[group]
            if is_training:
                probe.train(*patches[:3])
            else:
                probe.test(*patches)

    def shares(self) -> list[dict[Rule, float | None]]:
        """Of each layer, by rule: the share of all patches that are above the cut-off; None without one."""
        return [
            {
                rule: None if cutoff.isnan() else int(count) / self.patches
                for rule, cutoff, count in zip(RULES, cutoffs, counts)
            }
            for cutoffs, counts in zip(self._cutoffs, self._above)
        ]

    def report(self) -> OutlierReport:
        """All statistics of outliers."""
        on_outliers, images = self._seeds_on_outliers, self._seeded
        return OutlierReport(
            rule=self._rule,
            layer=self._layer,
            cutoff=self._cutoff,
            count=self._count,
            share=self._count / self.patches,
            images_with_any=self._with_any,
            neighbour_cosine={group: cosines.report() for group, cosines in self._cosines.items()},
            seeds=SeedStatistics(
                images=images,
                on_outliers=on_outliers,
                share=on_outliers / images if images else None,
                share_by_chance=self._seeds_by_chance / images if images else None,
                ties=self._ties,
                share_tied=self._ties / images if images else None,
            ),
            probes={group: probe.report() for group, probe in self._probes.items()},
        )


def neighbour_cosines(embeddings: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """The mean cosine similarity of each patch to its neighbours above, below, left and right.

    Darcet et al. compute it right after the patch embedding. At the border a patch has fewer neighbours.

    Args:
        embeddings: (B, N, D), row-major; rows * columns = N.

    Returns:
        (B, N); NaN for a patch without any neighbour.
    """
    unit = F.normalize(embeddings.float(), dim=2).unflatten(1, grid_hw)  # (B, rows, columns, D)
    sums, neighbours = unit.new_zeros(unit.shape[:3]), unit.new_zeros(unit.shape[:3])
    for dim in (1, 2):
        pairs = unit.shape[dim] - 1
        first, second = unit.narrow(dim, 0, pairs), unit.narrow(dim, 1, pairs)
        cosines = (first * second).sum(dim=3)
        for start in (0, 1):  # a pair counts for both of its patches
            sums.narrow(dim, start, pairs).add_(cosines)
            neighbours.narrow(dim, start, pairs).add_(1)
    return (sums / neighbours).flatten(1)


class CosineHistogram:
    """The distribution of cosines: their mean, and counts in 100 bins of [-1, 1]."""

    BINS = 100

    def __init__(self):
        self.counts = torch.zeros(self.BINS, dtype=torch.int64)
        self.sum = 0.0

    def update(self, cosines: Tensor) -> None:
        """Add (n,) cosines; NaN is ignored."""
        cosines = cosines[~cosines.isnan()].double()
        bins = ((cosines + 1) / 2 * self.BINS).long().clamp(0, self.BINS - 1)
        self.counts += torch.bincount(bins, minlength=self.BINS)
        self.sum += float(cosines.sum())

    def report(self) -> CosineDistribution | None:
        """None if there were no cosines."""
        count = int(self.counts.sum())
        return CosineDistribution(self.sum / count, count, self.counts.tolist()) if count else None
