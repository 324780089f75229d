"""What the boxes of a run cut out of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from lost_reg.boxes import whole_pixels
from lost_reg.errors import UnreadableImage
from lost_reg.export.boxes import COLUMNS, ExportedImage, Selection, row
from lost_reg.export.files import NO_FILE, Misses, Pictures, Stems, write_table
from lost_reg.images.reading import read_image
from lost_reg.runs.pictures import MOST_JPEG_SIDE

CROPS_TABLE = "crops.csv"


def write_crops(
    images: Selection,
    folder: Path,
    pictures: Pictures,
    *,
    apply_exif: bool,
    progress: Callable[[int, int], None] = lambda done, failed: None,
) -> Misses:
    """Write each box as an image file STEM_INDEX, and a table of them, crops.csv.

    Crops of JPEG files are JPEG, others PNG.

    Args:
        folder: one that is there.
        apply_exif: as the run did, so that the boxes fit.
        progress: called after each image with the images done and those that gave no crops.

    Returns:
        The images that gave no crops: no files, unreadable, or not of the size they had in the run.
    """
    missed = Misses()
    rows = _saved(images, folder, pictures, apply_exif, missed, progress)
    write_table(folder / CROPS_TABLE, ("file", *COLUMNS), rows)
    return missed


def _saved(images, folder, pictures, apply_exif, missed, progress) -> Iterator[tuple]:
    """Save the crops, one image after the other; the table's rows."""
    stems = Stems()
    for done, image in enumerate(images, start=1):
        stem = stems.of(image.name)
        try:
            picture = _read(image, pictures.file(image.name), apply_exif)
        except UnreadableImage as error:
            missed.add(image.name, str(error))
        else:
            is_jpeg = image.name.lower().endswith((".jpg", ".jpeg")) and max(picture.size) <= MOST_JPEG_SIDE
            suffix = ".jpg" if is_jpeg else ".png"
            for box in image.boxes:
                name = f"{stem}_{box.index}{suffix}"
                # quality is of JPEG; PNG keeps every pixel
                picture.crop(whole_pixels(box.xyxy, image.size_hw)).save(folder / name, quality=95)
                yield name, *row(image, box)
        progress(done - missed.count, missed.count)


def _read(image: ExportedImage, file: Path | None, apply_exif: bool) -> Image.Image:
    """Raises UnreadableImage where the run's boxes cannot be cut out of it."""
    if file is None:
        raise UnreadableImage(NO_FILE)
    pixels = read_image(file, apply_exif=apply_exif)
    if pixels.shape[:2] != image.size_hw:
        raise UnreadableImage("of another size than in the run")
    return Image.fromarray(pixels)
