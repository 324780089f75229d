"""Scores over test images, and their intervals. Every measure is a function of rows, one for each image.

rows: (T, W) float64. By measure:

- "top1": W = 1, whether the image's class was found (1 or 0). The value is their mean.
- "mean_per_class": the same rows; the value is the mean over classes of the share in each class.
- "map": W = K, the score of each class; the value is the mean over classes of the average precision, as
  VOC2007 measures it: the mean of the best precision at a recall of at least 0, 0.1, ..., 1. An image whose
  truth of a class is -1 does not count for this class. Images of equal score count together.
- "miou": W = 2 K, the pixels in each class's intersection, then in its union; the value is the mean over the
  classes that occur of the sums' ratio (as ADE20k's benchmark and mmsegmentation compute it).
- "rmse": W = 1, the root mean squared error of the image's depths; the value is their mean over images, as
  the code computes it that DINOv2 was measured with.

A bootstrap sample gives each image a weight: how often it was drawn. All samples are computed from such
weights, several samples at once. A class without any image in a sample is left out of that sample's mean, and
a sample without any class is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lost_reg.probing.records import Measure
from lost_reg.scoring.corloc import wilson_interval

RESAMPLES = 2000
_TAILS = 2.5, 97.5  # percentiles
_AT_ONCE = 1 << 18  # weights: 2 MiB, which a cache can hold


def value(measure: Measure, rows: np.ndarray, truth: np.ndarray | None = None) -> float:
    """A measure of test images.

    Args:
        rows: (T, W), see the module; T at least 1, no NaN.
        truth: the images' classes, for "mean_per_class", (T,) int, and for "map", (T, K) int8: 1 of the
            class, 0 not, -1 not counted.
    """
    return float(values(measure, rows, truth, np.ones((1, len(rows))))[0])


def values(measure: Measure, rows: np.ndarray, truth: np.ndarray | None, weights: np.ndarray) -> np.ndarray:
    """A measure of weighted images, for each of R sets of weights: (R,), NaN where no class has any weight.

    Args:
        rows, truth: see `value`.
        weights: (R, T) float64: how often each image counts.
    """
    if measure == "mean_per_class":
        return _mean_ratio(_by_class(truth, weights * rows[:, 0]), _by_class(truth, weights))
    if measure == "map":
        occurs = np.flatnonzero((truth > 0).any(axis=0))
        found = [_best_precisions(rows[:, k], truth[:, k], weights) for k in occurs]
        return _mean_ratio(*np.stack(found, axis=-1))
    if measure == "miou":
        return _mean_ratio(*np.split(weights @ rows, 2, axis=1))
    return weights @ rows[:, 0] / weights.sum(axis=1)


def interval(
    measure: Measure, rows: np.ndarray, truth: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a measure, over images; see `value`.

    Of "top1", which is a share, it is Wilson's. For "map", it tends to be too high where classes
    have few images, as the best of few precisions is.
    """
    if measure == "top1":
        return wilson_interval(float(rows.sum()), len(rows))
    return _middle([values(measure, rows, truth, weights) for weights in _drawn(len(rows), seed)])


def difference_interval(
    measure: Measure, a: np.ndarray, b: np.ndarray, truth: np.ndarray | None = None, seed: int = 0
) -> tuple[tuple[float, float], float]:
    """The 95 % paired bootstrap interval of B's value minus A's, and a p value.

    Images are resampled with both rows. p is twice the share of samples on the rarer side of 0, or at 0: it
    is below 0.05 where the interval excludes 0 (Efron and Tibshirani 1993, section 15.4), to within one
    sample. One is added to both counts (Davison and Hinkley 1997, section 4.2), so that it is never 0.
    """
    samples = [
        values(measure, b, truth, weights) - values(measure, a, truth, weights)
        for weights in _drawn(len(a), seed)
    ]
    differences = np.concatenate(samples).round(12)  # equal scores differ in rounding
    rarer = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    used = np.count_nonzero(~np.isnan(differences))
    return _middle(samples), min(1.0, 2 * (rarer + 1) / (used + 1))


def _middle(samples: list[np.ndarray]) -> tuple[float, float]:
    low, high = np.nanpercentile(np.concatenate(samples), _TAILS)
    return float(low), float(high)


def _drawn(images: int, seed: int) -> Iterator[np.ndarray]:
    """Yields RESAMPLES rows in all of how often each image was drawn, with replacement: (R, T) float64."""
    random = np.random.default_rng(seed)
    most = max(1, _AT_ONCE // images)
    for start in range(0, RESAMPLES, most):
        samples = min(most, RESAMPLES - start)
        drawn = random.integers(images, size=(samples, images))
        drawn += images * np.arange(samples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=samples * images)
        yield counts.reshape(samples, images).astype(np.float64)


def _by_class(truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum of the weights in each class: (R, K)."""
    classes = int(truth.max()) + 1
    return np.stack([np.bincount(truth, one, minlength=classes) for one in weights])


def _mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """The mean of parts / wholes over the classes, (R, K), whose whole is not 0: (R,), NaN without any."""
    occurs = wholes > 0
    sums = np.divide(parts, wholes, out=np.zeros_like(parts), where=occurs).sum(axis=1)
    counts = occurs.sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _best_precisions(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the best precisions at 11 recalls, and 11, or 0 without any hit: (R,) each, AP is the ratio.

    Args:
        scores: (T,); truth: (T,) int8, at least one of them 1; weights: (R, T).
    """
    order = np.argsort(-scores, kind="stable")
    order = order[truth[order] >= 0]
    is_true, weights = truth[order] > 0, weights[:, order]
    groups = np.append(0, np.cumsum(np.diff(scores[order]) != 0))  # images of equal score
    with_true = groups[is_true]
    lasts = np.flatnonzero(np.append(np.diff(with_true) != 0, True))  # among the true ones, of their group
    ends = np.searchsorted(groups, with_true[lasts], side="right") - 1  # the others have lower precision
    hits = np.cumsum(weights[:, is_true], axis=1)[:, lasts]
    counted = np.cumsum(weights, axis=1)[:, ends]
    precision = np.divide(hits, counted, out=np.zeros_like(hits), where=counted > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    every = hits[:, -1:]
    tenths = np.floor_divide(10 * hits, every, out=np.zeros_like(hits), where=every > 0)  # of recall, reached
    newly = np.diff(tenths, prepend=-1.0, axis=1)
    return np.sum(newly * best, axis=1), 11.0 * (every[:, 0] > 0)
