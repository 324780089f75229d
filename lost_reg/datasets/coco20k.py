"""coco20k: the 19,817 images of COCO train2014 that LOST's list names, with a cache of their ground truth."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from lost_reg.datasets.base import Dataset, DatasetSpec, not_found
from lost_reg.datasets.coco import read_coco_truths
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.types import ImageTruth

LIST_FILE = "coco_20k_filenames.txt"
ANNOTATIONS_FILE = "annotations/instances_train2014.json"
CACHE_FILE = "coco20k_ground_truth.json"


def find_coco20k(spec: DatasetSpec, root: Path) -> Dataset:
    """The dataset below a data root.

    Raises:
        LostRegError: a list or annotations that are not there.
    """
    folder = root / spec.folder
    listed, annotations = folder / LIST_FILE, folder / ANNOTATIONS_FILE
    for file in (listed, annotations):
        if not file.is_file():
            raise not_found(spec, file, root)
    names = listed_images(listed)

    def load_truths() -> list[ImageTruth]:
        return _cached_truths(folder / CACHE_FILE, annotations, names)

    return Dataset(spec.name, spec.split, folder / "train2014", names, spec.images, load_truths)


def listed_images(listed: Path) -> tuple[str, ...]:
    """The file names in LOST's list, whose lines are like train2014/COCO_train2014_000000560992.jpg."""
    return tuple(Path(line).name for line in listed.read_text().split())


def _cached_truths(cache: Path, annotations: Path, names: tuple[str, ...]) -> list[ImageTruth]:
    """`read_coco_truths` by way of a small cache, renewed when the annotations or the names have changed."""
    stat = annotations.stat()
    stamp = {"bytes": stat.st_size, "modified": stat.st_mtime_ns}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # absent or damaged
        content = json.loads(cache.read_text())
        if content["source"] == stamp and [row["image"] for row in content["truths"]] == list(names):
            return [_truth_of_row(row) for row in content["truths"]]
    truths = read_coco_truths(annotations, names)
    content = json.dumps({"source": stamp, "truths": [vars(truth) for truth in truths]})
    with contextlib.suppress(LostRegError), whole_file(cache) as part:  # the data root may be read-only
        part.write_text(content)
    return truths


def _truth_of_row(row: dict[str, Any]) -> ImageTruth:
    return ImageTruth(
        image=row["image"],
        image_id=row["image_id"],
        size_hw=tuple(row["size_hw"]),
        boxes_xyxy=tuple(map(tuple, row["boxes_xyxy"])),
        labels=tuple(row["labels"]),
        hard=tuple(row["hard"]),
    )
