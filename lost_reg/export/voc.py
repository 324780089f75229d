"""voc: PASCAL VOC's layout, in VOCdevkit/VOC2012 where torchvision looks for it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath
from typing import Any

from lost_reg.boxes import whole_pixels
from lost_reg.errors import one_line
from lost_reg.export.base import NAMES_TABLE, Export, Stems, category_of, open_table, open_text
from lost_reg.export.boxes import ExportedImage

_VOC_FOLDER = "VOCdevkit/VOC2012"


def write_voc(export: Export, folder: Path) -> None:
    """Write Annotations/STEM.xml, JPEGImages/STEM.jpg and ImageSets/Main/trainval.txt.

    Boxes are rounded to whole pixels, 1-based and inclusive. All images are called .jpg, as in VOC; readers
    recognise them by their content. names.csv maps the new names to the old ones.
    """
    top = folder / _VOC_FOLDER
    for name in ("Annotations", "JPEGImages"):
        (top / name).mkdir(parents=True)
    stems = Stems()
    with (
        open_text(top / "ImageSets" / "Main" / "trainval.txt") as listed,
        open_table(folder / NAMES_TABLE, ("file", "image")) as names,
    ):
        for image in export.images:
            stem = stems.of(image.name)
            ElementTree.ElementTree(_annotation(image, stem)).write(top / "Annotations" / f"{stem}.xml")
            export.files.place(image.name, top / "JPEGImages" / f"{stem}.jpg")
            listed.write(f"{stem}\n")
            names.writerow((f"{_VOC_FOLDER}/JPEGImages/{stem}.jpg", image.name))


def _annotation(image: ExportedImage, stem: str) -> ElementTree.Element:
    height, width = image.size_hw
    annotation = ElementTree.Element("annotation")
    _add(annotation, folder=PurePosixPath(_VOC_FOLDER).name, filename=f"{stem}.jpg")
    # the original name, escaped: XML does not allow every character that a name can have
    _add(annotation, source={"database": "lost-reg", "image": one_line(image.name)})
    _add(annotation, size={"width": width, "height": height, "depth": 3}, segmented=0)
    for box in image.boxes:
        xmin, ymin, xmax, ymax = whole_pixels(box.xyxy, image.size_hw)
        sides = {"xmin": xmin + 1, "ymin": ymin + 1, "xmax": xmax, "ymax": ymax}
        facts = {
            "name": category_of(box),
            "pose": "Unspecified",
            "truncated": 0,
            "difficult": 0,
            "bndbox": sides,
        }
        _add(annotation, object=facts)
    ElementTree.indent(annotation)
    return annotation


def _add(parent: ElementTree.Element, **children: Any) -> None:
    """Add elements, each with text, or with child elements given as a dictionary."""
    for tag, content in children.items():
        child = ElementTree.SubElement(parent, tag)
        if isinstance(content, dict):
            _add(child, **content)
        else:
            child.text = str(content)
