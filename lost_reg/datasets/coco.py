"""Datasets annotated in COCO's format, in one .json file, and coco20k, a list of COCO images.

As in LOST (valeoai/LOST, datasets.py), crowd objects are dropped and the corners of boxes rounded. Boxes that
reach beyond their image are not clipped.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lost_reg.datasets.base import Dataset, DatasetSpec, not_found
from lost_reg.datasets.coco_file import CocoFile, only_lists_images, read_coco_file
from lost_reg.datasets.coco_masks import coco_masks
from lost_reg.datasets.image_paths import best_folder
from lost_reg.datasets.truths import Truths
from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, read_text, whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_json
from lost_reg.text import shown_names
from lost_reg.types import ImageTruth

LIST_FILE = "coco_20k_filenames.txt"
ANNOTATIONS_FILE = "annotations/instances_train2014.json"
CACHE_FILE = "coco20k_ground_truth.json"


def is_coco(path: Path) -> bool:
    """Whether a path could be a COCO annotation file."""
    return path.is_file() and path.suffix.lower() == ".json"


def open_coco(annotations: Path) -> Dataset:
    """A user's own COCO annotation file, with its images in a folder beside it or beside its folder.

    The folder that holds the most of them is taken; `image_paths.found_below` says how they are found in it.
    An image without annotations is one without objects.

    Raises:
        LostRegError: a file in another format or with a malformed field, or one whose images are not found.
    """
    file = read_coco_file(annotations)
    written = file.images.file_names
    if not written:
        raise LostRegError(f"{str(annotations)!r} lists no images")
    root, found = best_folder(_folders_beside(annotations), written)
    if root is None:
        raise LostRegError(
            f"no folder beside {str(annotations)!r} holds its images: looked for {shown_names(written)} in "
            f"{annotations.parent} and the folders in it and beside it"
        )
    names = [found.get(name, name) for name in written]
    files = {one: posixpath.normpath(name) for one, name in found.items()}
    if twice := next((file for file, times in Counter(files.values()).items() if times > 1), None):
        same = [one for one, file in files.items() if file == twice]
        raise LostRegError(f"{str(annotations)!r}: {shown_names(map(repr, same))} name the same image file")
    truths = _truths(file, names)
    is_annotated, notes, masked = file.is_annotated, file.notes, file.has_masks

    def load_truths() -> Truths:
        if not is_annotated:
            raise only_lists_images(annotations)
        return truths

    return Dataset(
        name=str(annotations),
        split="all",
        root=root,
        images=tuple(names),
        full_size=None,
        load_truths=load_truths,
        masks_of=coco_masks(annotations) if masked else None,
        load_notes=lambda: notes,
    )


def _folders_beside(annotations: Path) -> list[Path]:
    """Where the images of a file are looked for, in this order."""
    beside = [annotations.parent, annotations.parent.parent]
    return [*beside, *(child for folder in beside for child in _folders_in(folder))]


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(child for child in folder.iterdir() if child.is_dir())
    return []


def read_coco_truths(annotations: Path, names: tuple[str, ...]) -> list[ImageTruth]:
    """Read the ground truth of the named images from a COCO annotation file.

    Raises:
        LostRegError: a file that is malformed, has no annotations or does not list an image.
    """
    return _truths_of(read_coco_file(annotations), names)


def _truths_of(file: CocoFile, names: tuple[str, ...]) -> list[ImageTruth]:
    if not file.is_annotated:
        raise only_lists_images(file.path)
    truths = _truths(file, file.images.file_names)
    unknown = [name for name in names if name not in truths]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)} in {file.path}")
    return [truths[name] for name in names]


def _truths(file: CocoFile, names: Sequence[str]) -> Truths:
    """The truths of all images of a file, which are given names."""
    x, y, width, height = file.objects.boxes_xywh.T
    return Truths(
        names=names,
        ids=file.images.ids,
        sizes_hw=file.images.sizes_hw,
        starts=file.objects.starts,
        boxes_xyxy=np.rint(np.stack([x, y, x + width, y + height], axis=1)),  # half to even, as `round` does
        labels=file.objects.labels,
        classes=file.objects.classes,
        hard=np.zeros(len(x), bool),
    )


def find_coco20k(spec: DatasetSpec, root: Path) -> Dataset:
    """The dataset below a data root. Raises LostRegError if its list or annotations are missing."""
    folder = root / spec.folder
    listed, annotations = folder / LIST_FILE, folder / ANNOTATIONS_FILE
    for file in (listed, annotations):
        if not file.is_file():
            raise not_found(spec, file, root)
    names = listed_images(listed)

    @cache
    def read() -> _Cache:
        return _cached_truths(folder / CACHE_FILE, annotations, names)

    return Dataset(
        name=spec.name,
        split=spec.split,
        root=folder / "train2014",
        images=names,
        full_size=spec.images,
        load_truths=lambda: Truths.of(read().truths),
        masks_of=coco_masks(annotations),
        load_notes=lambda: read().notes,
    )


def listed_images(listed: Path) -> tuple[str, ...]:
    """The file names in LOST's list, whose lines are like train2014/COCO_train2014_000000560992.jpg."""
    return tuple(Path(line).name for line in read_text(listed).split())


@dataclass(frozen=True)
class _Cache:
    """source: size and modification time of the annotations that the truths were read from."""

    source: dict[str, int]
    truths: list[ImageTruth]
    notes: tuple[str, ...]


def _cached_truths(cached: Path, annotations: Path, names: tuple[str, ...]) -> _Cache:
    """The truths through a small cache, renewed when the annotations or the names have changed."""
    stat = annotations.stat()
    source = {"bytes": stat.st_size, "modified": stat.st_mtime_ns}
    with contextlib.suppress(OSError, *MALFORMED):  # absent or damaged
        content = parse_json(read_regular(cached), _Cache)
        if content.source == source and [truth.image for truth in content.truths] == list(names):
            return content
    file = read_coco_file(annotations)
    content = _Cache(source, _truths_of(file, names), file.notes)
    text = as_json({**vars(content), "truths": [vars(truth) for truth in content.truths]})
    with contextlib.suppress(LostRegError), whole_file(cached) as part:  # the data root may be read-only
        part.write_text(text)
    return content
