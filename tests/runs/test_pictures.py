"""Pictures of what was found, checked pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import found_object
from PIL import Image

from lost_reg.errors import LostRegError
from lost_reg.masks.grids import stored
from lost_reg.runs.pictures import BOX_COLOUR, MASK_COLOURS, SEED_COLOUR, draw_prediction, save_picture
from lost_reg.types import Prediction


def prediction(image="a.png", size_hw=(48, 64), box_xyxy=(8, 8, 48, 40), seed=(2, 3), grid_hw=(6, 8)):
    return Prediction(image, size_hw, grid_hw, (found_object(box_xyxy, seed=seed),))


def is_colour(pixels, colour, within=0) -> np.ndarray:
    return (np.abs(np.asarray(pixels).astype(int) - colour) <= within).all(axis=2)


def frame(size_hw, box_xyxy, width) -> np.ndarray:
    """The border of a half-open box, `width` pixels wide, inside of it."""
    xmin, ymin, xmax, ymax = box_xyxy
    drawn = np.zeros(size_hw, bool)
    drawn[ymin:ymax, xmin:xmax] = True
    drawn[ymin + width : ymax - width, xmin + width : xmax - width] = False
    return drawn


def test_box_and_seed_are_drawn_on_their_borders_and_nothing_else_changes():
    image = Image.new("RGB", (64, 48), (1, 2, 3))
    picture = draw_prediction(image, prediction())
    assert picture.size == (64, 48)
    # the last row and column of the half-open box are 39 and 47
    in_box, in_seed = frame((48, 64), (8, 8, 48, 40), 2), frame((48, 64), (24, 16, 32, 24), 1)
    assert (is_colour(picture, BOX_COLOUR) == in_box).all()
    assert (is_colour(picture, SEED_COLOUR) == in_seed).all()
    assert (is_colour(picture, (1, 2, 3)) == ~(in_box | in_seed)).all()


def test_further_boxes_are_half_as_thick_and_below_the_first():
    first = prediction()
    further = found_object((0, 4, 20, 30))
    picture = draw_prediction(Image.new("RGB", (64, 48)), replace(first, objects=(*first.objects, further)))
    alone = draw_prediction(Image.new("RGB", (64, 48)), first)
    thin = frame((48, 64), further.box_xyxy, 1) & ~is_colour(alone, SEED_COLOUR)
    assert (is_colour(picture, BOX_COLOUR) == (is_colour(alone, BOX_COLOUR) | thin)).all()
    assert (is_colour(picture, SEED_COLOUR) == is_colour(alone, SEED_COLOUR)).all()


def test_masks_are_filled_and_earlier_ones_lie_above():
    first, second = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    first[20:30, 30:40] = True
    second[25:35, 35:45] = True
    objects = [replace(found_object((0, 0, 64, 48)), mask=stored(one, (48, 64))) for one in (first, second)]
    picture = np.asarray(
        draw_prediction(
            Image.new("RGB", (64, 48), (100, 100, 100)), replace(prediction(), objects=tuple(objects))
        )
    )
    mixed = [np.array(colour) * 0.45 + 100 * 0.55 for colour in MASK_COLOURS]
    assert (is_colour(picture, mixed[0], within=1) == first).all()
    assert (is_colour(picture, mixed[1], within=1) == second & ~first).all()


def test_masks_of_patches_are_scaled_up():
    grid = np.zeros((6, 8), bool)
    grid[2, 3] = True
    one = replace(found_object((0, 0, 64, 48)), mask=stored(grid, (48, 64)))
    picture = draw_prediction(Image.new("RGB", (64, 48)), replace(prediction(), objects=(one,)))
    rows, columns = is_colour(picture, np.array(MASK_COLOURS[0]) * 0.45, within=1).nonzero()
    assert len(rows) == 64 and (rows.min(), columns.min()) == (16, 24)


def test_nothing_is_drawn_where_nothing_was_found():
    image = Image.new("RGB", (64, 48), (1, 2, 3))
    assert is_colour(draw_prediction(image, replace(prediction(), objects=())), (1, 2, 3)).all()


def test_the_image_itself_is_not_drawn_on():
    image = Image.new("RGB", (64, 48))
    draw_prediction(image, prediction())
    assert not np.asarray(image).any()


def test_lines_grow_with_the_image():
    picture = draw_prediction(
        Image.new("RGB", (640, 480)),
        prediction(size_hw=(480, 640), box_xyxy=(80, 80, 480, 400), seed=(2, 3), grid_hw=(6, 8)),
    )
    assert (is_colour(picture, BOX_COLOUR) == frame((480, 640), (80, 80, 480, 400), 4)).all()


@pytest.mark.parametrize(
    "size_hw, box_xyxy, seed, grid_hw",
    [
        ((1, 1), (0, 0, 1, 1), (0, 0), (1, 1)),
        ((5, 3), (0, 0, 3, 5), (0, 0), (1, 1)),
        ((2, 40), (38, 0, 40, 2), (0, 2), (1, 3)),
        ((3, 3), (0, 0, 3, 3), (8, 8), (9, 9)),  # scaled down patches may be less than a pixel
        ((30, 40), (3.3, 7.7, 3.9, 7.9), (1, 1), (4, 5)),  # of an image that was scaled down
    ],
)
def test_small_images_boxes_and_patches_can_be_drawn(size_hw, box_xyxy, seed, grid_hw):
    image = Image.new("RGB", size_hw[::-1])
    picture = draw_prediction(image, prediction("a.png", size_hw, box_xyxy, seed, grid_hw))
    assert picture.size == image.size
    assert is_colour(picture, SEED_COLOUR).any()


def test_a_picture_is_written_as_jpeg_of_the_images_size(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    target = save_picture(tmp_path / "a.png", prediction(), tmp_path / "out", apply_exif=True)
    assert target == tmp_path / "out" / "a.png.jpg"
    picture = Image.open(target)
    assert (picture.format, picture.size) == ("JPEG", (64, 48))
    # JPEG blurs colours, the box's two pixels wide line is still nearer to its colour than to black
    assert is_colour(picture.convert("RGB"), BOX_COLOUR, within=110)[8:10, 12:44].mean() > 0.9


def test_pictures_of_one_stem_do_not_collide_and_keep_their_folders(tmp_path):
    names = ["a.jpg", "a.png", "a.jpeg", "a.JPG", "sub/a.jpg"]
    targets = []
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(tmp_path / name, format="PNG")
        targets.append(save_picture(tmp_path / name, prediction(name), tmp_path / "out", apply_exif=True))
    written = [target.relative_to(tmp_path / "out").as_posix() for target in targets]
    assert written == ["a.jpg", "a.png.jpg", "a.jpeg", "a.JPG", "sub/a.jpg"]
    assert all(target.is_file() for target in targets)


@pytest.mark.parametrize("apply_exif, size", [(True, (48, 64)), (False, (64, 48))])
def test_the_picture_is_turned_as_the_image_was_read(tmp_path, apply_exif, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=exif)
    found = prediction("a.jpg", size_hw=size[::-1], box_xyxy=(8, 8, 40, 40))
    target = save_picture(tmp_path / "a.jpg", found, tmp_path / "out", apply_exif=apply_exif)
    assert Image.open(target).size == size


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LostRegError, match=r"cannot write the picture .*out"):
        save_picture(tmp_path / "a.png", prediction(), tmp_path / "out", apply_exif=True)
