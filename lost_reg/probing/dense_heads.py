"""The linear heads of segmentation and depth: tensors in, tensors out."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lost_reg.probing.dense_options import BINS, MIN_DEPTH

_WARM_UP_STEPS = 100  # of the loss of depths
_VALUES_AT_ONCE = 2**24


class DenseHead(nn.Module):
    """A linear layer on tokens, whose outputs are interpolated between patches.

    prefix: how many tokens before the patches it reads, 0 or 1.
    """

    prefix = 0
    linear: nn.Linear

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, D) float32 tokens to (N, K) outputs."""
        return self.linear(tokens)

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor, step: int) -> Tensor:
        """The loss of (S, K) interpolated outputs, given (S,) float32 labels."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """From (S, K) interpolated outputs to (S,) classes or depths."""

    @abstractmethod
    def outcome(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What came of an image, as `measures.py` describes it, given (S,) predictions and labels: (W,)."""


class SegmentationHead(DenseHead):
    """Batch normalisation and a 1 x 1 convolution, as DINOv2's linear segmenters have them."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(width), nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens))

    def loss(self, outputs: Tensor, labels: Tensor, step: int) -> Tensor:
        return F.cross_entropy(outputs, labels.long())

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def outcome(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The pixels in each class's intersection, and in its union: (2 K,) float64."""
        truth, classes = labels.astype(np.int64), self.linear.out_features
        of_both, of_truth, of_predicted = (
            np.bincount(pixels, minlength=classes) for pixels in (truth[truth == predicted], truth, predicted)
        )
        return np.concatenate([of_both, of_truth + of_predicted - of_both]).astype(np.float64)


class DepthHead(DenseHead):
    """A linear layer that weighs 256 depths, as DINOv2's linear depth estimators and AdaBins do.

    The outputs, cut off below 0 and raised by 0.1, are the weights of depths that are spread evenly; the
    prediction is their mean. If the tokens have a class token, each patch is read together with it.
    """

    def __init__(self, width: int, max_depth: float, *, class_token: bool):
        super().__init__()
        self.prefix = int(class_token)
        self.linear = nn.Linear(width * (1 + self.prefix), BINS)
        self.max_depth = max_depth

    def loss(self, outputs: Tensor, labels: Tensor, step: int) -> Tensor:
        """The scale-invariant loss of Eigen et al. (2014) as AdaBins weighs it; at first, only its mean."""
        errors = torch.log(self.predict(outputs) + 1e-3) - torch.log(labels + 1e-3)
        spread = 0.0 if step < _WARM_UP_STEPS else errors.var()
        return torch.sqrt(spread + 0.15 * errors.mean() ** 2)

    def predict(self, outputs: Tensor) -> Tensor:
        weights = outputs.relu() + 0.1
        depths = torch.linspace(MIN_DEPTH, self.max_depth, BINS, device=outputs.device)
        return (weights @ depths) / weights.sum(dim=1)

    def outcome(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The root mean squared error, in metres: (1,) float64."""
        errors = predicted.astype(np.float64) - labels
        return np.sqrt(np.mean(errors**2, keepdims=True))


def head_tokens(tokens: Tensor, patches: int, head: DenseHead) -> Tensor:
    """What a head reads of (P + N, D) tokens: the N patches, each with the class token if it has a prefix."""
    of_patches = tokens[-patches:]
    if not head.prefix:
        return of_patches
    return torch.cat([of_patches, tokens[:1].expand_as(of_patches)], dim=1)


def at_pixels(
    outputs: Tensor, grid_hw: tuple[int, int], spans_hw: tuple[float, float], places: Tensor, width: int
) -> Tensor:
    """Outputs of patches, interpolated bilinearly at pixels as `F.interpolate` does.

    Args:
        outputs: (N, K), patches in row-major order.
        spans_hw: the height and width that the patches cover, in pixels.
        places: (S,), row * width + column, in an image of `width` columns.

    Returns:
        (S, K).
    """
    grid = outputs.unflatten(0, grid_hw).permute(2, 0, 1)[None]  # (1, K, rows, columns)
    x = (places % width + 0.5) * (2 / spans_hw[1]) - 1
    y = (places // width + 0.5) * (2 / spans_hw[0]) - 1
    points = torch.stack([x, y], dim=1).to(outputs.dtype)[None, None]  # (1, 1, S, 2)
    return F.grid_sample(grid, points, padding_mode="border", align_corners=False)[0, :, 0].mT


def predictions(
    head: DenseHead,
    outputs: Tensor,
    grid_hw: tuple[int, int],
    spans_hw: tuple[float, float],
    places: Tensor,
    width: int,
) -> np.ndarray:
    """What a head predicts at pixels, (S,), computed in parts of bounded memory; see `at_pixels`."""
    parts = places.split(max(1, _VALUES_AT_ONCE // outputs.shape[1]))
    found = [head.predict(at_pixels(outputs, grid_hw, spans_hw, part, width)) for part in parts]
    return torch.cat(found).cpu().numpy()
