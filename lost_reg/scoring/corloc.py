"""CorLoc: the share of images whose one box has IoU >= 0.5 with any ground-truth box.

Scored as in LOST (valeoai/LOST, main_lost.py): continuous coordinates, no + 1. Only boxes and sizes are
needed, so no image is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from lost_reg.boxes import centred_box, is_found
from lost_reg.errors import LostRegError
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
    unusable = set(unusable) - boxes.keys()
    unknown = [name for name in (*boxes, *unusable) if name not in truths]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)}: are these results of this dataset?")
    counted = {name: objects_that_count(truth, count_hard).boxes_xyxy for name, truth in truths.items()}
    done = [name for name in truths if name in boxes or name in unusable]
    scored = [name for name in done if counted[name]]
    if not scored:
        raise LostRegError("nothing to score: no image that was done has a ground-truth box")

    def number_found(box_of: Callable[[str], Box | None]) -> int:
        found = ((box_of(name), counted[name]) for name in scored)
        return sum(box is not None and is_found(box, objects) for box, objects in found)

    def percent_centred(side: float) -> float:
        def box_of(name: str) -> Box | None:
            size_hw = truths[name].size_hw
            return centred_box(size_hw, side) if size_hw else None

        return 100 * number_found(box_of) / len(scored)

    found = number_found(boxes.get)
    low, high = wilson_interval(found, len(scored))
    return Score(
        images=len(scored),
        found=found,
        corloc=100 * found / len(scored),
        interval=(100 * low, 100 * high),
        unusable=sum(name in unusable for name in scored),
        without_truth=len(done) - len(scored),
        not_done=len(truths) - len(done),
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
