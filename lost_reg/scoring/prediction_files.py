"""Boxes from other programs: LOST's pickles and COCO-style detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lost_reg.errors import LostRegError
from lost_reg.json_files import MALFORMED, parse_json, reason_of
from lost_reg.scoring.lost_pickle import boxes_from_pickle
from lost_reg.text import shown_names
from lost_reg.types import Box, ImageTruth

T = TypeVar("T")


def read_boxes(path: Path) -> dict[str, Box]:
    """Read one box per image from a LOST pickle or a COCO-style detections file (.json).

    A LOST pickle (`preds.pkl`) is a dictionary from file name or image id to [xmin, ymin, xmax, ymax]. A
    detections file is a list of {image_id, bbox [x, y, width, height], score}; each image's box with the
    highest score counts.

    Returns:
        Boxes xyxy in pixels, by the file's name for the image (see `match_images`).

    Raises:
        LostRegError: a file that is missing or malformed, or a pickle that holds anything other than
            numbers, strings, lists, dictionaries and numpy arrays. Nothing in it is executed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LostRegError(f"cannot read {str(path)!r}: {error.strerror}") from None
    is_json = path.suffix == ".json"
    try:
        boxes = (_from_detections if is_json else boxes_from_pickle)(content)
    except LostRegError as error:
        raise LostRegError(f"{str(path)!r} is refused: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        if is_json and _holds_annotations(content):
            raise LostRegError(
                f"{str(path)!r} is a COCO annotation file: expected a list of detections"
            ) from None
        reason = _reason(error) if is_json else "it is damaged, or no pickle"
        raise LostRegError(
            f"{str(path)!r} is neither a LOST pickle nor COCO-style detections: {reason}"
        ) from None
    if not boxes:
        raise LostRegError(f"{str(path)!r} holds no boxes")
    return boxes


def match_images(boxes: Mapping[str, T], truths: Mapping[str, ImageTruth]) -> dict[str, T]:
    """Rekey boxes or other results from file name, id, stem or number to the dataset's image names.

    Raises:
        LostRegError: an image that the dataset does not have, a name that matches two of its images, or
            two boxes for one image.
    """
    if boxes.keys() <= truths.keys():  # as in a run
        return dict(boxes)
    images = _images_by_any_name(truths)
    unknown = [key for key in boxes if key not in images]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)}: are these results of this dataset?")
    ambiguous = [key for key in boxes if images[key] is None]
    if ambiguous:
        raise LostRegError(f"several images of the dataset go by {shown_names(ambiguous)}: use their ids")
    repeated = [image for image, count in Counter(images[key] for key in boxes).items() if count > 1]
    if repeated:
        raise LostRegError(f"several boxes for {shown_names(repeated)}, which goes by several names there")
    return {images[key]: box for key, box in boxes.items()}


def _images_by_any_name(truths: Mapping[str, ImageTruth]) -> dict[str, str | None]:
    """The image that each name refers to, or None if several share it. More exact kinds of names win."""
    images: dict[str, str | None] = {}
    for name_of in _KINDS_OF_NAMES:
        of_this_kind: dict[str, str | None] = {}
        for truth in truths.values():
            name = name_of(truth)
            of_this_kind[name] = None if name in of_this_kind else truth.image
        images = of_this_kind | images
    return images


def _number(text: str) -> str:
    return str(int(text)) if text.isdecimal() else text


_KINDS_OF_NAMES = (
    lambda truth: truth.image,
    lambda truth: truth.image_id,
    lambda truth: Path(truth.image).name,
    lambda truth: Path(truth.image).stem,
    lambda truth: _number(truth.image_id),
    lambda truth: _number(Path(truth.image).stem),
)


@dataclass(frozen=True)
class _Detection:
    """bbox: [x, y, width, height]."""

    image_id: int | str
    bbox: Box
    score: float


@dataclass(frozen=True)
class _Annotations:
    """What tells a COCO annotation file."""

    annotations: list[Any]


def _holds_annotations(content: bytes) -> bool:
    try:
        parse_json(content, _Annotations)
    except MALFORMED:
        return False
    return True


def _reason(error: Exception) -> str:
    """What was wrong with JSON, in plain words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return reason_of(error)[:200]


def _from_detections(content: bytes) -> dict[str, Box]:
    best: dict[str, _Detection] = {}
    for detection in parse_json(content, list[_Detection]):
        key = str(detection.image_id)
        if key not in best or detection.score > best[key].score:
            best[key] = detection
    boxes = {key: map(float, detection.bbox) for key, detection in best.items()}
    return {key: (x, y, x + width, y + height) for key, (x, y, width, height) in boxes.items()}
