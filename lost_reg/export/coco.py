"""coco: an instances file of one category, with a score and the signals beside COCO's own keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lost_reg.export.base import CATEGORY, Export
from lost_reg.export.boxes import ExportedBox, ExportedImage
from lost_reg.export.files import open_text
from lost_reg.export.image_ids import image_ids


def write_coco(export: Export, path: Path) -> None:
    """Write the file with one image or box a line, holding none of it in memory.

    The ids of the images are those of the COCO dataset that the run is of, or else numbers from 1.
    """
    ids = image_ids(export)
    head = {
        "info": {"description": f"found by lost-reg, {export.settings.get('backbone')}"},
        "licenses": [],
        "categories": [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}],
    }
    with open_text(path) as file:
        file.write(json.dumps(head)[:-1] + ',\n"images": [')
        _write_items(file, (_image(image, image_id) for image_id, image in _with_ids(export, ids)))
        file.write('],\n"annotations": [')
        boxes = ((image_id, box) for image_id, image in _with_ids(export, ids) for box in image.boxes)
        _write_items(
            file, (_annotation(box, image_id, number) for number, (image_id, box) in enumerate(boxes, 1))
        )
        file.write("]}\n")


def _write_items(file: TextIO, items: Iterable[dict[str, Any]]) -> None:
    for index, item in enumerate(items):
        file.write((",\n" if index else "\n") + json.dumps(item))


def _with_ids(export: Export, ids: dict[str, int]) -> Iterator[tuple[int, ExportedImage]]:
    for number, image in enumerate(export.images, start=1):
        yield ids.get(image.name, number), image


def _image(image: ExportedImage, image_id: int) -> dict[str, Any]:
    height, width = image.size_hw
    return {"id": image_id, "file_name": image.name, "width": width, "height": height}


def _annotation(box: ExportedBox, image_id: int, number: int) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = box.xyxy
    return {
        **{"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0},
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "area": (xmax - xmin) * (ymax - ymin),
        "score": _score(box),
        "object": box.index,
        "area_share": box.signals.area,
        "degree_share": box.signals.degree,
        "borders": box.signals.borders,
        "implausible": box.implausible,
    }


def _score(box: ExportedBox) -> float:
    """Clipped to [0, 1]; 1 for a method that gives none, as tools require one."""
    score = box.signals.score
    return 1.0 if score is None else min(1.0, max(0.0, score))
