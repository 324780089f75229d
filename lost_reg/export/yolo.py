"""yolo, yolo-seg: the folder that Ultralytics trains on, with images/, labels/, train.txt and data.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lost_reg.export.base import CATEGORY, NAMES_TABLE, Export, Stems, open_table, open_text
from lost_reg.export.boxes import ExportedBox, ExportedImage
from lost_reg.export.masks import pixels_of, polygon_of

# its paths are relative to its own folder
_DATA_YAML = f"train: train.txt\nval: train.txt\nnames:\n  0: {CATEGORY}\n"


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
    from lost_reg.images.reading import SUFFIXES  # its imports would slow down `lost-reg --help`

    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(_DATA_YAML)
    stems = Stems()
    with (
        open_text(folder / "train.txt") as listed,
        open_table(folder / NAMES_TABLE, ("file", "image")) as names,
    ):
        for image in export.images:
            stem, suffix = stems.of(image.name), PurePosixPath(image.name).suffix.lower()
            file = f"images/{stem}{suffix if suffix in SUFFIXES else '.jpg'}"  # Ultralytics ignores others
            labels = "".join(label(image, box) for box in image.boxes)
            (folder / "labels" / f"{stem}.txt").write_text(labels)
            export.files.place(image.name, folder / file)
            listed.write(f"./{file}\n")
            names.writerow((file, image.name))


def _box_label(image: ExportedImage, box: ExportedBox) -> str:
    (xmin, ymin, xmax, ymax), (height, width) = box.xyxy, image.size_hw
    x, y = (xmin + xmax) / 2 / width, (ymin + ymax) / 2 / height
    return f"0 {x:.9f} {y:.9f} {(xmax - xmin) / width:.9f} {(ymax - ymin) / height:.9f}\n"


def _polygon_label(image: ExportedImage, box: ExportedBox) -> str:
    height, width = image.size_hw
    polygon = polygon_of(pixels_of(image, box)) / (width, height)
    return "".join(["0", *(f" {x:.9f} {y:.9f}" for x, y in polygon), "\n"]) if len(polygon) else ""
