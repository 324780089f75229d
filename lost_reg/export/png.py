"""png: a label image for each image, such as ECSSD and DAVIS have them."""

from __future__ import annotations

from pathlib import Path

from lost_reg.export.base import NAMES_TABLE, Export, Stems, open_table
from lost_reg.export.boxes import ExportedImage
from lost_reg.export.masks import pixels_of
from lost_reg.lazy import np


def write_png(export: Export, folder: Path) -> None:
    """Write STEM.png of each image's size; names.csv maps the names to the old ones.

    Raises:
        LostRegError: see `masks.pixels_of`.
    """
    from PIL import Image

    stems = Stems()
    with open_table(folder / NAMES_TABLE, ("file", "image")) as names:
        for image in export.images:
            file = f"{stems.of(image.name)}.png"
            Image.fromarray(label_image(image)).save(folder / file)
            names.writerow((file, image.name))


def label_image(image: ExportedImage) -> np.ndarray:
    """(height, width), uint8, or uint16 for more than 255 objects: 0 is background, N + 1 is object N.

    Where objects overlap, the first of them is on top.
    """
    most = max(box.index for box in image.boxes) + 1
    labels = np.zeros(image.size_hw, np.uint8 if most < 256 else np.uint16)
    for box in reversed(image.boxes):
        labels[pixels_of(image, box)] = box.index + 1
    return labels
