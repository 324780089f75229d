"""coco: an instances file with a category for each label; score and signals are besides COCO's own keys.

Objects with masks have segmentations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from lost_reg.errors import LostRegError
from lost_reg.export.base import CATEGORY, Export, category_of, open_text
from lost_reg.export.boxes import ExportedBox, ExportedImage
from lost_reg.export.masks import segmentation_of
from lost_reg.json_files import as_json

_COCO20K = "coco20k"


def write_coco(export: Export, path: Path) -> None:
    """Write the file with one image or box per line, streaming it.

    The image ids are those of the run's COCO dataset, or else numbers from 1. Images without a box are not
    listed among the images, but under a key of their own, so that `lost-reg corloc` counts them as misses.

    Raises:
        LostRegError: a malformed mask.
    """
    ids = image_ids(export)
    with open_text(path) as file:
        file.write(as_json(_head(export))[:-1] + ',\n"images": [')
        _write_items(file, _images(export, ids))
        file.write('],\n"annotations": [')
        _write_items(file, _annotations(export, ids))
        file.write("]}\n")


def coco_content(export: Export) -> dict[str, Any]:
    """What `write_coco` writes, as a dictionary, with images numbered from 1.

    Raises:
        LostRegError: a malformed mask.
    """
    return {**_head(export), "images": [*_images(export, {})], "annotations": [*_annotations(export, {})]}


def _head(export: Export) -> dict[str, Any]:
    """All but the images and the annotations."""
    found_by = ", ".join(filter(None, ("found by lost-reg", export.settings.get("backbone"))))
    return {
        "info": {"description": found_by},
        "licenses": [],
        "categories": [
            {"id": number + 1, "name": name, "supercategory": CATEGORY}
            for name, number in export.categories.items()
        ],
        "images_without_box": list(export.without_box),
    }


def image_ids(export: Export) -> dict[str, Any]:
    """The ids of the run's images in its COCO dataset, by name; empty for a run on other images.

    If the dataset can no longer be read, or another user's run names it, the result is empty, and a note is
    added to the export.
    """
    from lost_reg.datasets.coco_file import read_coco_file  # its imports would slow down `lost-reg --help`

    dataset = str(export.settings.get("dataset") or "")
    is_coco = dataset == _COCO20K or dataset.lower().endswith(".json")
    names = [image.name for image in export.images] if is_coco else []
    try:
        if dataset == _COCO20K:  # COCO_train2014_000000560992.jpg
            return {name: int(PurePosixPath(name).stem.rpartition("_")[2]) for name in names}
        if names and not export.is_own:
            raise LostRegError("another user's run names the file")
        images = read_coco_file(Path(dataset)).images_by_name() if names else {}
        return {name: images[name].written_id for name in names}
    except (LostRegError, ValueError, KeyError):
        export.notes.append(
            f"image ids are not those of {dataset}, which is missing, does not list the images, or is named "
            "by a run that is not yours"
        )
        return {}


def _write_items(file: TextIO, items: Iterable[dict[str, Any]]) -> None:
    for index, item in enumerate(items):
        file.write((",\n" if index else "\n") + as_json(item))


def _numbered(export: Export, ids: dict[str, Any]) -> Iterator[tuple[Any, ExportedImage]]:
    return ((ids.get(image.name, number), image) for number, image in enumerate(export.images, start=1))


def _images(export: Export, ids: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for image_id, image in _numbered(export, ids):
        height, width = image.size_hw
        yield {"id": image_id, "file_name": image.name, "width": width, "height": height}


def _annotations(export: Export, ids: dict[str, Any]) -> Iterator[dict[str, Any]]:
    boxes = ((image_id, image, box) for image_id, image in _numbered(export, ids) for box in image.boxes)
    for number, (image_id, image, box) in enumerate(boxes, start=1):
        xmin, ymin, xmax, ymax = box.xyxy
        yield {
            **{"id": number, "image_id": image_id, "iscrowd": 0},
            "category_id": export.categories[category_of(box)] + 1,
            "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
            "area": (xmax - xmin) * (ymax - ymin),
            **_segmentation(image, box),
            "score": _score(box),
            "object": box.index,
            "area_share": box.signals.area,
            "degree_share": box.signals.degree,
            "borders": box.signals.borders,
            "implausible": box.implausible,
        }


def _segmentation(image: ExportedImage, box: ExportedBox) -> dict[str, Any]:
    """The segmentation and its area, if there is a mask."""
    if box.mask is None:
        return {}
    from pycocotools import mask as coco

    segmentation = segmentation_of(image, box)
    return {"segmentation": segmentation, "area": int(coco.area(segmentation))}


def _score(box: ExportedBox) -> float:
    """The score clipped to [0, 1]; 1 for a method without scores, as tools require one."""
    score = box.signals.score
    return 1.0 if score is None else min(1.0, max(0.0, score))
