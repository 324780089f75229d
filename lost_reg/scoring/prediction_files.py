"""Boxes from other programs: LOST's pickles, COCO-style detections, and COCO annotation files."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from lost_reg.datasets.coco_file import CocoFile, read_coco_file
from lost_reg.datasets.fields import MISSING, MOST, as_id, as_number, as_xywh
from lost_reg.datasets.image_paths import last_part
from lost_reg.errors import LostRegError
from lost_reg.files import read_bytes
from lost_reg.json_files import MALFORMED, parse_json, reason_of
from lost_reg.scoring.lost_pickle import boxes_from_pickle
from lost_reg.text import shown_names
from lost_reg.types import Box, ImageTruth

T = TypeVar("T")


ScoredBox = tuple[float, Box]


def read_boxes(path: Path) -> dict[str, Box | None]:
    """The first box of each image, or None if the file says that it has none; see `read_scored_boxes`."""
    return {key: found[0][1] if found else None for key, found in read_scored_boxes(path).items()}


def read_scored_boxes(path: Path) -> dict[str, list[ScoredBox]]:
    """Read the boxes of images from a LOST pickle or a COCO file (.json) of detections or annotations.

    A LOST pickle (`preds.pkl`) is a dictionary from file name or image id to [xmin, ymin, xmax, ymax]. A
    file of detections is a list of {image_id or file_name, bbox [x, y, width, height], score}, as
    pycocotools, Ultralytics and others write it. One of annotations is what `lost-reg export --to coco`
    writes, or any other that `read_coco_file` reads.

    Returns:
        Scores, and boxes xyxy in pixels, best first, by the file's name for the image (see `match_images`).
        Annotations of a run are in its order, other ones by score. What has no score, as the boxes of a
        pickle, one an image, has the score 1.

    Raises:
        LostRegError: a file that is missing or malformed, or a pickle that holds anything other than
            numbers, strings, lists, dictionaries and numpy arrays. Nothing in it is executed.
    """
    content = read_bytes(path)
    is_json = path.suffix.lower() == ".json"
    if is_json and _is_object_with_annotations(content):
        boxes = _from_annotations(read_coco_file(path))
    else:
        boxes = _from_list_or_pickle(path, content, is_json)
    if not any(boxes.values()):
        raise LostRegError(f"{str(path)!r} holds no boxes")
    return boxes


def _from_list_or_pickle(path: Path, content: bytes, is_json: bool) -> dict[str, list[ScoredBox]]:
    try:
        return _from_detections(content) if is_json else _scored(boxes_from_pickle(content))
    except LostRegError as error:
        raise LostRegError(f"{str(path)!r} is refused: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = _reason(error) if is_json else "it is damaged, or no pickle"
        raise LostRegError(
            f"{str(path)!r} is neither a LOST pickle nor COCO-style detections: {reason}"
        ) from None


def match_images(
    found: Mapping[str, T], truths: Mapping[str, ImageTruth], left_out: Iterable[str] = ()
) -> dict[str, T]:
    """Rekey boxes or other results to the dataset's image names, without the images left out.

    Raises:
        LostRegError: see `image_names`.
    """
    images = image_names(list(found), truths, left_out)
    return {image: value for image, value in zip(images, found.values()) if image is not None}


def image_names(
    keys: Sequence[str], truths: Mapping[str, ImageTruth], left_out: Iterable[str] = ()
) -> list[str | None]:
    """The dataset's name of each image, for what a file calls it.

    A name is tried as it is: as a name, id, last part of a path, stem or number of the dataset; then as an id
    by value (139.0), and then by its last part, as of val2017/x.jpg or D:\\data\\x.jpg.

    Args:
        left_out: images of the dataset that are not scored; their name is None.

    Raises:
        LostRegError: an image that the dataset does not have, a name that matches two of its images, or
            two names for one image.
    """
    if all(key in truths for key in keys):  # as in a run
        return list(keys)
    unscored = {name: ImageTruth(name, Path(name).stem, None, (), (), ()) for name in left_out}
    names = _images_by_any_name({**truths, **unscored})
    images = [names.get(_known_name(key, names), "") for key in keys]
    unknown = [key for key, image in zip(keys, images) if image == ""]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)}: are these results of this dataset?")
    ambiguous = [key for key, image in zip(keys, images) if image is None]
    if ambiguous:
        raise LostRegError(f"several images of the dataset go by {shown_names(ambiguous)}: use their ids")
    repeated = [image for image, count in Counter(images).items() if count > 1]
    if repeated:
        raise LostRegError(f"several boxes for {shown_names(repeated)}, which goes by several names there")
    return [None if image in unscored else image for image in images]


def _known_name(key: str, names: Mapping[str, str | None]) -> str:
    """The form of a name that the dataset knows; the name itself if there is none."""
    forms = (key, as_id("image_id", key) if key.strip() else key, key.replace("\\", "/"), last_part(key))
    return next((form for form in forms if form in names), key)


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


class _Detection(msgspec.Struct):
    """As parsed: every field is checked later, so that an error can name it."""

    bbox: Any = MISSING
    score: Any = MISSING
    image_id: Any = None
    file_name: Any = None

    @property
    def key(self) -> str:
        """What names the image. Raises ValueError if nothing does."""
        if self.image_id is None and self.file_name is None:
            raise ValueError("it has neither an image_id nor a file_name")
        if self.image_id is None:
            return as_id("file_name", self.file_name)
        return as_id("image_id", self.image_id)


class _Annotations(msgspec.Struct):
    """What tells a COCO annotation file."""

    annotations: list[Any]


def _is_object_with_annotations(content: bytes) -> bool:
    if not re.match(rb"[\s\xef\xbb\xbf\xfe\xff\0]*\{", content):  # mostly, lists are large
        return False
    with contextlib.suppress(*MALFORMED):
        parse_json(content, _Annotations, finite=False)
        return True
    return False


def _reason(error: Exception) -> str:
    """What was wrong with JSON, in plain words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return reason_of(error)[:200]


def _scored(boxes: Mapping[str, Box]) -> dict[str, list[ScoredBox]]:
    return {key: [(1.0, box)] for key, box in boxes.items()}


def _from_detections(content: bytes) -> dict[str, list[ScoredBox]]:
    found: dict[str, list[ScoredBox]] = {}
    for index, one in enumerate(parse_json(content, list[_Detection], finite=False)):
        try:
            x, y, width, height = map(float, as_xywh("bbox", one.bbox))
            score = as_number("score", one.score, MOST)
            found.setdefault(one.key, []).append((score, (x, y, x + width, y + height)))
        except ValueError as error:
            raise ValueError(f"the detection at index {index}: {error}") from None
    return {key: sorted(boxes, key=lambda one: -one[0]) for key, boxes in found.items()}


def _from_annotations(file: CocoFile) -> dict[str, list[ScoredBox]]:
    """In the order of a run's export, else by score, best first."""
    if file.orphans:
        raise LostRegError(f"{file.notes[0]} in {str(file.path)!r}")
    objects, names = file.objects, file.images.file_names
    places = np.where(np.isnan(objects.ranks), np.nan_to_num(-objects.scores, nan=0.0), objects.ranks)
    order = np.lexsort([places, np.repeat(np.arange(len(names)), np.diff(objects.starts))])
    scores = np.nan_to_num(objects.scores[order], nan=1.0).tolist()
    x, y, width, height = objects.boxes_xywh[order].T
    boxes = map(tuple, np.stack([x, y, x + width, y + height], axis=1).tolist())
    found = list(zip(scores, boxes))
    starts = objects.starts.tolist()
    of_images = {name: found[start:end] for name, start, end in zip(names, starts, starts[1:])}
    return {**{name: [] for name in file.without_box}, **of_images}
