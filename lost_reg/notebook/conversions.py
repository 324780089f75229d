"""Predictions as other libraries take them. These are imported when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from lost_reg.boxes import whole_pixels
from lost_reg.errors import LostRegError
from lost_reg.export.base import CATEGORY, Export, ImageFiles
from lost_reg.export.boxes import ExportedImage, Filters, Selection, boxes_of
from lost_reg.export.coco import coco_content
from lost_reg.export.fiftyone import detection
from lost_reg.export.masks import pixels_of
from lost_reg.runs.image_folder import ImageFolder
from lost_reg.types import Prediction


def to_coco(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """A COCO instances file as a dictionary: see `Predictions.to_coco`.

    Raises:
        LostRegError: several images have one name.
    """
    names = [one.image for one in predictions]
    if len(set(names)) < len(names):
        raise LostRegError(
            "several images have one name, which COCO tells them apart by: leave out the others"
        )
    selection = Selection(predictions, Filters())
    files = ImageFiles(ImageFolder(None))
    return coco_content(Export(selection, {}, files, without_box=tuple(selection.without_box())))


def to_supervision(prediction: Prediction) -> Any:
    """The objects as `supervision.Detections`: see `ImagePrediction.to_supervision`."""
    sv = _imported("supervision", "to_supervision")
    found = prediction.objects
    if not found:
        return sv.Detections.empty()
    image = _image(prediction)
    names = np.array([one.label or CATEGORY for one in found])
    scores, masks = [one.score for one in found], [one.mask for one in found]
    return sv.Detections(
        xyxy=np.array([one.box_xyxy for one in found], np.float32),
        confidence=None if None in scores else np.array(scores, np.float32),
        mask=np.stack([pixels_of(image, box) for box in image.boxes]) if all(masks) else None,
        class_id=np.unique(names, return_inverse=True)[1],
        data={"class_name": names},
    )


def to_fiftyone(prediction: Prediction) -> Any:
    """The objects as `fiftyone.Detections`: see `ImagePrediction.to_fiftyone`."""
    fo = _imported("fiftyone", "to_fiftyone")
    image = _image(prediction)
    found = []
    for box in image.boxes:
        values = detection(image.size_hw, box)
        attributes = values.pop("attributes")
        mask = None
        if box.mask:  # FiftyOne has the part of a mask inside its box
            left, top, right, bottom = whole_pixels(box.xyxy, image.size_hw)
            mask = pixels_of(image, box)[top:bottom, left:right]
        found.append(fo.Detection(mask=mask, **values, **attributes))
    return fo.Detections(detections=found)


def _image(prediction: Prediction) -> ExportedImage:
    return ExportedImage(prediction.image, prediction.size_hw, tuple(boxes_of(prediction)))


def _imported(module: str, what: str) -> Any:
    """A library that is not a dependency.

    Raises:
        LostRegError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LostRegError(f"{what} needs {module}, which is not installed: pip install {module}") from None
