"""Crops: the image regions inside a run's boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from lost_reg.boxes import whole_pixels
from lost_reg.errors import UnreadableImage
from lost_reg.export.base import NO_FILE, Export, SkippedImages, Stems, category_of, open_table
from lost_reg.export.boxes import ExportedImage
from lost_reg.images.reading import Reading, as_recorded, read_image
from lost_reg.runs.pictures import MOST_JPEG_SIDE

CROPS_TABLE = "crops.csv"


def write_crops(
    export: Export, folder: Path, progress: Callable[[int, int], None] = lambda done, skipped: None
) -> SkippedImages:
    """Write each box as an image file STEM_INDEX, and a table of them, crops.csv.

    Where boxes have labels, those of each are in a folder of its own, as image classifiers take them.
    Crops of JPEG files are JPEG, others PNG. Images are turned, and have a background, as in the run.

    Args:
        folder: must exist.
        progress: called after each image with the numbers of images done and skipped.

    Returns:
        The skipped images: file missing, unreadable, or of another size than in the run.
    """
    skipped, stems = SkippedImages(), Stems()
    folders = _folders(export, folder)
    reading = as_recorded(export.settings)
    with open_table(folder / CROPS_TABLE, ("file", *export.columns)) as table:
        for done, image in enumerate(export.images, start=1):
            stem = stems.of(image.name)
            try:
                pixels = _read(image, export.files.folder.find(image.name), reading)
            except UnreadableImage as error:
                skipped.add(image.name, str(error))
            else:
                for box in image.boxes:
                    name = f"{folders[category_of(box)]}{stem}_{box.index}{_suffix(image)}"
                    crop = pixels.crop(whole_pixels(box.xyxy, image.size_hw))
                    crop.save(folder / name, quality=95)  # a parameter of JPEG; PNG ignores it
                    table.writerow((name, *export.row(image, box)))
            progress(done - skipped.count, skipped.count)
    return skipped


def _folders(export: Export, folder: Path) -> dict[str, str]:
    """By class, what comes before the name of a crop: its folder, which is made, where boxes have labels."""
    if not export.labels:
        return dict.fromkeys(export.categories, "")
    stems = Stems()
    folders = {name: f"{stems.of(name)}/" for name in export.categories}
    for one in folders.values():
        (folder / one).mkdir()
    return folders


def _suffix(image: ExportedImage) -> str:
    is_jpeg = image.name.lower().endswith((".jpg", ".jpeg")) and max(image.size_hw) <= MOST_JPEG_SIDE
    return ".jpg" if is_jpeg else ".png"


def _read(image: ExportedImage, file: Path | None, reading: Reading) -> Image.Image:
    """Raises UnreadableImage if the run's boxes do not fit the file."""
    if file is None:
        raise UnreadableImage(NO_FILE)
    pixels = read_image(file, **reading)
    if pixels.shape[:2] != image.size_hw:
        raise UnreadableImage("another size than in the run")
    return Image.fromarray(pixels)
