"""Class-agnostic average precision and recall of several objects per image, by pycocotools.

As COCO's own evaluation (cocodataset.org, detection), without classes: AP is the mean over IoU thresholds
0.50, 0.55, ..., 0.95 of the precision at 101 recalls, over the 100 highest-scoring objects of each image.
AR@N is the mean recall over the same thresholds with N objects per image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lost_reg.types import FoundObject, Prediction

BOXES, MASKS = "bbox", "segm"  # pycocotools' names
_CATEGORY = 1


@dataclass(frozen=True)
class AveragePrecision:
    """In percent: AP, over all IoU thresholds, at 0.5 and at 0.75; AR with 1, 10 and 100 objects an image."""

    ap: float
    ap50: float
    ap75: float
    ar1: float
    ar10: float
    ar100: float


def average_precision(
    kind: str, truths: Mapping[str, Sequence[Any]], found: Mapping[str, Sequence[tuple[float, Any]]]
) -> AveragePrecision:
    """Score the objects found in images against the true ones.

    Args:
        kind: BOXES or MASKS.
        truths: by image, the objects: boxes [xmin, ymin, xmax, ymax], or COCO segmentations as run lengths.
            At least one image has an object.
        found: by image, the objects with their scores; an image of `truths` without any may be left out.
    """
    numbers = {image: number for number, image in enumerate(truths, start=1)}
    true_objects = [
        {"image_id": number, **_shape(kind, shape)}
        for image, number in numbers.items()
        for shape in truths[image]
    ]
    found_objects = [
        {"image_id": number, "score": score, **_shape(kind, shape)}
        for image, number in numbers.items()
        for score, shape in found.get(image, ())
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        stats = _evaluated(kind, list(numbers.values()), true_objects, found_objects)
    ap, ap50, ap75, _, _, _, ar1, ar10, ar100, *_ = (100 * float(one) for one in stats)
    return AveragePrecision(ap, ap50, ap75, ar1, ar10, ar100)


def _evaluated(kind: str, images: list[int], truths: list[Any], found: list[Any]) -> Sequence[float]:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(_coco(images, truths), _coco(images, found), kind)
    parameters = evaluation.params
    parameters.useCats = 0
    parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]  # all
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def _coco(images: list[int], objects: list[dict[str, Any]]) -> Any:
    """A pycocotools COCO of objects of one category; their ids start at 1, as 0 means no match."""
    from pycocotools.coco import COCO

    coco = COCO()
    common = {"category_id": _CATEGORY, "iscrowd": 0, "area": 1}  # objects of any area count
    coco.dataset = {
        "images": [{"id": number, "height": 1, "width": 1} for number in images],  # sizes are for polygons
        "categories": [{"id": _CATEGORY}],
        "annotations": [{"id": number, **common, **one} for number, one in enumerate(objects, start=1)],
    }
    coco.createIndex()
    return coco


def _shape(kind: str, shape: Any) -> dict[str, Any]:
    if kind == MASKS:
        return {"segmentation": shape}
    xmin, ymin, xmax, ymax = shape
    return {"bbox": [xmin, ymin, xmax - xmin, ymax - ymin]}


def scored_objects(predictions: Mapping[str, Prediction]) -> dict[str, list[tuple[float, FoundObject]]]:
    """The objects of each image with their scores.

    If any of them has no score, all are ranked instead, by the order in which they were found in their image:
    the first objects of all images come first.
    """
    has_scores = all(one.score is not None for found in predictions.values() for one in found.objects)
    return {
        image: [
            (float(one.score) if has_scores else -float(rank), one) for rank, one in enumerate(found.objects)
        ]
        for image, found in predictions.items()
    }
