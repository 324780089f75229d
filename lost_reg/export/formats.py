"""The formats of other programs, one function each. Boxes come as half-open pixels, xyxy."""

from __future__ import annotations

import json
import pickle
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from lost_reg.boxes import whole_pixels
from lost_reg.errors import one_line
from lost_reg.export.boxes import COLUMNS, ExportedBox, ExportedImage, Selection, row
from lost_reg.export.files import Pictures, Stems, open_text, write_table
from lost_reg.images.reading import SUFFIXES

CATEGORY = "object"
COCO20K = "coco20k"
NAMES_TABLE = "names.csv"
VOC_FOLDER = "VOCdevkit/VOC2012"  # where torchvision looks


@dataclass(frozen=True)
class Export:
    """What is written.

    images: the boxes; settings: those of the run; pictures: its image files.
    notes: what the user should know of how it was written.
    """

    images: Selection
    settings: dict[str, Any]
    pictures: Pictures
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """One format.

    suffix: of the file, or "" for a folder.
    write: writes to a path; a folder is there already.
    has_pictures: whether it says where the images are; one_box: whether it holds but one box an image.
    """

    suffix: str
    write: Callable[[Export, Path], None]
    has_pictures: bool = False
    one_box: bool = False


# --- single files ------------------------------------------------------------------------------------


def write_csv(export: Export, path: Path) -> None:
    """A line for each box, with the columns of `export_boxes.COLUMNS`."""
    write_table(path, COLUMNS, (row(image, box) for image in export.images for box in image.boxes))


def write_lost(export: Export, path: Path) -> None:
    """The pickle of LOST's scripts: {image: [xmin, ymin, xmax, ymax]}, of the first box of each image.

    As LOST does, it calls images by their names, and those of a COCO dataset by their ids, as strings.
    """
    ids = _image_ids(export)
    boxes = {str(ids.get(image.name, image.name)): list(image.boxes[0].xyxy) for image in export.images}
    path.write_bytes(pickle.dumps(boxes, protocol=4))


def write_coco(export: Export, path: Path) -> None:
    """A COCO instances file of one category, with a score and the signals beside the usual keys.

    The ids of the images are those of the COCO dataset that the run is of, or else numbers from 1.
    """
    ids = _image_ids(export)
    head = {"info": {"description": f"found by lost-reg, {export.settings.get('backbone')}"}, "licenses": []}
    head["categories"] = [{"id": 1, "name": CATEGORY, "supercategory": CATEGORY}]
    with open_text(path) as file:  # one image or box in a line, as none of it is held in memory
        file.write(json.dumps(head)[:-1] + ',\n"images": [')
        _write_items(file, (_coco_image(image, number) for image, number in _numbered(export, ids)))
        file.write('],\n"annotations": [')
        boxes = ((box, number) for image, number in _numbered(export, ids) for box in image.boxes)
        _write_items(file, (_coco_box(box, number, index) for index, (box, number) in enumerate(boxes, 1)))
        file.write("]}\n")


def _write_items(file: TextIO, items: Iterable[dict]) -> None:
    for index, item in enumerate(items):
        file.write((",\n" if index else "\n") + json.dumps(item))


def _numbered(export: Export, ids: dict[str, int]) -> Iterator[tuple[ExportedImage, int]]:
    for number, image in enumerate(export.images, start=1):
        yield image, ids.get(image.name, number)


def _coco_image(image: ExportedImage, number: int) -> dict[str, Any]:
    height, width = image.size_hw
    return {"id": number, "file_name": image.name, "width": width, "height": height}


def _coco_box(box: ExportedBox, image: int, number: int) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = box.xyxy
    return {
        **{"id": number, "image_id": image, "category_id": 1, "iscrowd": 0},
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "area": (xmax - xmin) * (ymax - ymin),
        "score": box.score,
        "object": box.index,
        "area_share": box.signals.area,
        "degree_share": box.signals.degree,
        "affinity": box.signals.affinity,
        "borders": box.signals.borders,
        "implausible": box.implausible,
    }


def _image_ids(export: Export) -> dict[str, int]:
    """The ids that a COCO dataset has for its images; none for other runs."""
    dataset = str(export.settings.get("dataset") or "")
    names = [image.name for image in export.images] if dataset == COCO20K or dataset.endswith(".json") else []
    try:
        if dataset == COCO20K:  # COCO_train2014_000000560992.jpg
            return {name: int(PurePosixPath(name).stem.rpartition("_")[2]) for name in names}
        records = json.loads(Path(dataset).read_bytes())["images"] if names else []
        ids = {record["file_name"]: record["id"] for record in records}
        return {name: ids[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        export.notes.append(
            f"the ids of the images are not those of {dataset}, which is not there to tell them"
        )
        return {}


# --- folders -----------------------------------------------------------------------------------------


def write_yolo(export: Export, folder: Path) -> None:
    """Ultralytics' layout: images/STEM.jpg, labels/STEM.txt of normalised centres and sizes, and data.yaml.

    train.txt lists the images, names.csv says which is which.
    """
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    # paths in it are relative to its own folder
    lines = ("train: train.txt", "val: train.txt", "names:", f"  0: {CATEGORY}")
    (folder / "data.yaml").write_text("".join(f"{line}\n" for line in lines))
    with open_text(folder / "train.txt") as listed:
        write_table(folder / NAMES_TABLE, ("file", "image"), _write_yolo_images(export, folder, listed))


def _write_yolo_images(export: Export, folder: Path, listed: TextIO) -> Iterator[tuple[str, str]]:
    """Write one image after the other; the rows of the table of names."""
    stems = Stems()
    for image in export.images:
        stem, suffix = stems.of(image.name), PurePosixPath(image.name).suffix.lower()
        file = f"images/{stem}{suffix if suffix in SUFFIXES else '.jpg'}"  # others are not looked at
        labels = "".join(_yolo_line(box, image.size_hw) for box in image.boxes)
        (folder / "labels" / f"{stem}.txt").write_text(labels)
        export.pictures.place(image.name, folder / file)
        listed.write(f"./{file}\n")
        yield file, image.name


def _yolo_line(box: ExportedBox, size_hw: tuple[int, int]) -> str:
    (xmin, ymin, xmax, ymax), (height, width) = box.xyxy, size_hw
    x, y = (xmin + xmax) / 2 / width, (ymin + ymax) / 2 / height
    return f"0 {x:.9f} {y:.9f} {(xmax - xmin) / width:.9f} {(ymax - ymin) / height:.9f}\n"


def write_voc(export: Export, folder: Path) -> None:
    """VOC's layout in VOCdevkit/VOC2012, where torchvision looks; names.csv says which image is which.

    Boxes are rounded to whole pixels, 1-based and inclusive. All images are called .jpg, as they are in VOC:
    readers go by their content.
    """
    top = folder / VOC_FOLDER
    for name in ("Annotations", "JPEGImages"):
        (top / name).mkdir(parents=True)
    with open_text(top / "ImageSets" / "Main" / "trainval.txt") as listed:
        write_table(folder / NAMES_TABLE, ("file", "image"), _write_voc_images(export, top, listed))


def _write_voc_images(export: Export, top: Path, listed: TextIO) -> Iterator[tuple[str, str]]:
    """Write one image after the other; the rows of the table of names."""
    stems = Stems()
    for image in export.images:
        stem = stems.of(image.name)
        ElementTree.ElementTree(_voc_annotation(image, stem)).write(top / "Annotations" / f"{stem}.xml")
        export.pictures.place(image.name, top / "JPEGImages" / f"{stem}.jpg")
        listed.write(f"{stem}\n")
        yield f"{VOC_FOLDER}/JPEGImages/{stem}.jpg", image.name


def _voc_annotation(image: ExportedImage, stem: str) -> ElementTree.Element:
    height, width = image.size_hw
    annotation = ElementTree.Element("annotation")
    _add(annotation, folder=PurePosixPath(VOC_FOLDER).name, filename=f"{stem}.jpg")
    # the name it had; XML cannot hold every character that a name can
    _add(annotation, source={"database": "lost-reg", "image": one_line(image.name)})
    _add(annotation, size={"width": width, "height": height, "depth": 3}, segmented=0)
    for box in image.boxes:
        xmin, ymin, xmax, ymax = whole_pixels(box.xyxy, image.size_hw)
        sides = {"xmin": xmin + 1, "ymin": ymin + 1, "xmax": xmax, "ymax": ymax}
        facts = {"name": CATEGORY, "pose": "Unspecified", "truncated": 0, "difficult": 0, "bndbox": sides}
        _add(annotation, object=facts)
    ElementTree.indent(annotation)
    return annotation


def _add(parent: ElementTree.Element, **children: Any) -> None:
    """Add elements of a text each, or of elements, given as a dictionary."""
    for tag, content in children.items():
        child = ElementTree.SubElement(parent, tag)
        if isinstance(content, dict):
            _add(child, **content)
        else:
            child.text = str(content)


FORMATS = {
    "coco": Format(".json", write_coco),
    "yolo": Format("", write_yolo, has_pictures=True),
    "voc": Format("", write_voc, has_pictures=True),
    "lost": Format(".pkl", write_lost, one_box=True),
    "csv": Format(".csv", write_csv),
}
