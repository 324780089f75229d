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


ScoredBox = tuple[float, Box]


def read_boxes(path: Path) -> dict[str, Box]:
    """The box of each image with the highest score; see `read_scored_boxes`."""
    return {key: found[0][1] for key, found in read_scored_boxes(path).items()}


def read_scored_boxes(path: Path) -> dict[str, list[ScoredBox]]:
    """Read the boxes of images from a LOST pickle or a COCO-style detections file (.json).

    A LOST pickle (`preds.pkl`) is a dictionary from file name or image id to [xmin, ymin, xmax, ymax]. A
    detections file is a list of {image_id or file_name, bbox [x, y, width, height], score}, as pycocotools,
    Ultralytics and others write it.

    Returns:
        Scores, and boxes xyxy in pixels, best first, by the file's name for the image (see `match_images`).
        The boxes of a pickle, one an image, have the score 1.

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
        boxes = _from_detections(content) if is_json else _scored(boxes_from_pickle(content))
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

    bbox: Box
    score: float
    image_id: int | str | None = None
    file_name: str | None = None

    @property
    def key(self) -> str:
        """What names the image. Raises ValueError if nothing does."""
        name = self.file_name if self.image_id is None else self.image_id
        if name is None:
            raise ValueError("a detection has neither an image_id nor a file_name")
        return str(name)


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


def _scored(boxes: Mapping[str, Box]) -> dict[str, list[ScoredBox]]:
    return {key: [(1.0, box)] for key, box in boxes.items()}


def _from_detections(content: bytes) -> dict[str, list[ScoredBox]]:
    found: dict[str, list[ScoredBox]] = {}
    for one in parse_json(content, list[_Detection]):
        x, y, width, height = map(float, one.bbox)
        found.setdefault(one.key, []).append((one.score, (x, y, x + width, y + height)))
    return {key: sorted(boxes, key=lambda one: -one[0]) for key, boxes in found.items()}
