"""A COCO annotation file, read once and checked as a whole.

Ids are compared as one type: 139, 139.0 and "139" are the same. An id or a file name that is there twice is
an error. Annotations of images that the file does not list are left out, and counted in the notes. A box of
no area is legal, as COCO has some: it counts as an object, but no box can find it.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from lost_reg.datasets.fields import (
    MISSING,
    MOST,
    as_id,
    as_mark,
    as_number,
    as_size,
    as_xywh,
    wrong,
)
from lost_reg.datasets.image_paths import by_last_part
from lost_reg.errors import LostRegError
from lost_reg.files import read_bytes
from lost_reg.json_files import MALFORMED, convert, parse_json, reason_of
from lost_reg.text import counted, shown_names
from lost_reg.types import SizeHW

T = TypeVar("T")


@dataclass(frozen=True)
class CocoImage:
    """An image of the file.

    id: as text, see `as_id`; written_id: as it is in the file.
    size_hw: None if the file does not give it.
    """

    id: str
    written_id: Any
    file_name: str
    size_hw: SizeHW | None


@dataclass(frozen=True, eq=False)
class CocoImages:
    """The N images of the file, in its order.

    ids: as text, see `as_id`; written_ids: as they are in the file, of those that are no int there.
    sizes_hw: (N, 2) int, 0 where the file does not give it.
    """

    ids: list[str]
    file_names: list[str]
    sizes_hw: np.ndarray
    written_ids: dict[str, Any]

    def __iter__(self) -> Iterator[CocoImage]:
        for key, name, (height, width) in zip(self.ids, self.file_names, self.sizes_hw.tolist()):
            written = self.written_ids[key] if key in self.written_ids else int(key)
            yield CocoImage(key, written, name, (height, width) if height else None)


@dataclass(frozen=True, eq=False)
class CocoObjects:
    """The M objects that are no crowds, image by image, in the file's order.

    starts: (N + 1,) int; the objects of image i are those from starts[i] up to starts[i + 1].
    boxes_xywh: (M, 4) float, in pixels, as in the file.
    labels: (M,) int, the place of each object's category in `classes`; "" without one.
    scores, ranks: (M,) float, of found boxes: their confidence, and their number among those of their image,
        in the order in which they were found; NaN for annotations of people.
    names: what messages call them, such as "annotation 7 of image a.jpg"; segmentations: as in the file,
        unchecked; None without one. Both are kept only if masks are asked for.
    """

    starts: np.ndarray
    boxes_xywh: np.ndarray
    labels: np.ndarray
    classes: list[str]
    scores: np.ndarray
    ranks: np.ndarray
    names: list[str]
    segmentations: list[Any]


@dataclass(frozen=True, eq=False)
class CocoFile:
    """The images of the file and their objects.

    is_annotated: whether the file has a list of annotations at all.
    has_masks: whether there are objects, and all of them have a segmentation.
    orphans: the ids of images that annotations belong to, but the file does not list.
    without_box: the images in which a program found nothing, as `lost-reg export --to coco` lists them.
    notes: what the user should know, such as annotations that were left out.
    """

    path: Path
    images: CocoImages
    objects: CocoObjects
    is_annotated: bool
    has_masks: bool
    orphans: tuple[str, ...]
    without_box: tuple[str, ...]
    notes: tuple[str, ...]

    def images_by_name(self) -> dict[str, CocoImage]:
        """The images by file name, and by its last part where that is of one image only."""
        images = list(self.images)
        by_name = {one.file_name: one for one in images}
        return {
            **{last: by_name[name] for last, name in by_last_part([one.file_name for one in images]).items()},
            **{one.file_name.replace("\\", "/"): one for one in images},
            **by_name,
        }


def only_lists_images(path: Path) -> LostRegError:
    """The error for a file without annotations."""
    return LostRegError(f"{str(path)!r} has no annotations: it only lists images")


# --- as parsed: every field is checked later, so that an error can name its image and annotation


class _Image(msgspec.Struct):
    id: Any = MISSING
    file_name: Any = MISSING
    height: Any = MISSING
    width: Any = MISSING


class _Annotation(msgspec.Struct):
    id: Any = MISSING
    image_id: Any = MISSING
    category_id: Any = MISSING
    bbox: Any = MISSING
    iscrowd: Any = MISSING
    segmentation: Any = None
    score: Any = MISSING
    object: Any = MISSING


class _Category(msgspec.Struct):
    id: Any = MISSING
    name: Any = MISSING


class _Content(msgspec.Struct):
    """Records are msgspec.Raw, to be parsed one by one: all at once, they take several times the memory."""

    images: list[Any]
    annotations: list[Any] | msgspec.UnsetType = MISSING
    categories: list[_Category] = []
    images_without_box: list[str] = []


class _RawContent(_Content):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | msgspec.UnsetType = MISSING


def read_coco_file(path: Path, *, masks: bool = False) -> CocoFile:
    """Read and check a COCO annotation file.

    Args:
        masks: keep the segmentations, too.

    Raises:
        LostRegError: a file that cannot be read or is in another format, a repeated id or file name, or a
            field that is missing, of another type or out of range; names the image, annotation and field.
    """
    text = read_bytes(path)
    try:
        content = _parsed(text)
        del text
        images = _images(_records(content.images, _Image, "images"))
        categories = _categories(content.categories)
        annotations = [] if content.annotations is MISSING else content.annotations
        found = _Annotations(images, categories, masks)
        found.read(_records(annotations, _Annotation, "annotations"))
    except MALFORMED as error:
        raise LostRegError(f"{str(path)!r} is not a COCO annotation file: {reason_of(error)}") from None
    except _WrongField as error:
        raise LostRegError(f"{path}: {error}") from None
    return CocoFile(
        path=path,
        images=images,
        objects=found.by_image(),
        is_annotated=content.annotations is not MISSING,
        has_masks=found.have_masks and bool(found.rows),
        orphans=tuple(found.orphans),
        without_box=tuple(content.images_without_box),
        notes=tuple(f"{path.name}: {note}" for note in found.notes()),
    )


class _WrongField(Exception):
    """A field that is wrong, with the image, annotation or category that it is of."""


def _parsed(text: bytes) -> _Content:
    try:
        return parse_json(text, _RawContent, finite=False)
    except MALFORMED:  # perhaps only a number such as NaN, which a record names
        return parse_json(text, _Content, finite=False)


def _records(raw: list[Any], kind: type[T], where: str) -> Iterator[T]:
    """Parse records one by one. Each is dropped when it is parsed, so the list is empty in the end."""
    raw.reverse()
    while raw:
        one = raw.pop()
        try:
            is_raw = isinstance(one, msgspec.Raw)
            yield parse_json(bytes(one), kind, finite=False) if is_raw else convert(one, kind)
        except msgspec.ValidationError as error:
            at = str(error).rpartition(" - at `$")
            place = at[2] if at[1] else "`"
            raise msgspec.ValidationError(f"{at[0] or error} - at `$.{where}[...]{place}") from None


def _images(records: Iterable[_Image]) -> CocoImages:
    ids: list[str] = []
    names: list[str] = []
    sizes = array("q")
    written: dict[str, Any] = {}
    for index, one in enumerate(records):
        try:
            key = as_id("id", one.id)
        except ValueError as error:
            raise _WrongField(f"the image at index {index}: {error}") from None
        if not isinstance(one.file_name, str) or not one.file_name.strip():
            raise _WrongField(f"image {key}: {wrong('file_name', one.file_name, 'the path of an image')}")
        try:
            sizes.extend(as_size(one.height, one.width) or (0, 0))
        except ValueError as error:
            raise _WrongField(f"image {key}, {one.file_name}: {error}") from None
        ids.append(key)
        names.append(one.file_name)
        if type(one.id) is not int:
            written[key] = one.id
    _check_unique("images have the id", ids)
    _check_unique("images have the file_name", names)
    return CocoImages(ids, names, np.array(sizes, int).reshape(-1, 2), written)


def _categories(records: Sequence[_Category]) -> dict[str, str]:
    names: list[tuple[str, str]] = []
    for index, one in enumerate(records):
        try:
            key = as_id("id", one.id)
            if not isinstance(one.name, str):
                raise wrong("name", one.name, "a text")
        except ValueError as error:
            raise _WrongField(f"the category at index {index}: {error}") from None
        names.append((key, one.name))
    _check_unique("categories have the id", [key for key, _ in names])
    return dict(names)


def _check_unique(what: str, names: Sequence[Any]) -> None:
    """Raises _WrongField for names that are there more than once."""
    if len(set(names)) < len(names):
        repeated = [str(name) for name, times in Counter(names).items() if times > 1]
        raise _WrongField(f"several {what} {shown_names(repeated)}")


@dataclass
class _Annotations:
    """The annotations of a file, read one by one.

    rows: of the images of the objects; the rest is as in `CocoObjects`, in the order of the file.
    """

    images: CocoImages
    categories: dict[str, str]
    keep_masks: bool
    have_masks: bool = True
    rows: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    scores: array[float] = field(default_factory=lambda: array("d"))
    ranks: array[float] = field(default_factory=lambda: array("d"))
    classes: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)
    orphans: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    count: int = 0

    def read(self, records: Iterable[_Annotation]) -> None:
        """Raises _WrongField for a field that is wrong, or a repeated id."""
        rows = {key: row for row, key in enumerate(self.images.ids)}
        ids = _Ids()
        for index, one in enumerate(records):
            self.count += 1
            row = None
            try:
                if one.id is not MISSING and one.id is not None:
                    ids.add(one.id)
                image_id = as_id("image_id", one.image_id)
                row = rows.get(image_id)
                if row is None:
                    self.orphans[image_id] += 1
                elif not as_mark("iscrowd", one.iscrowd):
                    self._add(row, one)
                    if self.keep_masks:
                        self.names.append(self._name(index, one, row))
                        self.segmentations.append(one.segmentation)
            except ValueError as error:
                raise _WrongField(f"{self._name(index, one, row)}: {error}") from None
        ids.check_unique("annotations have the id")

    def _name(self, index: int, one: _Annotation, row: int | None) -> str:
        """What messages call an annotation, as far as it is known."""
        name = f"the annotation at index {index}"
        if one.id is not MISSING and one.id is not None:
            with contextlib.suppress(ValueError):
                name = f"annotation {as_id('id', one.id)}"
        return name if row is None else f"{name} of image {self.images.file_names[row]}"

    def _add(self, row: int, one: _Annotation) -> None:
        """An object. Raises ValueError for a field that is wrong."""
        category = None if one.category_id in (MISSING, None) else as_id("category_id", one.category_id)
        label = self.categories.get(category) if category is not None else None
        if label is None and self.categories:
            self.unlisted["none" if category is None else category] += 1
        self.boxes.extend(as_xywh("bbox", one.bbox))
        self.rows.append(row)
        self.labels.append(self.classes.setdefault(label or "", len(self.classes)))
        self.scores.append(_found_by_a_program("score", one.score))
        self.ranks.append(_found_by_a_program("object", one.object))
        self.have_masks = self.have_masks and bool(one.segmentation)

    def notes(self) -> list[str]:
        """What is odd."""
        of_all = f"of {counted(self.count, 'annotation')}"
        kinds = ("belong to no listed image", self.orphans), ("have no listed category", self.unlisted)
        return [f"{odd.total():,} {of_all} {what}: ids {shown_names(odd)}" for what, odd in kinds if odd]

    def by_image(self) -> CocoObjects:
        """The objects, image by image."""
        rows = np.array(self.rows, np.int64)
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=len(self.images.ids))
        return CocoObjects(
            starts=np.concatenate([[0], np.cumsum(counts)]),
            boxes_xywh=np.array(self.boxes, float).reshape(-1, 4)[order],
            labels=np.array(self.labels, np.int64)[order],
            classes=list(self.classes),
            scores=np.array(self.scores, float)[order],
            ranks=np.array(self.ranks, float)[order],
            names=[self.names[index] for index in order.tolist()] if self.keep_masks else [],
            segmentations=[self.segmentations[index] for index in order.tolist()] if self.keep_masks else [],
        )


class _Ids:
    """Ids as text, of which whole numbers are kept in 8 bytes each."""

    def __init__(self) -> None:
        self._whole: array[int] = array("q")
        self._other: list[str] = []

    def add(self, value: Any) -> None:
        """Raises ValueError for a value that is no id."""
        if type(value) is int and -(2**63) <= value < 2**63:
            self._whole.append(value)
            return
        key = as_id("id", value)
        is_whole = len(key) < 19 and key.lstrip("-").isdecimal() and str(int(key)) == key
        self._whole.append(int(key)) if is_whole else self._other.append(key)

    def check_unique(self, what: str) -> None:
        """Raises _WrongField for ids that are there more than once."""
        differ = len(np.unique(self._whole)) == len(self._whole)
        _check_unique(what, self._other if differ else list(map(str, self._whole)))


def _found_by_a_program(name: str, value: Any) -> float:
    """The score or the rank of a found box, as `lost-reg export --to coco` writes them; NaN without."""
    return math.nan if value is MISSING or value is None else as_number(name, value, MOST)
