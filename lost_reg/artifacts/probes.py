"""Linear probes: what tokens reveal about their position and their pixels, with intervals.

After Darcet et al., "Vision Transformers Need Registers" (ICLR 2024). Patches of one image are not
independent of each other, so that all intervals are over images: see `MeanOverPatches`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.artifacts.records import MEASURES, ProbeScores
from lost_reg.scoring.corloc import wilson_interval

CELLS = 16  # positions are classified on a 16 x 16 grid: the 14-pixel patches of a 224-pixel image
RIDGE = 1e-3  # relative to the mean squared input, so that it is comparable between models
# The error that a least-squares fit of D + 1 weights adds is (D + 1) / (n - D - 2) times the noise (Gaussian
# inputs; Hastie et al. 2022, Annals of Statistics 50, 949-986): more than the noise itself for smaller n.
LEAST_PER_WEIGHT = 2
# "Few" clusters, for which cluster-robust intervals are too narrow, are fewer than 20 to 50 (Cameron and
# Miller 2015, Journal of Human Resources 50, 317-372).
LEAST_TEST_IMAGES = 20


def position_cells(grid_hw: tuple[int, int]) -> Tensor:
    """(N,) int64: which of the image's 16 x 16 cells contains the centre of each patch, row-major."""
    rows, columns = ((torch.arange(side) * 2 + 1) * CELLS // (2 * side) for side in grid_hw)
    return (rows[:, None] * CELLS + columns).flatten()


def sample_others(outliers: Tensor, random: torch.Generator) -> Tensor:
    """(B, N) bool: in each image, as many random non-outlier patches as it has outliers."""
    order = torch.rand(outliers.shape, generator=random).masked_fill(outliers, -1.0)
    ranks = order.argsort(dim=1, descending=True).argsort(dim=1)  # outliers come last
    return (ranks < outliers.sum(dim=1, keepdim=True)) & ~outliers


class Probe:
    """A linear map from tokens to their position and their pixels, by ridge regression.

    It stores only the normal equations: (D + 1)^2 and (D + 1) x (256 + P) numbers, whatever the number of
    patches. The position is classified among 256 cells, with one output each.
    """

    def __init__(self):
        self.trained_on = self.needed = 0
        self._solution: Tensor | None = None
        self._means = [MeanOverPatches() for _ in MEASURES]

    def train(self, tokens: Tensor, cells: Tensor, pixels: Tensor) -> None:
        """Add (n, D) tokens, (n,) cells and (n, P) pixels to the training set."""
        if not len(tokens):
            return
        inputs = F.pad(tokens.double(), (0, 1), value=1.0)
        targets = torch.cat([F.one_hot(cells, CELLS**2).double(), pixels.double()], dim=1)
        if not self.trained_on:
            self.needed = LEAST_PER_WEIGHT * inputs.shape[1]
            self._gram = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
            self._mixed = torch.zeros(inputs.shape[1], targets.shape[1], dtype=torch.float64)
        self._gram += inputs.mT @ inputs
        self._mixed += inputs.mT @ targets
        self.trained_on += len(tokens)

    def test(self, tokens: Tensor, cells: Tensor, pixels: Tensor, images: Tensor) -> None:
        """Test on (n, D) tokens, (n,) cells and (n, P) pixels; no more training data may be added then.

        images: (n,) int64, which image of the batch each is of.
        """
        if not len(tokens) or not self.trained_on:
            return
        if self._solution is None:
            ridge = RIDGE * self._gram.diagonal().mean() * torch.eye(len(self._gram), dtype=torch.float64)
            self._solution = torch.linalg.solve(self._gram + ridge, self._mixed)
        outputs = F.pad(tokens.double(), (0, 1), value=1.0) @ self._solution
        predicted = outputs[:, : CELLS**2].argmax(dim=1)
        rows, columns = predicted // CELLS - cells // CELLS, predicted % CELLS - cells % CELLS
        is_right = (predicted == cells).double()
        distance = (rows.square() + columns.square()).double().sqrt()
        error = (outputs[:, CELLS**2 :] - pixels).norm(dim=1)
        for mean, values in zip(self._means, (is_right, distance, error)):
            mean.update(values, images)

    def report(self) -> ProbeScores | None:
        """Means over the patches it was tested on, or why there are none; None if it was not tested."""
        tested = self._means[0]
        if not tested.images:
            return None
        counts = {
            "learned_from": self.trained_on,
            "tested_on": int(tested.patches),
            "tested_images": tested.images,
        }
        if self.trained_on < self.needed:
            return ProbeScores(**counts, too_few=f"too few patches ({self.trained_on:,} of {self.needed:,})")
        if tested.images < LEAST_TEST_IMAGES:
            return ProbeScores(**counts, too_few=f"too few images ({tested.images} of {LEAST_TEST_IMAGES})")
        top1, *others = self._means
        intervals = [top1.share_interval(), *(one.interval() for one in others)]
        means = {name: one.mean for name, one in zip(MEASURES, self._means)}
        return ProbeScores(**counts, **means, intervals=dict(zip(MEASURES, intervals)))


class MeanOverPatches:
    """The mean of a number over patches of many images, with a 95 % interval over images.

    Patches of one image resemble each other: the images are the sample. The mean is a ratio, of the images'
    sums to their numbers of patches, and its variance is the linearised one of a ratio (Cochran 1977,
    Sampling Techniques, chapter 6), which is the cluster-robust one with images as clusters (Cameron and
    Miller 2015). Quantiles are those of Student's t with one degree of freedom fewer than images. Only sums
    are kept.
    """

    def __init__(self):
        self.images = 0
        self.patches = self._sum = 0.0
        self._sizes_squared = self._sums_squared = self._products = 0.0

    def update(self, values: Tensor, images: Tensor) -> None:
        """Add (n,) float64 values of patches; images: (n,) int64, which image each is of, all new."""
        sizes = images.bincount().double()
        sums = images.bincount(values, minlength=len(sizes))
        self.images += int((sizes > 0).sum())
        self.patches += float(sizes.sum())
        self._sum += float(sums.sum())
        self._sizes_squared += float(sizes @ sizes)
        self._sums_squared += float(sums @ sums)
        self._products += float(sizes @ sums)

    @property
    def mean(self) -> float:
        """Over all patches."""
        return self._sum / self.patches

    @property
    def variance(self) -> float:
        """Of the mean; needs at least two images."""
        mean = self.mean
        residuals = self._sums_squared - 2 * mean * self._products + mean**2 * self._sizes_squared
        return max(0.0, residuals) * self.images / (self.images - 1) / self.patches**2

    def interval(self) -> tuple[float, float]:
        """The mean and t standard errors to either side of it."""
        reach = self._quantile() * math.sqrt(self.variance)
        return self.mean - reach, self.mean + reach

    def share_interval(self) -> tuple[float, float]:
        """Of a mean of zeros and ones: Wilson's at the effective number of patches, p (1 - p) / variance.

        (Korn and Graubard 1998, Survey Methodology 24, 193-201, use this number with another interval.) Where
        all patches agree, the variance says nothing, and each image counts as one patch.
        """
        share = self.mean
        spread = share * (1 - share)
        count = min(self.patches, spread / self.variance) if spread and self.variance else self.images
        return wilson_interval(share * count, count, self._quantile())

    def _quantile(self) -> float:
        from scipy.stats import t  # slow to import

        return float(t.ppf(0.975, self.images - 1))
