"""CorLoc: the share of images whose one box has IoU >= 0.5 with any ground-truth box.

Scored as in LOST (valeoai/LOST, main_lost.py): continuous coordinates, no + 1. Only boxes and sizes are
needed, so no image is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np

from lost_reg.boxes import centred_boxes
from lost_reg.datasets.truths import Truths
from lost_reg.errors import LostRegError
from lost_reg.scoring.columns import AlignedBoxes, Columns, found_images, with_objects
from lost_reg.text import shown_names
from lost_reg.types import Box, ImageTruth

# The trivial baselines, which ignore the pixels: a centred box of this share of the width and the height.
CENTRED_SIDE, WHOLE_SIDE = 0.8, 1.0


@dataclass(frozen=True)
class Score:
    """CorLoc of one set of boxes.

    images: the denominator, all images with a ground-truth box; found: how many were found.
    corloc, interval: in percent; the interval is Wilson's, 95 %.
    unusable: images in the denominator that could not be decoded or used, counted as misses.
    without_truth: images left out because they have no ground-truth box.
    not_done: images that the run has not reached, left out.
    centred, whole: CorLoc of the trivial baselines on the same images, in percent: a centred box of
        80 % side, and the whole image.
    """

    images: int
    found: int
    corloc: float
    interval: tuple[float, float]
    unusable: int
    without_truth: int
    not_done: int
    centred: float
    whole: float


def score(
    boxes: Mapping[str, Box | None],
    truths: Mapping[str, ImageTruth],
    *,
    unusable: Iterable[str] = (),
    count_hard: bool = True,
) -> Score:
    """CorLoc of one box per image.

    Args:
        boxes: by image name, [xmin, ymin, xmax, ymax] in pixels; None, where nothing was found, is a miss.
        truths: the ground truth of the whole split, by image name. The baselines miss an image without a
            size.
        unusable: images that could not be used; they count as misses.
        count_hard: False drops difficult and truncated objects, and images left with none (LOST's
            `no_hard`).

    Raises:
        LostRegError: a box for an image without ground truth, or no image left to score.
    """
    unusable = list(set(unusable) - boxes.keys())
    unknown = [name for name in (*boxes, *unusable) if name not in truths]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)}: are these results of this dataset?")
    columns = replace(Columns.of_boxes(boxes), failures=unusable)
    in_columns = truths if isinstance(truths, Truths) else Truths.of(truths.values())
    aligned = AlignedBoxes.align(columns, in_columns, columns.names, columns.failures)
    return score_aligned(aligned, in_columns, count_hard=count_hard)


def score_aligned(found: AlignedBoxes, truths: Truths, *, count_hard: bool = True) -> Score:
    """CorLoc of one box per image of a dataset; see `score`.

    Raises:
        LostRegError: no image left to score.
    """
    counting = truths.counting(count_hard)
    scored = found.done & with_objects(counting)
    images, done = int(np.count_nonzero(scored)), int(np.count_nonzero(found.done))
    if not images:
        raise LostRegError("nothing to score: no image that was done has a ground-truth box")

    def number_found(boxes_xyxy: np.ndarray) -> int:
        return int(np.count_nonzero(found_images(boxes_xyxy, counting) & scored))

    def percent_centred(side: float) -> float:
        return 100 * number_found(centred_boxes(truths.sizes_hw, side)) / images

    hits = number_found(found.boxes_xyxy)
    low, high = wilson_interval(hits, images)
    return Score(
        images=images,
        found=hits,
        corloc=100 * hits / images,
        interval=(100 * low, 100 * high),
        unusable=int(np.count_nonzero(found.failed & scored)),
        without_truth=done - images,
        not_done=len(truths) - done,
        centred=percent_centred(CENTRED_SIDE),
        whole=percent_centred(WHOLE_SIDE),
    )


def objects_that_count(truth: ImageTruth, count_hard: bool = True) -> ImageTruth:
    """The ground truth of an image, without its hard objects unless they count."""
    if count_hard or not any(truth.hard):
        return truth
    counts = [not hard for hard in truth.hard]
    kept: dict[str, Any] = {
        name: tuple(compress(getattr(truth, name), counts))
        for name in ("boxes_xyxy", "labels", "hard", "difficult")
    }
    return replace(truth, **kept)


def wilson_interval(found: float, images: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), 95 % by default, as fractions.

    Numbers need not be whole: an effective sample size seldom is.

    The same as from `scipy.stats.binomtest`, whose import would take more than twice as long as all of
    `lost-reg corloc`.
    """
    share = found / images
    middle = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2))
    scale = 1 + z * z / images
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # rounding can overshoot at 0 and 1
