"""Scores over test images, and their intervals. Every measure is a function of rows, one for each image.

rows: (T, W) float64. By measure:

- "top1": W = 1, whether the image's class was found (1 or 0). The value is their mean.
- "mean_per_class": the same rows; the value is the mean over classes of the share in each class.
- "map": W = K, the score of each class; the value is the mean over classes of the average precision.
- "miou": W = 2 K, the pixels in each class's intersection, then in its union; the value is the mean over the
  classes that occur of the sums' ratio (as ADE20k's benchmark and mmsegmentation compute it).
- "rmse": W = 1, the root mean squared error of the image's depths; the value is their mean over images, as
  the code computes it that DINOv2 was measured with.
"""

from __future__ import annotations

import numpy as np

from lost_reg.probing.records import Measure

RESAMPLES = 2000
_TAILS = 2.5, 97.5  # percentiles


def value(measure: Measure, rows: np.ndarray, truth: np.ndarray | None = None) -> float:
    """A measure of test images.

    Args:
        rows: (T, W), see the module; T at least 1, no NaN.
        truth: the images' classes, for "mean_per_class", (T,) int, and for "map", (T, K) bool.
    """
    if measure == "mean_per_class":
        counts = np.bincount(truth)
        found = np.bincount(truth, rows[:, 0], minlength=len(counts))
        return float((found[counts > 0] / counts[counts > 0]).mean())
    if measure == "map":
        occurs = truth.any(axis=0)
        return float(np.mean([average_precision(rows[:, k], truth[:, k]) for k in np.flatnonzero(occurs)]))
    if measure == "miou":
        intersections, unions = np.split(rows.sum(axis=0), 2)
        return float((intersections[unions > 0] / unions[unions > 0]).mean())
    return float(rows.mean())


def average_precision(scores: np.ndarray, is_true: np.ndarray) -> float:
    """The area under the precision envelope over recall, as VOC measures it since 2010.

    Args:
        scores: (T,); is_true: (T,) bool, at least one of them. Images of equal score count together.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each group of equal scores
    hits = np.cumsum(is_true[order])[ends]
    precision = hits / (ends + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(hits, prepend=0) * envelope) / hits[-1])


def interval(
    measure: Measure, rows: np.ndarray, truth: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a measure, over images; see `value`."""
    samples = [
        value(measure, rows[chosen], None if truth is None else truth[chosen])
        for chosen in resamples(len(rows), seed)
    ]
    low, high = np.percentile(samples, _TAILS)
    return float(low), float(high)


def difference_interval(
    measure: Measure, a: np.ndarray, b: np.ndarray, truth: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95 % paired bootstrap interval of B's value minus A's: images are resampled with both rows."""
    samples = []
    for chosen in resamples(len(a), seed):
        of_chosen = None if truth is None else truth[chosen]
        samples.append(value(measure, b[chosen], of_chosen) - value(measure, a[chosen], of_chosen))
    low, high = np.percentile(samples, _TAILS)
    return float(low), float(high)


def resamples(images: int, seed: int):
    """Yields the indices, (T,), of RESAMPLES samples of images with replacement."""
    random = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield random.integers(images, size=images)
