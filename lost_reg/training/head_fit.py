"""The arithmetic of a head's training: ridge regression on masks, and then on what it says itself.

No step size and no random start: each round is the least squares solution for its targets, from sums over the
patches that can be taken image by image. Every image counts alike, whatever its number of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from lost_reg.discovery.head import objects_in
from lost_reg.discovery.otsu import otsu_split
from lost_reg.training.feature_cache import ImageFeatures

IMAGES_AT_ONCE = 32  # a GPU is slow at one image at a time


Target = Callable[["Chunk"], list[np.ndarray]]  # (rows, columns) bool of each image: what is object


@dataclass(frozen=True)
class Moments:
    """Means over images of means over an image's patches.

    mean: (D,) of the features. products: (D, D) of their products.
    """

    mean: Tensor
    products: Tensor

    @property
    def deviation(self) -> Tensor:
        """(D,): the standard deviation of each channel; 1 for one that is constant."""
        variance = self.products.diagonal() - self.mean**2
        constant = variance <= 1e-12 * self.products.diagonal().clamp(min=1e-30)
        return torch.where(constant, 1.0, variance.clamp(min=0).sqrt())


@dataclass(frozen=True)
class Layer:
    """A linear layer: (D,) weight and bias, in float64."""

    weight: Tensor
    bias: float

    def objectness(self, values: Tensor) -> Tensor:
        """(N, D) to (N,) float32: above 0 for object."""
        return values @ self.weight.float() + self.bias


@dataclass(frozen=True)
class Chunk:
    """Several images, whose patches a device handles together.

    values: (N, D) float32, the patches of all. weights: (N,), one over the number of patches of the image.
    """

    images: Sequence[ImageFeatures]
    values: Tensor
    weights: Tensor

    def on_grids(self, numbers: Tensor) -> list[np.ndarray]:
        """A number for each patch, (N,), as the grid of each image."""
        of_images = np.split(numbers.cpu().numpy(), np.cumsum([len(one.values) for one in self.images])[:-1])
        return [of_image.reshape(one.grid_hw) for of_image, one in zip(of_images, self.images)]

    def from_grids(self, grids: Iterable[np.ndarray]) -> Tensor:
        """The grids of the images as (N,) float32 on their device."""
        numbers = np.concatenate([grid.ravel() for grid in grids])
        return torch.from_numpy(numbers).to(self.values.device).float()


def in_chunks(images: Iterable[ImageFeatures], device: torch.device) -> Iterator[Chunk]:
    """The images in chunks, on a device."""
    left = iter(images)
    while several := list(islice(left, IMAGES_AT_ONCE)):
        values = torch.from_numpy(np.concatenate([one.values for one in several])).to(device).float()
        counts = np.array([len(one.values) for one in several])
        weights = np.repeat(1 / counts, counts)
        yield Chunk(several, values, torch.from_numpy(weights).to(device).float())


def moments(images: Iterable[ImageFeatures], device: torch.device) -> Moments:
    """The moments of at least one image, in float64."""
    count, mean, products = 0, torch.zeros(()), torch.zeros(())
    for chunk in in_chunks(images, device):
        mean = mean.to(device) + (chunk.weights @ chunk.values).double()
        products = products.to(device) + (chunk.values.T * chunk.weights @ chunk.values).double()
        count += len(chunk.images)
    return Moments(mean / count, products / count)


def covariance_with(images: Iterable[ImageFeatures], target: Target, of_features: Moments) -> Tensor:
    """The covariance of each channel with the target, (D,)."""
    mean = of_features.mean
    count, of_target, products = 0, 0.0, torch.zeros_like(mean)
    for chunk in in_chunks(images, mean.device):
        wanted = chunk.weights * chunk.from_grids(target(chunk))
        of_target += float(wanted.double().sum())
        products += (wanted @ chunk.values).double()
        count += len(chunk.images)
    return products / count - mean * of_target / count


def ridge(of_features: Moments, covariance: Tensor, strength: float) -> Tensor:
    """The weight of a ridge regression on standardised channels, for the channels as they are: (D,).

    strength: what is added to the diagonal of the channels' correlations.
    """
    mean, deviation = of_features.mean, of_features.deviation
    correlations = (of_features.products - torch.outer(mean, mean)) / torch.outer(deviation, deviation)
    penalty = strength * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    return torch.linalg.solve(correlations + penalty, covariance / deviation) / deviation


def with_threshold(weight: Tensor, sample: Iterable[ImageFeatures]) -> Layer:
    """A layer whose zero is the mean of Otsu's thresholds of its values in each image of a sample."""
    plain = Layer(weight, 0.0)
    grids = (
        grid
        for chunk in in_chunks(sample, weight.device)
        for grid in chunk.on_grids(plain.objectness(chunk.values))
    )
    thresholds = [otsu_split(torch.from_numpy(grid).reshape(1, -1)).item() for grid in grids]
    return replace(plain, bias=-float(np.mean(thresholds)))


def own_target(layer: Layer) -> Target:
    """What a layer says is the object of an image: the first that `objects_in` finds, or nothing."""

    def target(chunk: Chunk) -> list[np.ndarray]:
        return [_first_mask(grid) for grid in chunk.on_grids(layer.objectness(chunk.values))]

    return target


def _first_mask(objectness: np.ndarray) -> np.ndarray:
    found = objects_in(objectness, max_objects=1)
    mask = found[0].mask if found else None
    return np.zeros(objectness.shape, bool) if mask is None else mask
