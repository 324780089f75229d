"""yolo, yolo-seg: the folder that Ultralytics trains on: images/, labels/, train.txt, val.txt, data.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lost_reg.errors import LostRegError
from lost_reg.export.base import (
    CATEGORY,
    NAMES_TABLE,
    Export,
    Split,
    Stems,
    category_of,
    open_table,
    open_text,
)
from lost_reg.export.boxes import ExportedBox, ExportedImage
from lost_reg.export.masks import pixels_of, polygon_of
from lost_reg.json_files import as_json
from lost_reg.text import counted

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # Ultralytics ignores others
_TRAIN, _VAL = "train.txt", "val.txt"


def write_yolo(export: Export, folder: Path) -> None:
    """Write images/STEM.jpg and labels/STEM.txt, with normalised centres and sizes.

    train.txt lists the images, or those that the export's split leaves to train on; val.txt has the others.
    names.csv maps the new names to the old ones.

    Raises:
        LostRegError: a split that leaves a part without images.
    """
    _write(export, folder, _box_label)


def write_yolo_seg(export: Export, folder: Path) -> None:
    """The same with polygons, one for each object: see `masks.polygon_of`. Empty masks are left out.

    Raises:
        LostRegError: see `masks.pixels_of` and `write_yolo`.
    """
    _write(export, folder, _polygon_label)


def _write(export: Export, folder: Path, label: Callable[[ExportedImage, ExportedBox], str]) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    lists: dict[str, list[str]] = {_TRAIN: [], _VAL: []}
    stems = Stems()
    with open_table(folder / NAMES_TABLE, ("file", "image")) as names:
        for image in export.images:
            stem, suffix = stems.of(image.name), PurePosixPath(image.name).suffix.lower()
            file = f"images/{stem}{suffix if suffix in _SUFFIXES else '.jpg'}"
            labels = "".join(_line(export, box, label(image, box)) for box in image.boxes)
            (folder / "labels" / f"{stem}.txt").write_text(labels)
            export.files.place(image.name, folder / file)
            is_val = export.split and export.split.is_val(image.name)
            lists[_VAL if is_val else _TRAIN].append(f"./{file}\n")
            names.writerow((file, image.name))
    _write_lists(export, folder, lists)


def _write_lists(export: Export, folder: Path, lists: dict[str, list[str]]) -> None:
    """Write the lists of images and data.yaml, whose paths are relative to its own folder."""
    if export.split:
        _check_parts(export.split, lists)
    else:  # Ultralytics requires both
        lists = {_TRAIN: lists[_TRAIN]}
    for name, lines in lists.items():
        with open_text(folder / name) as file:
            file.writelines(lines)
    names_of = (f"  {number}: {_yaml(name)}\n" for name, number in export.categories.items())
    val = _VAL if export.split else _TRAIN
    (folder / "data.yaml").write_text(f"train: {_TRAIN}\nval: {val}\nnames:\n{''.join(names_of)}")


def _check_parts(split: Split, lists: dict[str, list[str]]) -> None:
    for name, lines in lists.items():
        if not lines:
            total = counted(sum(map(len, lists.values())), "image")
            raise LostRegError(
                f"of {total} with boxes, `val` {split.val:g} leaves none for {name}: give another `seed` or "
                "share"
            )


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
