"""Linear probes: what can be read from tokens of their place in the image and of their pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.artifacts.records import ProbeScores

CELLS = 16  # positions are classified on a grid of 16 x 16: the patches of 14 pixels of a 224-pixel image
RIDGE = 1e-3  # of the mean squared input, so that it means the same for every model


def position_cells(grid_hw: tuple[int, int]) -> Tensor:
    """(N,) int64: which of 16 x 16 cells of the image holds the middle of each patch, row-major."""
    rows, columns = ((torch.arange(side) * 2 + 1) * CELLS // (2 * side) for side in grid_hw)
    return (rows[:, None] * CELLS + columns).flatten()


def sample_others(outliers: Tensor, random: torch.Generator) -> Tensor:
    """(B, N) bool: of each image as many patches, drawn at random, as it has outliers, and no outlier."""
    order = torch.rand(outliers.shape, generator=random).masked_fill(outliers, -1.0)
    ranks = order.argsort(dim=1, descending=True).argsort(dim=1)  # outliers come last
    return (ranks < outliers.sum(dim=1, keepdim=True)) & ~outliers


class Probe:
    """A linear map from tokens to their position and their pixels, by ridge regression.

    It keeps only the normal equations: (D + 1)^2 and (D + 1) x (256 + P) numbers, whatever the number of
    patches. The position is a classification among 256 cells, each with an output of its own.
    """

    def __init__(self):
        self.trained_on = self.tested_on = 0
        self._solution: Tensor | None = None
        self._correct = self._distance = self._error = 0.0

    def train(self, tokens: Tensor, cells: Tensor, pixels: Tensor) -> None:
        """Add (n, D) tokens, (n,) cells and (n, P) pixels to the training set."""
        if not len(tokens):
            return
        inputs = _with_constant(tokens)
        targets = torch.cat([F.one_hot(cells, CELLS**2).double(), pixels.double()], dim=1)
        if not self.trained_on:
            self._gram = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
            self._mixed = torch.zeros(inputs.shape[1], targets.shape[1], dtype=torch.float64)
        self._gram += inputs.mT @ inputs
        self._mixed += inputs.mT @ targets
        self.trained_on += len(tokens)

    def test(self, tokens: Tensor, cells: Tensor, pixels: Tensor) -> None:
        """Test on (n, D) tokens, (n,) cells and (n, P) pixels; nothing may be added for training any more."""
        if not len(tokens) or not self.trained_on:
            return
        if self._solution is None:
            ridge = RIDGE * self._gram.diagonal().mean() * torch.eye(len(self._gram), dtype=torch.float64)
            self._solution = torch.linalg.solve(self._gram + ridge, self._mixed)
        outputs = _with_constant(tokens) @ self._solution
        predicted = outputs[:, : CELLS**2].argmax(dim=1)
        rows, columns = predicted // CELLS - cells // CELLS, predicted % CELLS - cells % CELLS
        self.tested_on += len(tokens)
        self._correct += float((predicted == cells).sum())
        self._distance += float((rows.square() + columns.square()).double().sqrt().sum())
        self._error += float((outputs[:, CELLS**2 :] - pixels).norm(dim=1).sum())

    def report(self) -> ProbeScores | None:
        """Means over the patches it was tested on; None if there were none."""
        if not self.tested_on:
            return None
        return ProbeScores(
            learned_from=self.trained_on,
            tested_on=self.tested_on,
            position_top1=self._correct / self.tested_on,
            position_distance=self._distance / self.tested_on,
            pixel_l2=self._error / self.tested_on,
        )


def _with_constant(tokens: Tensor) -> Tensor:
    return F.pad(tokens.double(), (0, 1), value=1.0)
