"""Several boxes per image against all ground-truth boxes, and how well a signal predicts a good box.

Boxes are [xmin, ymin, xmax, ymax], half-open, in pixels. Matching ignores classes: LOST has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import rankdata, spearmanr

from lost_reg.boxes import IOU_THRESHOLD, iou
from lost_reg.types import Box, ImageTruth

Item = TypeVar("Item")


@dataclass(frozen=True)
class Counts:
    """Of one image or several: boxes found, true objects, and boxes that match an object."""

    boxes: int
    objects: int
    matched: int

    @property
    def precision(self) -> float:
        """The share of the boxes that match an object; nan without boxes."""
        return self.matched / self.boxes if self.boxes else float("nan")

    @property
    def recall(self) -> float:
        """The share of the objects that a box matches; nan without objects."""
        return self.matched / self.objects if self.objects else float("nan")


def count_images(boxes: Mapping[str, Sequence[Box]], truths: Mapping[str, ImageTruth]) -> list[Counts]:
    """The counts of every image of a dataset; an image without boxes misses all of its objects.

    Args:
        boxes: by image name, in the order in which they were found.
        truths: the ground truth of the whole split, by image name.
    """
    return [_count_image(boxes.get(name, ()), truth.boxes_xyxy) for name, truth in truths.items()]


def total(images: Sequence[Counts]) -> Counts:
    """The sum over images."""
    return Counts(*(sum(getattr(one, key) for one in images) for key in ("boxes", "objects", "matched")))


def _count_image(boxes: Sequence[Box], truths: Sequence[Box]) -> Counts:
    return Counts(len(boxes), len(truths), sum(one is not None for one in matches(boxes, truths)))


def matches(boxes: Sequence[Box], truths: Sequence[Box]) -> list[int | None]:
    """The index of the object that each box matches, one to one, or None.

    Greedy, as COCO matches detections, but in the order in which the boxes were found: a box gets the
    object of highest IoU among those with IoU >= 0.5 that no earlier box got.
    """
    free = np.ones(len(truths), dtype=bool)
    matched: list[int | None] = []
    for fits in iou(np.reshape(boxes, (-1, 4)), truths):
        fits = np.where(free, fits, -1.0)
        best = int(fits.argmax()) if len(fits) and fits.max() >= IOU_THRESHOLD else None
        matched.append(best)
        if best is not None:
            free[best] = False
    return matched


def best_ious(boxes: Sequence[Box], truths: Sequence[Box]) -> list[float]:
    """Each box's highest IoU with any object, whatever other boxes match; 0 without objects."""
    return iou(np.reshape(boxes, (-1, 4)), truths).max(axis=1, initial=0.0).tolist()


# --- statistics --------------------------------------------------------------------------------------


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; nan where one of the two is constant."""
    is_constant = np.ptp(a) == 0 or np.ptp(b) == 0  # scipy warns of it
    return float("nan") if is_constant else float(spearmanr(a, b).statistic)


def auroc(values: Sequence[float], is_positive: Sequence[bool]) -> float:
    """The probability that a positive has the larger value than a negative, ties counted half.

    That is the area under the ROC curve, from ranks (Hanley and McNeil 1982). nan if there are only positives
    or only negatives.
    """
    positive = np.asarray(is_positive, dtype=bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    larger = rankdata(values)[positive].sum() - positives * (positives + 1) / 2
    return float(larger / (positives * negatives))


def bootstrap_interval(
    statistic: Callable[[list[Item]], float], images: Sequence[Item], samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a statistic over images (Efron 1979).

    Samples in which the statistic is nan are left out; if it is nan in all of them, so is the interval.
    """
    random = np.random.default_rng(seed)
    drawn = random.integers(len(images), size=(samples, len(images)))
    values = np.array([statistic([images[index] for index in sample]) for sample in drawn])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)
