"""What becomes of outliers: how alike their neighbours are, whether LOST seeds at them, what probes read.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024). Counts and sums only: memory does not
grow with the number of images.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.backbones.vit import VitBackbone
from lost_reg.discovery.features import finite_images
from lost_reg.runs.discover import LOST_AS_PUBLISHED, run_lost

CELLS = 16  # positions are told apart on a grid of 16 x 16: the patches of 14 pixels of a 224-pixel image
RIDGE = 1e-3  # of the mean squared input, so that it means the same for every model


@dataclass(frozen=True)
class Seen:
    """What `Outliers` saw in a batch of B images, on the host.

    outliers: (B, N) bool; cosines: (B, N), to the neighbours at the patch embedding.
    seeds: (b,) int64, patches that LOST seeds at, of the images that are `usable`, (B,) bool.
    to_probe: see `_patches_to_probe`.
    """

    outliers: Tensor
    cosines: Tensor
    seeds: Tensor
    usable: Tensor
    to_probe: dict[str, tuple[Tensor, Tensor, Tensor]]


class Outliers:
    """What is told of outliers and of the other patches, over ever more images."""

    def __init__(self, backbone: VitBackbone, layer: int, cutoff: float):
        self.backbone, self._layer, self._cutoff = backbone, layer, cutoff
        self._cosines = {"outliers": CosineHistogram(), "rest": CosineHistogram()}
        self._probes = {"outliers": Probe(), "rest": Probe()}
        self.images = self.with_any = self.patches = self.count = 0
        self.seeded = self.seeds_on_outliers = 0
        self.seeds_by_chance = 0.0

    def look(self, images: Tensor) -> Seen:
        """What `add` takes of a batch of images, (B, 3, H, W); nothing is added yet."""
        grid_hw = tuple(side // self.backbone.patch_size for side in images.shape[2:])
        tokens = next(itertools.islice(self.backbone.block_outputs(images), self._layer, None))  # (B, N, D)
        outliers = (tokens.float().norm(dim=2) > self._cutoff).cpu()  # (B, N)
        return Seen(
            outliers,
            neighbour_cosines(self.backbone.patch_embeddings(images), grid_hw).cpu(),
            *self._seeds(images, grid_hw),
            self._patches_to_probe(images, tokens, outliers, grid_hw),
        )

    def _seeds(self, images: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Where LOST as published seeds, and (B,) bool: whose features are finite, and so have a seed."""
        features = self.backbone.features(images, LOST_AS_PUBLISHED.facet, LOST_AS_PUBLISHED.layer).float()
        usable = finite_images(features)
        if not usable.any():
            return torch.zeros(0, dtype=torch.int64), usable.cpu()
        seeds = run_lost(features[usable], grid_hw, LOST_AS_PUBLISHED).seeds  # (b, 2), rows and columns
        return seeds[:, 0] * grid_hw[1] + seeds[:, 1], usable.cpu()

    def _patches_to_probe(
        self, images: Tensor, tokens: Tensor, outliers: Tensor, grid_hw: tuple[int, int]
    ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """As many outliers as other patches of each image, so that the two are compared alike.

        Returns:
            Of each kind (n, D) tokens, (n,) cells and (n, P) pixels; nothing if there are no outliers.
        """
        if not outliers.any():
            return {}
        pixels = F.unfold(images, self.backbone.patch_size, stride=self.backbone.patch_size).mT  # (B, N, P)
        cells = position_cells(grid_hw).expand(len(images), -1)  # (B, N)
        # by the images before: the same others are drawn if this is done anew for want of memory
        others = as_many_others(outliers, torch.Generator().manual_seed(self.images))
        few = outliers.sum(dim=1) * 2 > outliers.shape[1]  # images with more outliers than others
        kinds = {"outliers": outliers & ~few[:, None], "rest": others & ~few[:, None]}
        return {
            kind: (tokens[at.to(tokens.device)].cpu(), cells[at], pixels[at.to(pixels.device)].cpu())
            for kind, at in kinds.items()
        }

    def add(self, seen: Seen, is_training: bool) -> None:
        """Take what `look` saw of a batch; the probes learn from it or are tested on it."""
        outliers = seen.outliers
        self.images += len(outliers)
        self.with_any += int(outliers.any(dim=1).sum())
        self.patches += outliers.numel()
        self.count += int(outliers.sum())
        self._cosines["outliers"].add(seen.cosines[outliers])
        self._cosines["rest"].add(seen.cosines[~outliers])
        seeded = outliers[seen.usable]
        self.seeded += len(seeded)
        self.seeds_on_outliers += int(seeded.gather(1, seen.seeds[:, None]).sum())
        self.seeds_by_chance += float(seeded.double().mean(dim=1).sum())
        for kind, patches in seen.to_probe.items():
            probe = self._probes[kind]
            (probe.learn if is_training else probe.test)(*patches)

    def report(self) -> dict[str, Any]:
        """For artifacts.json; None where there was nothing to tell of."""
        return {
            "count": self.count,
            "share": self.count / self.patches,
            "images_with_any": self.with_any,
            "neighbour_cosine": {name: cosines.report() for name, cosines in self._cosines.items()},
            "seeds": {
                "images": self.seeded,
                "on_outliers": self.seeds_on_outliers,
                "share": self.seeds_on_outliers / self.seeded if self.seeded else None,
                "share_by_chance": self.seeds_by_chance / self.seeded if self.seeded else None,
            },
            "probes": {name: probe.report() for name, probe in self._probes.items()},
        }


def neighbour_cosines(embeddings: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """The mean cosine similarity of each patch to its neighbours above, below, left and right.

    Darcet et al. take it right after the patch embedding. At the border a patch has fewer neighbours.

    Args:
        embeddings: (B, N, D), row-major; rows * columns = N.

    Returns:
        (B, N); nan for a patch without any neighbour.
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
    """How cosines are distributed: their mean, and counts in 100 bins of [-1, 1]."""

    BINS = 100

    def __init__(self):
        self.counts = torch.zeros(self.BINS, dtype=torch.int64)
        self.sum = 0.0

    def add(self, cosines: Tensor) -> None:
        """Take (n,) cosines; nan is passed over."""
        cosines = cosines[~cosines.isnan()].double()
        bins = ((cosines + 1) / 2 * self.BINS).long().clamp(0, self.BINS - 1)
        self.counts += torch.bincount(bins, minlength=self.BINS)
        self.sum += float(cosines.sum())

    def report(self) -> dict[str, Any] | None:
        count = int(self.counts.sum())
        return {"mean": self.sum / count, "count": count, "counts": self.counts.tolist()} if count else None


# --- probes ------------------------------------------------------------------------------------------


def position_cells(grid_hw: tuple[int, int]) -> Tensor:
    """(N,) int64: in which of 16 x 16 cells of the image the middle of each patch is, row-major."""
    rows, columns = ((torch.arange(side) * 2 + 1) * CELLS // (2 * side) for side in grid_hw)
    return (rows[:, None] * CELLS + columns).flatten()


def as_many_others(outliers: Tensor, random: torch.Generator) -> Tensor:
    """(B, N) bool: of each image as many patches drawn at random as it has outliers, and none of those."""
    order = torch.rand(outliers.shape, generator=random).masked_fill(outliers, -1.0)
    ranks = order.argsort(dim=1, descending=True).argsort(dim=1)  # outliers come last
    return (ranks < outliers.sum(dim=1, keepdim=True)) & ~outliers


class Probe:
    """A linear map from tokens to their position and their pixels, by ridge regression.

    It holds the normal equations alone: (D + 1)^2 and (D + 1) x (256 + P) numbers, whatever the number of
    patches. The position is one of 256 cells, each an output of its own, and the largest is the answer.
    """

    def __init__(self):
        self.learned = self.tested = 0
        self._solution: Tensor | None = None
        self._right = self._distance = self._error = 0.0

    def learn(self, tokens: Tensor, cells: Tensor, pixels: Tensor) -> None:
        """Take (n, D) tokens, (n,) cells and (n, P) pixels."""
        if not len(tokens):
            return
        inputs = _with_constant(tokens)
        targets = torch.cat([F.one_hot(cells, CELLS**2).double(), pixels.double()], dim=1)
        if not self.learned:
            self._gram = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
            self._mixed = torch.zeros(inputs.shape[1], targets.shape[1], dtype=torch.float64)
        self._gram += inputs.mT @ inputs
        self._mixed += inputs.mT @ targets
        self.learned += len(tokens)

    def test(self, tokens: Tensor, cells: Tensor, pixels: Tensor) -> None:
        """Take patches that it has not learned from. After the first of them it learns no more."""
        if not len(tokens) or not self.learned:
            return
        if self._solution is None:
            ridge = RIDGE * self._gram.diagonal().mean() * torch.eye(len(self._gram), dtype=torch.float64)
            self._solution = torch.linalg.solve(self._gram + ridge, self._mixed)
        answers = _with_constant(tokens) @ self._solution
        said = answers[:, : CELLS**2].argmax(dim=1)
        rows, columns = said // CELLS - cells // CELLS, said % CELLS - cells % CELLS
        self.tested += len(tokens)
        self._right += float((said == cells).sum())
        self._distance += float((rows.square() + columns.square()).double().sqrt().sum())
        self._error += float((answers[:, CELLS**2 :] - pixels).norm(dim=1).sum())

    def report(self) -> dict[str, Any] | None:
        """Means over the patches it was tested on."""
        if not self.tested:
            return None
        return {
            "learned_from": self.learned,
            "tested_on": self.tested,
            "position_top1": self._right / self.tested,
            "position_distance": self._distance / self.tested,
            "pixel_l2": self._error / self.tested,
        }


def _with_constant(tokens: Tensor) -> Tensor:
    return F.pad(tokens.double(), (0, 1), value=1.0)
