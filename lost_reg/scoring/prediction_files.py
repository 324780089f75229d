"""Boxes that other programs found: LOST's pickles and COCO-style detections."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.text import shown_names
from lost_reg.types import Box, ImageTruth


def read_boxes(path: Path) -> dict[str, Box]:
    """Read one box per image from a LOST pickle or a COCO-style detections file (.json).

    A LOST pickle (`preds.pkl`) is a dictionary from file name or image id to [xmin, ymin, xmax, ymax]. Of
    a detections file, a list of {image_id, bbox [x, y, width, height], score}, the box of highest score
    counts.

    Returns:
        Boxes xyxy in pixels, by what the file calls the image (see `match_images`).

    Raises:
        LostRegError: a file that is missing or malformed, or a pickle that holds anything else than
            numbers, strings, lists, dictionaries and numpy arrays. Nothing in it is executed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LostRegError(f"cannot read {str(path)!r}: {error.strerror}") from None
    try:
        boxes = _from_detections(json.loads(content)) if path.suffix == ".json" else _from_pickle(content)
    except LostRegError as error:
        raise LostRegError(f"{str(path)!r} is refused: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise LostRegError(
            f"{str(path)!r} is neither a LOST pickle nor COCO-style detections: {reason}"
        ) from None
    if not boxes:
        raise LostRegError(f"{str(path)!r} holds no boxes")
    return boxes


def match_images(boxes: Mapping[str, Box], truths: Mapping[str, ImageTruth]) -> dict[str, Box]:
    """Boxes by the dataset's image names, for boxes by file name, image id, stem or number.

    Raises:
        LostRegError: an image that the dataset does not have, a name that two of its images go by, or
            two boxes for one image.
    """
    if boxes.keys() <= truths.keys():  # as in a run: the surest of the names, and quick
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
    """The image that each name means, or None if several go by it. The surer kinds of names go first."""
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


def _from_detections(detections) -> dict[str, Box]:
    best: dict[str, tuple[float, Box]] = {}
    for detection in detections:
        x, y, width, height = map(float, detection["bbox"])
        key, score = str(detection["image_id"]), float(detection["score"])
        if key not in best or score > best[key][0]:
            best[key] = score, (x, y, x + width, y + height)
    return {key: box for key, (_, box) in best.items()}


def _from_pickle(content: bytes) -> dict[str, Box]:
    predictions = _DataUnpickler(content).load()
    if not isinstance(predictions, dict):
        raise LostRegError(f"expected a dictionary of boxes, but it holds a {type(predictions).__name__}")
    return {_name(key): _box(key, value) for key, value in predictions.items()}


def _name(key) -> str:
    key = _plain(key)
    if not isinstance(key, (str, int)):
        raise LostRegError(f"expected image names or ids as its keys, but one is a {type(key).__name__}")
    return str(key)


def _box(key, value) -> Box:
    sides = value.values() if isinstance(value, _PickledArray) else value
    sides = [_plain(side) for side in sides] if isinstance(sides, (list, tuple)) else []
    if len(sides) != 4 or not all(isinstance(side, (int, float)) and isfinite(side) for side in sides):
        raise LostRegError(f"expected boxes of four numbers, but that of {_name(key)!r} is something else")
    return tuple(map(float, sides))


def _plain(value):
    """A Python number for numpy's scalar; anything else as it is."""
    return value.values()[0] if isinstance(value, _PickledArray) else value


class _DataUnpickler(pickle._Unpickler):
    """Reads data alone: every name that a pickle asks for is one of the stand-ins below, or refused.

    Not even numpy's own functions are called, so that a pickle can run no code and ask for no memory
    beyond its own length. (That rules out the unpickler in C, which makes room for what a pickle
    announces, be it there or not; so does the reader of bytearrays, which are read as bytes.)
    """

    dispatch = {  # noqa: RUF012
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.load_binbytes8,
    }

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="latin1")

    def find_class(self, module: str, name: str):
        package = module.replace("numpy._core", "numpy.core")
        found = _STAND_INS.get((package, name))
        if found is None:
            raise LostRegError(f"it asks for {module}.{name}, which is not data")
        return found

    def persistent_load(self, _):
        raise LostRegError("it refers to things outside itself")


class _PickledType:
    """Stands in for numpy.dtype: the type's code, such as i8, and its byte order."""

    def __init__(self, code: str, *_):
        self.code, self.order = code, "<"

    def __setstate__(self, state) -> None:
        self.order = state[1]

    def decode(self, raw) -> list[float]:
        kinds = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
        if self.code not in kinds:
            raise LostRegError(f"it holds an array of type {self.code!r}, not of numbers")
        order = self.order if self.order in "<>" else "="
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # written by Python 2
        return np.frombuffer(raw, dtype=np.dtype(order + self.code)).tolist()


class _PickledArray:
    """Stands in for numpy.ndarray and its scalars: a type and the raw numbers."""

    def __init__(self, kind: _PickledType | None = None, raw: bytes = b""):
        self.kind, self.raw = kind, raw

    def __setstate__(self, state) -> None:
        _, _, self.kind, _, self.raw = state

    def values(self) -> list[float]:
        if not isinstance(self.kind, _PickledType):
            raise LostRegError("it holds an array without a type")
        return self.kind.decode(self.raw)


_STAND_INS = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
    ("numpy.core.multiarray", "scalar"): _PickledArray,
    ("numpy.core.numeric", "_frombuffer"): lambda raw, kind, *_: _PickledArray(kind, raw),
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as protocol 2 writes them
}
