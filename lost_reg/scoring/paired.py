"""Statistics of paired binary outcomes: A and B each find the object of an image or miss it.

The test is McNemar's (1947, Psychometrika 12, 153-157) in its exact form: if A and B were equally good, each
image that only one of them found would be A's or B's with probability 1/2. The interval is from the paired
percentile bootstrap (Efron and Tibshirani 1993, chapter 13), which resamples images with both outcomes
together. Adjusted p values are Holm's (1979, Scand. J. Statist. 6, 65-70).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_TAIL = 0.025  # of the bootstrap distribution, beyond either end of the interval


@dataclass(frozen=True)
class Paired:
    """The number of images where both, only one, or neither found the object; at least one image in all."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def images(self) -> int:
        """The number of images, the denominator of both scores."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def corloc_a(self) -> float:
        """CorLoc of A, in percent."""
        return 100 * (self.both + self.only_a) / self.images

    @property
    def corloc_b(self) -> float:
        """CorLoc of B, in percent."""
        return 100 * (self.both + self.only_b) / self.images

    @property
    def difference(self) -> float:
        """CorLoc of B minus CorLoc of A, in points."""
        return 100 * (self.only_b - self.only_a) / self.images

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % paired bootstrap interval of `difference`, in points."""
        low, high = bootstrap_interval(self.only_b, self.only_a, self.images)
        return 100 * low / self.images, 100 * high / self.images

    @cached_property
    def p(self) -> float:
        """The p value of `difference`: see `mcnemar_p`."""
        return mcnemar_p(self.only_a, self.only_b)


def mcnemar_p(only_a: int, only_b: int) -> float:
    """The two-sided p value of McNemar's exact test, from the images that only one of the two found.

    A binomial test: twice the probability of at most min(only_a, only_b) heads in only_a + only_b tosses of
    a fair coin, and at most 1.
    """
    if not only_a + only_b:
        return 1.0
    from scipy.stats import binomtest  # its import takes longer than the rest of `lost-reg compare`

    return float(binomtest(only_a, only_a + only_b).pvalue)


def bootstrap_interval(gains: int, losses: int, images: int) -> tuple[int, int]:
    """The 95 % percentile bootstrap interval of gains - losses, in images.

    Nothing is sampled. An image drawn with replacement is a step of +1, -1 or 0, so the bootstrap
    distribution is that of a sum of independent steps. It is computed exactly: the limit of infinitely many
    samples, without a seed. Each end is the outermost value whose tail, itself included, is at least 2.5 %.
    """
    return -_upper_end(losses, gains, images), _upper_end(gains, losses, images)


def _upper_end(gains: int, losses: int, images: int) -> int:
    at_least = np.cumsum(_sum_of_steps(gains, losses, images)[::-1])[::-1]  # of images, ..., down to -images
    return int(np.flatnonzero(at_least >= _TAIL)[-1]) - images


def _sum_of_steps(gains: int, losses: int, images: int) -> np.ndarray:
    """The probabilities of -images, ..., images as the sum of `images` steps: (2 images + 1,)."""
    size = 1 << (2 * images).bit_length()  # a power of two with room for every sum
    turn = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    step = (gains * turn + losses / turn + (images - gains - losses)) / images  # Fourier transform of a step
    sums = np.fft.irfft(step**images, size)  # negative sums come last
    return np.concatenate([sums[-images:], sums[: images + 1]])


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, adjusted for multiple tests by Holm's method, in the same order.

    Rejecting those below 0.05 keeps the family-wise error rate at 5 %, however the tests depend on one
    another.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
