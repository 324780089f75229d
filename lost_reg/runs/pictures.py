"""Pictures of results: the image with its masks, its boxes and its seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lost_reg.files import check_no_links, path_within, whole_file
from lost_reg.images.colours import WHITE
from lost_reg.images.reading import read_image
from lost_reg.masks.grids import in_pixels
from lost_reg.types import Box, Prediction

MOST_JPEG_SIDE = 65_000  # pixels; just below the format's limit
BOX_COLOUR = (255, 214, 10)
SEED_COLOUR = (230, 57, 70)
MASK_COLOURS = (BOX_COLOUR, (0, 180, 216), (181, 101, 255), (6, 214, 120))  # of one object after the other
MASK_OPACITY = 0.45


def draw_prediction(image: Image.Image, prediction: Prediction) -> Image.Image:
    """A copy of an image of size `prediction.size_hw` with the first box and its seed patch drawn in.

    The boxes of further objects are drawn half as thick, and without their seeds. Masks are filled, earlier
    ones above later ones, so that the image shows through.
    """
    picture = _with_masks(image, prediction)
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 160))
    for further in prediction.objects[1:]:
        draw.rectangle(_drawn(further.box_xyxy), outline=BOX_COLOUR, width=width // 2)
    for first in prediction.objects[:1]:
        draw.rectangle(_drawn(first.box_xyxy), outline=BOX_COLOUR, width=width)
        seed = _seed_patch(first.seed, prediction)
        draw.rectangle(seed, outline=SEED_COLOUR, width=max(1, width // 2))
    return picture


def _with_masks(image: Image.Image, prediction: Prediction) -> Image.Image:
    masks = [one.mask for one in prediction.objects]
    if not any(masks):
        return image.copy()
    before = np.asarray(image)
    after = before.copy()
    for index, mask in reversed([*enumerate(masks)]):
        if mask:
            inside, colour = in_pixels(mask, prediction.size_hw), MASK_COLOURS[index % len(MASK_COLOURS)]
            after[inside] = before[inside] * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY
    return Image.fromarray(after)


def _drawn(box_xyxy: Box) -> Box:
    xmin, ymin, xmax, ymax = box_xyxy  # half-open, so the last pixel is one before
    return xmin, ymin, max(xmin, xmax - 1), max(ymin, ymax - 1)


def _seed_patch(seed: tuple[int, int], prediction: Prediction) -> tuple[float, float, float, float]:
    # The grid covers the padded image, which is at most a patch larger: close enough for a picture.
    (height, width), (rows, columns) = prediction.size_hw, prediction.grid_hw
    row, column = seed
    x, y = width / columns, height / rows
    return column * x, row * y, max(column * x, (column + 1) * x - 1), max(row * y, (row + 1) * y - 1)


def picture_path(folder: Path, image: str) -> Path:
    """The file of an image's picture in a folder of pictures; b.png and b.jpg get two files."""
    is_jpeg = Path(image).suffix.lower() in (".jpg", ".jpeg")
    return path_within(folder, image if is_jpeg else f"{image}.jpg")


def save_picture(
    path: Path, prediction: Prediction, folder: Path, *, apply_exif: bool, background: str | None = WHITE
) -> Path:
    """Draw a prediction on its image file and write it as JPEG into a folder, under the image's name.

    The picture is written completely, or not at all.

    Raises:
        LostRegError: a folder that cannot be written, or a link in it on the way to the picture.
    """
    target = picture_path(folder, prediction.image)
    pixels = read_image(path, apply_exif=apply_exif, background=background)
    picture = draw_prediction(Image.fromarray(pixels), prediction)
    picture.thumbnail((MOST_JPEG_SIDE, MOST_JPEG_SIDE))
    check_no_links(folder, target)
    with whole_file(target, "the picture", among_many=True) as part:
        picture.save(part, format="JPEG", quality=90)
    return target
