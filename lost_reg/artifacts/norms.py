"""Norms of patch tokens after each block, and their distribution over all images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from lost_reg.artifacts.records import NormHistogram
from lost_reg.artifacts.streams import ImageStream, no_usable_image
from lost_reg.backbones.base import Backbone, normalized
from lost_reg.images.batching import DecodedImage
from lost_reg.progress import Progress, no_progress
from lost_reg.types import Failure

SIGMAS = 3.0  # Jiang et al. 2025 use mean + 3 standard deviations as the cut-off for outliers


def block_norms(
    backbone: Backbone, images: Tensor, blocks: int | None = None, *, with_prefix: bool = False
) -> Tensor:
    """The Euclidean norm of each patch token after each of the first blocks (None: after all of them).

    Args:
        with_prefix: see `Backbone.block_outputs`.

    Returns:
        (blocks, B, N) float32, or (blocks, B, P + N). They need not be finite, as in fp16.

    Raises:
        LostRegError: a backbone without blocks.
    """
    outputs = islice(backbone.block_outputs(images, with_prefix=with_prefix), blocks)
    return torch.stack([tokens.float().norm(dim=2) for tokens in outputs])


def finite_norms(
    backbone: Backbone, images: list[DecodedImage], blocks: int | None = None, *, with_prefix: bool = False
) -> tuple[Tensor, list[DecodedImage], list[Failure]]:
    """`block_norms` of the b images of a batch whose norms are all finite, these images, and the others."""
    norms = block_norms(backbone, normalized(images, backbone), blocks, with_prefix=with_prefix)
    finite = norms.isfinite().all(dim=2).all(dim=0)  # (B,)
    is_finite, reason = finite.tolist(), backbone.not_finite(f"norms of {backbone.name} are")
    usable = [image for image, good in zip(images, is_finite) if good]
    failures = [Failure(image.name, reason) for image, good in zip(images, is_finite) if not good]
    return norms[:, finite], usable, failures


def norms_of_stream(
    stream: ImageStream,
    backbone: Backbone,
    failures: list[Failure],
    progress: Progress = no_progress,
    blocks: int | None = None,
) -> Iterator[Tensor]:
    """Yields `block_norms` of each batch, (blocks, b, N), for the b of its images whose norms are finite.

    Args:
        failures: emptied, then filled with the images that cannot be used; it is complete at the end.

    Raises:
        LostRegError: none of the images can be used; a backbone without blocks.
    """
    infinite: list[Failure] = []
    any_usable = False
    of_images = partial(finite_norms, backbone, blocks=blocks)
    for norms, usable, unusable in stream.map_decoded(backbone, of_images, failures, progress):
        infinite += unusable
        if usable:
            any_usable = True
            yield norms
    failures += infinite
    if not any_usable:
        raise no_usable_image(len(stream.images), failures)


class Moments:
    """Running mean and standard deviation of several series side by side.

    Sums are float64 and centred on the mean of the first values, so that neither many values nor a large
    mean cost precision.
    """

    def __init__(self):
        self.count = 0

    def update(self, values: Tensor) -> None:
        """Add (S, n) values: n more for each of S series."""
        values = values.double().cpu()
        if not self.count:
            self._origin = values.mean(dim=1)
            self._sum = torch.zeros_like(self._origin)
            self._squares = torch.zeros_like(self._origin)
        centred = values - self._origin[:, None]
        self.count += values.shape[1]
        self._sum += centred.sum(dim=1)
        self._squares += centred.square().sum(dim=1)

    @property
    def mean(self) -> Tensor:
        """(S,) float64."""
        return self._origin + self._sum / self.count

    @property
    def deviation(self) -> Tensor:
        """(S,) float64, divided by n."""
        return (self._squares / self.count - (self._sum / self.count).square()).clamp(min=0).sqrt()

    @property
    def cutoff(self) -> Tensor:
        """(S,) float64: mean + 3 standard deviations. Outliers are above it."""
        return self.mean + SIGMAS * self.deviation


class NormHistograms:
    """The distribution of norms after each layer, in bins that are each 1 % wider than the one before.

    Quantiles are interpolated within a bin: they are accurate to 1 % of the norm.

    counts: (L, bins) int64; largest: (L,); moments: exact mean and standard deviation; count: of patches.
    """

    SMALLEST, BINS = 1e-3, 2100  # up to 1e-3 * 1.01 ** 2100, which is more than a million
    STEP = math.log(1.01)

    def __init__(self):
        self.moments = Moments()

    @property
    def count(self) -> int:
        """How many patches of each layer were added."""
        return self.moments.count

    def update(self, norms: Tensor) -> None:
        """Add (L, B, N) norms."""
        norms = norms.flatten(1).double().cpu()
        layers = len(norms)
        if not self.count:
            self.counts = torch.zeros(layers, self.BINS, dtype=torch.int64)
            self.largest = torch.zeros(layers, dtype=torch.float64)
        self.moments.update(norms)
        self.largest = torch.maximum(self.largest, norms.amax(dim=1))
        places = (norms.clamp(min=self.SMALLEST) / self.SMALLEST).log() / self.STEP
        bins = places.long().clamp(max=self.BINS - 1)
        flat = (bins + self.BINS * torch.arange(layers)[:, None]).flatten()
        self.counts += torch.bincount(flat, minlength=layers * self.BINS).view(layers, self.BINS)

    def quantiles(self, share: float) -> Tensor:
        """(L,) The norm below which this share of each layer's patches lies."""
        below = self.counts.cumsum(dim=1).double()  # (L, bins)
        wanted = torch.full((len(below), 1), share * self.count, dtype=torch.float64)
        index = torch.searchsorted(below, wanted).clamp(max=self.BINS - 1)  # (L, 1)
        inside = self.counts.gather(1, index).double()
        before = below.gather(1, index) - inside
        place = (index + ((wanted - before) / inside.clamp(min=1)).clamp(0, 1))[:, 0]
        return torch.minimum(self.SMALLEST * (place * self.STEP).exp(), self.largest)

    def report(self) -> NormHistogram:
        """The range of bins that any layer uses."""
        used = self.counts.sum(dim=0).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1])
        return NormHistogram(
            first_edge=self.SMALLEST * math.exp(first * self.STEP),
            ratio=math.exp(self.STEP),
            counts=self.counts[:, first : last + 1].tolist(),
        )
