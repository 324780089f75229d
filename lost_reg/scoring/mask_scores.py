"""Scores of one mask per image, as in salient object detection: IoU, pixel accuracy and F-beta.

Definitions are those of TokenCut's code (YangtaoWANG95/TokenCut, unsupervised_saliency_detection/metric.py),
with beta^2 = 0.3. A map is in the mask where it is above a threshold: 0.5 for IoU and accuracy, and each of
255 thresholds for the largest F-beta. Binary masks are the same at all thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lost_reg.errors import LostRegError

BETA_SQUARED = 0.3
THRESHOLDS = np.arange(255) / 255
BINARY = np.array([0.5])
RESAMPLES, SEED, TAILS = 1000, 0, (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A score over images, in percent, and its 95 % percentile bootstrap interval over these images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MaskScores:
    """Scores of the masks of `images` images.

    iou, accuracy: means over images.
    f_beta: the mean over images of F-beta, at the threshold where this is largest, as TokenCut reports it.
    f_beta_of_means: F-beta of the mean precision and the mean recall, at the threshold where it is largest,
        as other benchmarks of salient objects report it.
    """

    images: int
    iou: Estimate
    accuracy: Estimate
    f_beta: Estimate
    f_beta_of_means: Estimate


def score_masks(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], thresholds: np.ndarray = BINARY
) -> MaskScores:
    """Score the mask found in each image against the true one.

    Args:
        pairs: found, (H, W) bool, or float in [0, 1] for a soft map; and true, (H, W) bool, not empty.
        thresholds: of the largest F-beta; `THRESHOLDS` for soft maps.

    Raises:
        LostRegError: no pairs.
    """
    rows = [
        (*iou_and_accuracy(found > 0.5, truth), *precision_and_recall(found, truth, thresholds))
        for found, truth in pairs
    ]
    if not rows:
        raise LostRegError("no masks to score: no image that was done has a mask with an object")
    per_image = [np.array(column) for column in zip(*rows)]  # (N,), (N,), (N, T), (N, T)
    values = _statistics(*per_image)
    random = np.random.default_rng(SEED)
    draws = (random.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES))
    resampled = [_statistics(*(column[draw] for column in per_image)) for draw in draws]
    ends = np.percentile(resampled, TAILS, axis=0)  # (2, 4)
    estimates = [Estimate(*(100 * float(one) for one in three)) for three in zip(values, *ends)]
    return MaskScores(len(rows), *estimates)


def iou_and_accuracy(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Intersection over union of two (H, W) bool masks, 0 if both are empty; the share of equal pixels."""
    union = np.count_nonzero(found | truth)
    iou = np.count_nonzero(found & truth) / union if union else 0.0
    return iou, np.count_nonzero(found == truth) / truth.size


def precision_and_recall(
    found: np.ndarray, truth: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, (T,) each, of a map, (H, W) bool or float, above each of (T,) thresholds.

    Both are 0 where nothing is above the threshold.
    """
    hits, areas = (
        np.array([np.count_nonzero(values > threshold) for threshold in thresholds])
        for values in (found[truth], found)
    )
    return hits / np.maximum(areas, 1), hits / max(1, np.count_nonzero(truth))


def f_beta(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """F-beta with beta^2 = 0.3, elementwise; 0 where precision and recall are both 0."""
    weighted = BETA_SQUARED * precision + recall
    return (1 + BETA_SQUARED) * precision * recall / np.where(weighted > 0, weighted, 1)


def _statistics(
    ious: np.ndarray, accuracies: np.ndarray, precisions: np.ndarray, recalls: np.ndarray
) -> tuple[float, ...]:
    """The scores over some images, as fractions, from those of each: (N,), (N,), (N, T) and (N, T)."""
    return (
        ious.mean(),
        accuracies.mean(),
        f_beta(precisions, recalls).mean(axis=0).max(),
        f_beta(precisions.mean(axis=0), recalls.mean(axis=0)).max(),
    )
