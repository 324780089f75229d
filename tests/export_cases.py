"""What the tests of exports share: runs to export, and readers of what was written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import pickletools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import write_predictions
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from lost_reg.boxes import whole_pixels
from lost_reg.datasets.catalog import find_dataset
from lost_reg.export.base import NONE
from lost_reg.export.boxes import COLUMNS, Filters
from lost_reg.export.formats import FORMATS
from lost_reg.export.run_export import ExportOptions, ExportSummary, export_run
from lost_reg.masks.grids import stored
from lost_reg.scoring.prediction_files import read_boxes
from lost_reg.types import FoundObject, Prediction

MASK_FORMATS = "yolo-seg", "png"


def prediction(image, *boxes, size_hw=(100, 200), grid_hw=(10, 20), degree=19, score=0.5):
    """An image and the boxes found in it; a degree of None is one that the method does not give."""
    details = {} if degree is None else {"degree": degree}
    return Prediction(
        image, size_hw, grid_hw, tuple(FoundObject(box, score, (0, 0), details) for box in boxes)
    )


def with_masks(one: Prediction) -> Prediction:
    """A prediction whose objects without a mask have the pixels of their boxes."""
    objects = (replace(found, mask=found.mask or _mask(found, one)) for found in one.objects)
    return replace(one, objects=tuple(objects))


def _mask(found: FoundObject, one: Prediction):
    xmin, ymin, xmax, ymax = whole_pixels(found.box_xyxy, one.size_hw)
    pixels = np.zeros(one.size_hw, bool)
    pixels[ymin:ymax, xmin:xmax] = True
    return stored(pixels, one.size_hw)


def export(tmp: Path, predictions, to=None, *, failures=(), root=None, run=None, **options) -> ExportSummary:
    """Export predictions to tmp/out, with the suffix of the format; with masks where that needs them.

    Without a folder of images, none are asked for.
    """
    if root is None and "image_root" not in options:
        options = {"images": NONE, **options}
    predictions = [with_masks(one) for one in predictions] if to in MASK_FORMATS else predictions
    folder = write_predictions(tmp / "run", predictions, failures, root=root, **(run or {}))
    out = tmp / f"out{FORMATS[to].suffix}" if to else None
    filters = Filters(**{name: options.pop(name) for name in list(options) if hasattr(Filters, name)})
    return export_run(folder, ExportOptions(to, out, filters=filters, **options))


def read_csv(out: Path) -> dict:
    table = pytest.importorskip("pandas").read_csv(out)
    assert list(table.columns) == list(COLUMNS)
    boxes: dict = {}
    for line in table.to_dict("records"):
        assert line["object"] == len(boxes.setdefault(line["image"], []))
        boxes[line["image"]].append(tuple(line[side] for side in ("xmin", "ymin", "xmax", "ymax")))
    return boxes


def load_coco(out: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(out))


def read_coco(out: Path) -> dict:
    coco = load_coco(out)
    boxes = {}
    for image in coco.loadImgs(coco.getImgIds()):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]], iscrowd=False))
        corners = ((x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in found))
        boxes[image["file_name"]] = list(corners)
    return boxes


def read_yolo(out: Path, sizes: dict) -> dict:
    """The boxes of each image."""
    boxes = {}
    for image, lines in labels_of_yolo(out).items():
        rows = np.array(lines, dtype=np.float64)
        assert rows.shape[1] == 5 and not rows[:, 0].any() and rows.min() >= 0 and rows.max() <= 1
        height, width = sizes[image]
        centre, half = rows[:, 1:3] * (width, height), rows[:, 3:] * (width, height) / 2
        boxes[image] = [tuple(box) for box in np.hstack([centre - half, centre + half])]
    return boxes


def read_yolo_seg(out: Path, sizes: dict) -> dict:
    """The extents of the polygons of each image."""
    boxes: dict = {}
    for image, lines in labels_of_yolo(out).items():
        for class_id, *numbers in lines:
            points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
            assert class_id == "0" and len(points) >= 3 and points.min() >= 0 and points.max() <= 1
            points = np.rint(points * sizes[image][::-1])
            boxes.setdefault(image, []).append((*points.min(axis=0), *points.max(axis=0) + 1))
    return boxes


def labels_of_yolo(out: Path) -> dict[str, list[list[str]]]:
    """By the rules that Ultralytics publishes: of data.yaml, of the list, and of where labels lie."""
    settings = pytest.importorskip("yaml").safe_load((out / "data.yaml").read_text())
    assert settings["names"] == {0: "object"} and settings["train"] == settings["val"]
    top = Path(out, settings.get("path", "."))
    images = [line.replace("./", f"{top}/", 1) for line in (top / settings["train"]).read_text().splitlines()]
    assert all(
        image.rpartition(".")[2] in ("bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp") for image in images
    )
    called = {str(out / line["file"]): line["image"] for line in table_of(out / "names.csv")}
    found = {}
    for image in images:
        labels = Path("/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
        found[called[image]] = [line.split() for line in labels.read_text().splitlines()]
    assert len({Path(image).stem for image in images}) == len(images)  # as supervision has it
    return found


def read_fiftyone(out: Path, sizes: dict) -> dict:
    """By the layout that FiftyOne documents: labels by the stem of the image's file, boxes as shares."""
    labels = json.loads((out / "labels.json").read_text())
    called = {Path(line["file"]).stem: line["image"] for line in table_of(out / "names.csv")}
    assert labels["classes"] is None and list(labels["labels"]) == list(called)
    boxes: dict = {}
    for stem, found in labels["labels"].items():
        height, width = sizes[called[stem]]
        for number, one in enumerate(found):
            x, y, w, h = np.array(one["bounding_box"]) * (width, height, width, height)
            assert one["label"] == "object" and one["attributes"]["object"] == number
            boxes.setdefault(called[stem], []).append((x, y, x + w, y + h))
    return boxes


def read_png(out: Path, sizes: dict) -> dict:
    """The extents of the labels of each image."""
    boxes = {}
    for line in table_of(out / "names.csv"):
        labels = cv2.imread(str(out / line["file"]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == sizes[line["image"]]
        places = ((labels == label).nonzero() for label in np.unique(labels[labels > 0]))
        boxes[line["image"]] = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in places]
    return boxes


def read_voc(out: Path, sizes: dict) -> dict:
    """By torchvision; and our own reader finds the same."""
    dataset = VOCDetection(out, year="2012", image_set="trainval")
    called = {Path(line["file"]).stem: line["image"] for line in table_of(out / "names.csv")}
    ours = find_dataset(str(out / "VOCdevkit" / "VOC2012"), out).truths
    boxes = {}
    for path in map(Path, dataset.annotations):
        target = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        assert target["filename"] == f"{path.stem}.jpg"
        sides = [
            [int(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            for one in target["object"]
        ]
        boxes[called[path.stem]] = [(xmin - 1, ymin - 1, xmax, ymax) for xmin, ymin, xmax, ymax in sides]
        truth = ours[f"{path.stem}.jpg"]
        assert list(truth.boxes_xyxy) == boxes[called[path.stem]] and not any(truth.hard)
        assert truth.size_hw == sizes[called[path.stem]]
    return boxes


def read_lost(out: Path) -> dict:
    """By our reader, which executes nothing; and as LOST's scripts do."""
    assert not {"GLOBAL", "STACK_GLOBAL", "REDUCE"} & {
        op.name for op, *_ in pickletools.genops(out.read_bytes())
    }
    boxes = read_boxes(out)
    content = pickle.loads(out.read_bytes())
    assert {name: tuple(np.asarray(box)) for name, box in content.items()} == boxes
    return {name: [box] for name, box in boxes.items()}


def table_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_back(tmp: Path, to: str, predictions) -> dict:
    out = tmp / f"out{FORMATS[to].suffix}"
    readers = {
        **{"yolo": read_yolo, "yolo-seg": read_yolo_seg, "voc": read_voc, "png": read_png},
        "fiftyone": read_fiftyone,
    }
    if read := readers.get(to):
        return read(out, {escaped(one.image): one.size_hw for one in predictions})
    return {"csv": read_csv, "coco": read_coco, "lost": read_lost}[to](out)


def escaped(name: str) -> str:
    """A name as tables have it, which are UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


BOXES = {  # of an image of 100 x 200 pixels in 10 x 20 patches, and what they are
    "plain": (20, 20, 120, 70),  # a quarter of it
    "small": (20, 20, 60, 40),  # 4 %
    "corner": (0, 0, 100, 50),  # two borders
    "whole": (0, 0, 200, 100),
    "patch": (50, 50, 60, 60),
    "strip": (0, 0, 200, 10),
}


HOSTILE = [
    *("a/x.jpg", "b/x.jpg", "x.png", "x.jpg", "X.jpg", "x.JPG", "a_x.jpg", "x_png.jpg", "x-2.jpg"),
    *("../../evil.jpg", "/etc/passwd", "..", ".", "-rf.jpg", ".hidden.jpg", "no suffix", "a/../../b.jpg"),
    *("new\nline.jpg", "cr\r.jpg", 'comma,"quote".jpg', "<&>]]>.jpg", "{}: #'.jpg", "tab\t\x1b[31m.jpg"),
    *(os.fsdecode(b"\xff\xfe.jpg"), "\ud800.jpg", "ünï çødé/图.jpg", "\N{PARTY POPPER}.jpg", "\N{EYES}.jpg"),
    *(
        "shard-000.tar/key.jpg",
        "l" * 250 + ".jpg",
        "long/" * 100 + "图" * 100 + ".jpg",
        "%s{0}.jpg",
        "\\..\\w.jpg",
    ),
    *("./images/y.jpg", "labels/images/z.webp", "nul\0.jpg"),
]
