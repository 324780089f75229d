"""Datasets in Pascal VOC layout: JPEGImages, Annotations and ImageSets/Main/trainval.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

PARTS = ("JPEGImages", "Annotations", "ImageSets/Main")
LabelledBox = tuple[str, int, int, int, int]  # class, xmin, ymin, xmax, ymax: half-open pixels


def make_folders(folder: Path) -> None:
    """Make the folders of the layout below `folder`."""
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)


def annotate(folder: Path, objects: dict[str, Sequence[LabelledBox]]) -> None:
    """Write the annotations and the list of images; `objects` has the boxes of each file in JPEGImages."""
    for name, boxes in objects.items():
        with Image.open(folder / "JPEGImages" / name) as image:
            text = annotation(name, image.size, boxes)
        write(folder / "Annotations" / f"{Path(name).stem}.xml", text)
    write(folder / "ImageSets/Main/trainval.txt", "".join(f"{Path(name).stem}\n" for name in objects))


def annotation(name: str, size_wh: tuple[int, int], boxes: Sequence[LabelledBox]) -> str:
    """The annotation of an image. VOC's boxes are 1-based and inclusive; boxes at an edge are truncated."""
    width, height = size_wh
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for label, xmin, ymin, xmax, ymax in boxes:
        truncated = xmin == 0 or ymin == 0 or xmax == width or ymax == height
        lines += [
            "  <object>",
            f"    <name>{escape(label)}</name>",
            f"    <truncated>{int(truncated)}</truncated>",
            "    <difficult>0</difficult>",
            f"    <bndbox><xmin>{xmin + 1}</xmin><ymin>{ymin + 1}</ymin>"
            f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def write(path: Path, text: str) -> None:
    """Write text with the same bytes on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")
