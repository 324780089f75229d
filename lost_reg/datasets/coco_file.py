"""A COCO annotation file, read once and checked as a whole.

Ids are compared as one type: 139, 139.0 and "139" are the same. An id or a file name that is there twice is
an error. Annotations of images that the file does not list are left out, and counted in the notes. A box of
no area is legal, as COCO has some: it counts as an object, but no box can find it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

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
from lost_reg.datasets.image_paths import last_part
from lost_reg.errors import LostRegError
from lost_reg.files import read_bytes
from lost_reg.json_files import MALFORMED, parse_json, reason_of
from lost_reg.text import counted, shown_names
from lost_reg.types import SizeHW


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


class CocoAnnotation(msgspec.Struct, frozen=True):
    """An object of an image that is no crowd.

    name: what messages call it, such as "annotation 7".
    box_xywh: in pixels, as in the file.
    label: the name of its category; "" without one.
    segmentation: as in the file, unchecked; None without one.
    score, rank: of a found box: its confidence, and its number among those of its image, in the order in
        which they were found; None for annotations of people.
    """

    name: str
    box_xywh: tuple[float, float, float, float]
    label: str
    segmentation: Any
    score: float | None
    rank: float | None


@dataclass(frozen=True)
class CocoFile:
    """images: by id, in the file's order; objects: of each image, by its id, in the file's order.

    is_annotated: whether the file has a list of annotations at all.
    orphans: the ids of images that annotations belong to, but the file does not list.
    without_box: the images in which a program found nothing, as `lost-reg export --to coco` lists them.
    notes: what the user should know, such as annotations that were left out.
    """

    path: Path
    images: dict[str, CocoImage]
    objects: dict[str, list[CocoAnnotation]]
    is_annotated: bool
    orphans: tuple[str, ...]
    without_box: tuple[str, ...]
    notes: tuple[str, ...]

    def check_annotated(self) -> None:
        """Raises LostRegError for a file that only lists images."""
        if not self.is_annotated:
            raise LostRegError(f"{str(self.path)!r} has no annotations: it only lists images")

    def images_by_name(self) -> dict[str, CocoImage]:
        """The images by file name, and by its last part where that is of one image only."""
        images = list(self.images.values())
        times = Counter(last_part(one.file_name) for one in images)
        by_last = {last_part(one.file_name): one for one in images if times[last_part(one.file_name)] == 1}
        return {
            **by_last,
            **{one.file_name.replace("\\", "/"): one for one in images},
            **{one.file_name: one for one in images},
        }


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
    images: list[_Image]
    annotations: list[_Annotation] | msgspec.UnsetType = MISSING
    categories: list[_Category] = []
    images_without_box: list[str] = []


def read_coco_file(path: Path) -> CocoFile:
    """Read and check a COCO annotation file.

    Raises:
        LostRegError: a file that cannot be read or is in another format, a repeated id or file name, or a
            field that is missing, of another type or out of range; names the image, annotation and field.
    """
    text = read_bytes(path)
    try:
        content = parse_json(text, _Content, finite=False)
    except MALFORMED as error:
        raise LostRegError(f"{str(path)!r} is not a COCO annotation file: {reason_of(error)}") from None
    try:
        images = _images(content.images)
        categories = _categories(content.categories)
        annotations = content.annotations or []
        objects, orphans, notes = _objects(annotations, images, categories)
    except ValueError as error:
        raise LostRegError(f"{path}: {error}") from None
    return CocoFile(
        path=path,
        images=images,
        objects=objects,
        is_annotated=content.annotations is not MISSING,
        orphans=orphans,
        without_box=tuple(content.images_without_box),
        notes=tuple(f"{path.name}: {note}" for note in notes),
    )


def _images(records: Sequence[_Image]) -> dict[str, CocoImage]:
    images = []
    for index, one in enumerate(records):
        try:
            key = as_id("id", one.id)
        except ValueError as error:
            raise ValueError(f"the image at index {index}: {error}") from None
        if not isinstance(one.file_name, str) or not one.file_name.strip():
            raise ValueError(f"image {key}: {wrong('file_name', one.file_name, 'the path of an image')}")
        try:
            size_hw = as_size(one.height, one.width)
        except ValueError as error:
            raise ValueError(f"image {key}, {one.file_name}: {error}") from None
        images.append(CocoImage(key, one.id, one.file_name, size_hw))
    _check_unique("images have the id", (one.id for one in images))
    _check_unique("images have the file_name", (one.file_name for one in images))
    return {one.id: one for one in images}


def _categories(records: Sequence[_Category]) -> dict[str, str]:
    names: list[tuple[str, str]] = []
    for index, one in enumerate(records):
        try:
            key = as_id("id", one.id)
            if not isinstance(one.name, str):
                raise wrong("name", one.name, "a text")
        except ValueError as error:
            raise ValueError(f"the category at index {index}: {error}") from None
        names.append((key, one.name))
    _check_unique("categories have the id", (key for key, _ in names))
    return dict(names)


def _check_unique(what: str, names: Iterable[str]) -> None:
    """Raises ValueError for names that are there more than once."""
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(f"several {what} {shown_names(repeated)}")


def _objects(
    records: Sequence[_Annotation], images: dict[str, CocoImage], categories: dict[str, str]
) -> tuple[dict[str, list[CocoAnnotation]], tuple[str, ...], list[str]]:
    """The objects of each image, the ids of images that are not listed, and notes on what is odd."""
    objects: dict[str, list[CocoAnnotation]] = {}
    ids: list[str] = []
    orphans: Counter[str] = Counter()
    unlisted: Counter[str] = Counter()
    for index, one in enumerate(records):
        name = f"the annotation at index {index}"
        try:
            if one.id is not MISSING and one.id is not None:
                ids.append(as_id("id", one.id))
                name = f"annotation {ids[-1]}"
            image_id = as_id("image_id", one.image_id)
            if image_id not in images:
                orphans[image_id] += 1
                continue
            name = f"{name} of image {images[image_id].file_name}"
            if as_mark("iscrowd", one.iscrowd):
                continue
            category = None if one.category_id in (MISSING, None) else as_id("category_id", one.category_id)
            label = categories.get(category)
            if label is None and categories:
                unlisted["none" if category is None else category] += 1
            found = CocoAnnotation(
                name, as_xywh("bbox", one.bbox), label or "", one.segmentation, *_found_by_a_program(one)
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        objects.setdefault(image_id, []).append(found)
    _check_unique("annotations have the id", ids)
    of_all = f"of {counted(len(records), 'annotation')}"
    notes = [
        f"{odd.total():,} {of_all} {what}: ids {shown_names(odd)}"
        for what, odd in (("belong to no listed image", orphans), ("have no listed category", unlisted))
        if odd
    ]
    return objects, tuple(orphans), notes


def _found_by_a_program(one: _Annotation) -> tuple[float | None, float | None]:
    """The score and the rank of a found box, as `lost-reg export --to coco` writes them."""
    score, rank = (
        None if value is MISSING or value is None else as_number(name, value, MOST)
        for name, value in (("score", one.score), ("object", one.object))
    )
    return score, rank
