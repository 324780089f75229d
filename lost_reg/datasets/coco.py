"""Datasets annotated in COCO's format, in one .json file, and coco20k, a list of COCO images.

As in LOST (valeoai/LOST, datasets.py), crowd objects are dropped and the corners of boxes rounded.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.datasets.base import Dataset, DatasetSpec, not_found
from lost_reg.datasets.coco_file import counted_objects, read_coco_file
from lost_reg.datasets.coco_masks import coco_masks, has_masks
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.json_files import MALFORMED, parse_json
from lost_reg.text import shown_names
from lost_reg.types import ImageTruth

LIST_FILE = "coco_20k_filenames.txt"
ANNOTATIONS_FILE = "annotations/instances_train2014.json"
CACHE_FILE = "coco20k_ground_truth.json"


def is_coco(path: Path) -> bool:
    """Whether a path could be a COCO annotation file."""
    return path.is_file() and path.suffix == ".json"


def open_coco(annotations: Path) -> Dataset:
    """A user's own COCO annotation file, with its images in a folder beside it or beside its folder.

    Raises:
        LostRegError: a file in another format, or one whose images are not found.
    """
    coco = read_coco_file(annotations)
    names = tuple(record["file_name"] for record in coco.dataset["images"])
    if not names:
        raise LostRegError(f"{str(annotations)!r} lists no images")
    beside = [annotations.parent, annotations.parent.parent]
    folders = [*beside, *(child for folder in beside for child in sorted(folder.iterdir()) if child.is_dir())]
    root = next((folder for folder in folders if (folder / names[0]).is_file()), None)
    if root is None:
        raise LostRegError(
            f"no folder beside {str(annotations)!r} holds its images: looked for {names[0]!r} in "
            f"{annotations.parent}"
        )
    return Dataset(
        name=str(annotations),
        split="all",
        root=root,
        images=names,
        full_size=None,
        load_truths=lambda: read_coco_truths(annotations, names),
        masks_of=coco_masks(annotations) if has_masks(coco) else None,
    )


def read_coco_truths(annotations: Path, names: tuple[str, ...]) -> list[ImageTruth]:
    """Read the ground truth of the named images from a COCO annotation file.

    Raises:
        LostRegError: a file that is malformed or does not list an image.
    """
    coco = read_coco_file(annotations)
    records = {record["file_name"]: record for record in coco.dataset["images"]}
    unknown = [name for name in names if name not in records]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)} in {annotations}")
    try:
        return [_truth(coco, records[name]) for name in names]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LostRegError(f"malformed ground truth {annotations}: {type(error).__name__} {error}") from None


def _truth(coco: Any, record: dict[str, Any]) -> ImageTruth:
    objects = counted_objects(coco, record)
    boxes = (one["bbox"] for one in objects)
    return ImageTruth(
        image=record["file_name"],
        image_id=str(record["id"]),
        size_hw=(record["height"], record["width"]),
        boxes_xyxy=tuple((round(x), round(y), round(x + w), round(y + h)) for x, y, w, h in boxes),
        labels=tuple(coco.cats.get(one["category_id"], {}).get("name", "") for one in objects),
        hard=(False,) * len(objects),
    )


def find_coco20k(spec: DatasetSpec, root: Path) -> Dataset:
    """The dataset below a data root. Raises LostRegError if its list or annotations are missing."""
    folder = root / spec.folder
    listed, annotations = folder / LIST_FILE, folder / ANNOTATIONS_FILE
    for file in (listed, annotations):
        if not file.is_file():
            raise not_found(spec, file, root)
    names = listed_images(listed)

    def load_truths() -> list[ImageTruth]:
        return _cached_truths(folder / CACHE_FILE, annotations, names)

    masks_of = coco_masks(annotations)
    return Dataset(spec.name, spec.split, folder / "train2014", names, spec.images, load_truths, masks_of)


def listed_images(listed: Path) -> tuple[str, ...]:
    """The file names in LOST's list, whose lines are like train2014/COCO_train2014_000000560992.jpg."""
    return tuple(Path(line).name for line in listed.read_text().split())


@dataclass(frozen=True)
class _Cache:
    """source: size and modification time of the annotations that the truths were read from."""

    source: dict[str, int]
    truths: list[ImageTruth]


def _cached_truths(cache: Path, annotations: Path, names: tuple[str, ...]) -> list[ImageTruth]:
    """`read_coco_truths` through a small cache, renewed when the annotations or the names have changed."""
    stat = annotations.stat()
    source = {"bytes": stat.st_size, "modified": stat.st_mtime_ns}
    with contextlib.suppress(OSError, *MALFORMED):  # absent or damaged
        content = parse_json(cache.read_text(), _Cache)
        if content.source == source and [truth.image for truth in content.truths] == list(names):
            return content.truths
    truths = read_coco_truths(annotations, names)
    text = json.dumps({"source": source, "truths": [vars(truth) for truth in truths]})
    with contextlib.suppress(LostRegError), whole_file(cache) as part:  # the data root may be read-only
        part.write_text(text)
    return truths
