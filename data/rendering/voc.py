"""Ground truth, and the Pascal VOC layout: JPEGImages, Annotations and ImageSets/Main/trainval.txt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .canvas import Canvas, Layer

JPEG_QUALITY = 92
TINY_SHARE = 0.01  # a visible box below this share of the image is marked difficult ...
HIDDEN_SHARE = 0.5  # ... and so is an object of which less than this share can be seen

Scene = Callable[[], Canvas]


def visible_box(layer: Layer, width: int, height: int) -> tuple[int, int, int, int]:
    """The extent [x0, y0, x1, y1), half-open, of the image pixels that an object covers by more than half."""
    rows, columns = np.nonzero(cv2.resize(layer.visible, (width, height), interpolation=cv2.INTER_AREA) > 0.5)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def annotation(name: str, canvas: Canvas) -> str:
    """The Pascal VOC annotation: 1-based, inclusive pixel boxes."""
    width, height = canvas.width, canvas.height
    lines = [
        "<annotation>",
        "  <folder>samples</folder>",
        f"  <filename>{name}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for layer in canvas.layers:
        x0, y0, x1, y1 = visible_box(layer, width, height)
        truncated = x0 == 0 or y0 == 0 or x1 == width or y1 == height
        tiny = (x1 - x0) * (y1 - y0) < TINY_SHARE * width * height
        hidden = layer.visible.sum() < HIDDEN_SHARE * layer.painted.sum()
        lines += [
            "  <object>",
            f"    <name>{layer.name}</name>",
            "    <pose>Unspecified</pose>",
            f"    <truncated>{int(truncated)}</truncated>",
            f"    <difficult>{int(tiny or hidden)}</difficult>",
            f"    <bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>",
            f"      <xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def write(folder: Path, scenes: Sequence[Scene]) -> tuple[int, int]:
    """Render all scenes below `folder`; returns how many images and boxes there are."""
    images, annotations, lists = folder / "JPEGImages", folder / "Annotations", folder / "ImageSets" / "Main"
    for part in (images, annotations, lists):
        part.mkdir(parents=True, exist_ok=True)
    boxes = 0
    for scene in scenes:
        name, canvas = scene.__name__, scene()
        Image.fromarray(canvas.finish()).save(images / f"{name}.jpg", quality=JPEG_QUALITY)
        (annotations / f"{name}.xml").write_text(annotation(name, canvas), encoding="utf-8", newline="\n")
        boxes += len(canvas.layers)
    names = sorted(scene.__name__ for scene in scenes)
    (lists / "trainval.txt").write_text("\n".join([*names, ""]), encoding="utf-8", newline="\n")
    return len(names), boxes
