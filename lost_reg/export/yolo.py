"""yolo, yolo-seg: the folder that Ultralytics trains on, with images/, labels/, train.txt and data.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lost_reg.export.base import CATEGORY, NAMES_TABLE, Export, Stems, category_of, open_table, open_text
from lost_reg.export.boxes import ExportedBox, ExportedImage
from lost_reg.export.masks import pixels_of, polygon_of
from lost_reg.json_files import as_json

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # Ultralytics ignores others
# its paths are relative to its own folder
_DATA_YAML = "train: train.txt\nval: train.txt\nnames:\n"


def write_yolo(export: Export, folder: Path) -> None:
    """Write images/STEM.jpg and labels/STEM.txt, with normalised centres and sizes.

    train.txt lists the images, names.csv maps the new names to the old ones.
    """
    _write(export, folder, _box_label)


def write_yolo_seg(export: Export, folder: Path) -> None:
    """The same with polygons, one for each object: see `masks.polygon_of`. Empty masks are left out.

    Raises:
        LostRegError: see `masks.pixels_of`.
    """
    _write(export, folder, _polygon_label)


def _write(export: Export, folder: Path, label: Callable[[ExportedImage, ExportedBox], str]) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    names_of = (f"  {number}: {_yaml(name)}\n" for name, number in export.categories.items())
    (folder / "data.yaml").write_text(_DATA_YAML + "".join(names_of))
    stems = Stems()
    with (
        open_text(folder / "train.txt") as listed,
        open_table(folder / NAMES_TABLE, ("file", "image")) as names,
    ):
        for image in export.images:
            stem, suffix = stems.of(image.name), PurePosixPath(image.name).suffix.lower()
            file = f"images/{stem}{suffix if suffix in _SUFFIXES else '.jpg'}"
            labels = "".join(_line(export, box, label(image, box)) for box in image.boxes)
            (folder / "labels" / f"{stem}.txt").write_text(labels)
            export.files.place(image.name, folder / file)
            listed.write(f"./{file}\n")
            names.writerow((file, image.name))


def _yaml(name: str) -> str:
    """A name as YAML, quoted where it is not a plain word."""
    return name if name == CATEGORY else as_json(name)


def _line(export: Export, box: ExportedBox, shape: str) -> str:
    """The line of a box: the number of its class, and its shape; nothing without a shape."""
    return f"{export.categories[category_of(box)]} {shape}\n" if shape else ""


def _box_label(image: ExportedImage, box: ExportedBox) -> str:
    (xmin, ymin, xmax, ymax), (height, width) = box.xyxy, image.size_hw
    x, y = (xmin + xmax) / 2 / width, (ymin + ymax) / 2 / height
    return f"{x:.9f} {y:.9f} {(xmax - xmin) / width:.9f} {(ymax - ymin) / height:.9f}"


def _polygon_label(image: ExportedImage, box: ExportedBox) -> str:
    height, width = image.size_hw
    polygon = polygon_of(pixels_of(image, box)) / (width, height)
    return " ".join(f"{x:.9f} {y:.9f}" for x, y in polygon)
