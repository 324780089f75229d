"""The arithmetic of a head's training: ridge regression on masks, and then on what it says itself.

No step size and no random start: each round is the least squares solution for its targets, from sums over the
patches that can be taken image by image. Every image counts alike, whatever its number of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lost_reg.discovery.bias import otsu_split
from lost_reg.discovery.head import objects_in
from lost_reg.training.feature_cache import ImageFeatures

Target = Callable[[ImageFeatures], np.ndarray]  # (rows, columns) bool: which patches are object


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

    def objectness(self, features: ImageFeatures) -> np.ndarray:
        """(rows, columns) float32: above 0 for object."""
        values = on_device(features, self.weight.device)
        return (values @ self.weight.float() + self.bias).reshape(features.grid_hw).cpu().numpy()


def on_device(features: ImageFeatures, device: torch.device) -> Tensor:
    """The values of an image's features, (N, D) float32."""
    return torch.from_numpy(features.values).to(device)


def moments(images: Iterable[ImageFeatures], device: torch.device) -> Moments:
    """The moments of at least one image, in float64."""
    count, mean, products = 0, torch.zeros(1), torch.zeros(1, 1)
    for features in images:
        values = on_device(features, device)
        if not count:
            width = values.shape[1]
            mean = torch.zeros(width, dtype=torch.float64, device=device)
            products = torch.zeros(width, width, dtype=torch.float64, device=device)
        mean += values.double().mean(dim=0)
        products += (values.T @ values).double() / len(values)
        count += 1
    return Moments(mean / count, products / count)


def covariance_with(images: Iterable[ImageFeatures], target: Target, of_features: Moments) -> Tensor:
    """The covariance of each channel with the target, (D,)."""
    mean = of_features.mean
    count, of_target, products = 0, 0.0, torch.zeros_like(mean)
    for features in images:
        wanted = torch.from_numpy(target(features).ravel()).to(mean.device)
        values = on_device(features, mean.device)
        of_target += float(wanted.double().mean())
        products += values[wanted].double().sum(dim=0) / len(values)
        count += 1
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
    thresholds = [
        float(otsu_split(torch.from_numpy(plain.objectness(one)).reshape(1, -1)).item()) for one in sample
    ]
    return replace(plain, bias=-float(np.mean(thresholds)))


def own_target(layer: Layer) -> Target:
    """What a layer says is the object of an image: the first that `objects_in` finds, or nothing."""

    def target(features: ImageFeatures) -> np.ndarray:
        objectness = layer.objectness(features)
        found = objects_in(objectness, max_objects=1)
        return found[0].mask if found else np.zeros(objectness.shape, bool)

    return target
