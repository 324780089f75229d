"""yolo: the folder that Ultralytics trains on, with images/, labels/, train.txt and data.yaml."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lost_reg.export.base import CATEGORY, NAMES_TABLE, Export, Stems, open_table, open_text
from lost_reg.export.boxes import ExportedBox

# its paths are relative to its own folder
_DATA_YAML = f"train: train.txt\nval: train.txt\nnames:\n  0: {CATEGORY}\n"


def write_yolo(export: Export, folder: Path) -> None:
    """Write images/STEM.jpg and labels/STEM.txt, with normalised centres and sizes.

    train.txt lists the images, names.csv maps the new names to the old ones.
    """
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
            labels = "".join(_label(box, image.size_hw) for box in image.boxes)
            (folder / "labels" / f"{stem}.txt").write_text(labels)
            export.files.place(image.name, folder / file)
            listed.write(f"./{file}\n")
            names.writerow((file, image.name))


def _label(box: ExportedBox, size_hw: tuple[int, int]) -> str:
    (xmin, ymin, xmax, ymax), (height, width) = box.xyxy, size_hw
    x, y = (xmin + xmax) / 2 / width, (ymin + ymax) / 2 / height
    return f"0 {x:.9f} {y:.9f} {(xmax - xmin) / width:.9f} {(ymax - ymin) / height:.9f}\n"
