"""Several boxes an image against all of its ground-truth boxes, and what a signal tells of a box.

Boxes are [xmin, ymin, xmax, ymax], half-open, in pixels. Classes do not count: LOST knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lost_reg.boxes import IOU_THRESHOLD, iou
from lost_reg.types import Box, ImageTruth

Item = TypeVar("Item")


@dataclass(frozen=True)
class Counts:
    """Of one image or several: boxes that were found, objects that there are, and boxes that match one."""

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
    """Those of every image of a dataset; an image without boxes misses all of its objects.

    Args:
        boxes: by image name, in the order in which they were found.
        truths: the ground truth of the whole split, by image name.
    """
    return [_count_image(boxes.get(name, ()), truth.boxes_xyxy) for name, truth in truths.items()]


def total(images: Sequence[Counts]) -> Counts:
    """Those of all images together."""
    return Counts(*(sum(getattr(one, key) for one in images) for key in ("boxes", "objects", "matched")))


def _count_image(boxes: Sequence[Box], truths: Sequence[Box]) -> Counts:
    return Counts(len(boxes), len(truths), sum(one is not None for one in matches(boxes, truths)))


def matches(boxes: Sequence[Box], truths: Sequence[Box]) -> list[int | None]:
    """Which object each box matches, one to one.

    Greedy, as COCO matches detections, but in the order given, as LOST has no scores: a box gets the object
    that it fits best among those with IoU >= 0.5 which no box before it got.
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
    """Each box's IoU with the object that it fits best, whatever other boxes do; 0 without objects."""
    return iou(np.reshape(boxes, (-1, 4)), truths).max(axis=1, initial=0.0).tolist()


# --- statistics --------------------------------------------------------------------------------------


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; nan where one of the two is constant."""
    centred = [ranks - ranks.mean() for ranks in (mean_ranks(a), mean_ranks(b))]
    spread = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float(centred[0] @ centred[1] / spread) if spread else float("nan")


def auroc(values: Sequence[float], is_positive: Sequence[bool]) -> float:
    """The chance that a positive has the larger value than a negative, ties counted half.

    That is the area under the ROC curve, from ranks (Hanley and McNeil 1982). nan if there are only positives
    or only negatives.
    """
    positive = np.asarray(is_positive, dtype=bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    over = mean_ranks(values)[positive].sum() - positives * (positives + 1) / 2
    return float(over / (positives * negatives))


def mean_ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, group, sizes = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    return (sizes.cumsum() - (sizes - 1) / 2)[group]


def bootstrap_interval(
    statistic: Callable[[list[Item]], float], images: Sequence[Item], samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over images drawn anew (Efron 1979).

    Samples in which it is nan are left out; where it is in all, the interval is nan.
    """
    random = np.random.default_rng(seed)
    drawn = random.integers(len(images), size=(samples, len(images)))
    values = np.array([statistic([images[index] for index in sample]) for sample in drawn])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)
