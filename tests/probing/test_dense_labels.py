"""Reading labels of pixels, each mistake that files can have, and drawing pixels."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from dense_cases import write_depth, write_png, write_segmentation
from helpers import refusal

from lost_reg.datasets.pixel_labels import LabelledImage, PixelDataset, find_depth, find_segmentation
from lost_reg.probing.dense_labels import PIXELS, LabelReader, read_all
from lost_reg.probing.dense_options import DenseOptions


def reader_of(task="segmentation", options=None, **fields) -> LabelReader:
    data = PixelDataset("x", "own", (), (), **fields)
    return LabelReader(data, task, options or DenseOptions(), data.classes)


def read(folder, values, reader=None, size_hw=None):
    """What is read of a file with these values: places and labels."""
    write_png(folder / "labels.png", values)
    pixels = (reader or reader_of()).read(
        LabelledImage("x", folder / "x.png", folder / "labels.png"), size_hw
    )
    assert pixels.width == values.shape[1]
    return pixels.places.tolist(), pixels.labels.tolist()


def all_of(reader):
    return read_all(reader, workers=0)


def opened(folder, task="segmentation", **options) -> LabelReader:
    data = (find_segmentation if task == "segmentation" else find_depth)(str(folder), folder)
    return LabelReader(data, task, DenseOptions(**options), data.classes)


def test_classes_of_each_layout(tmp_path):
    values = np.array([[0, 1, 2], [255, 20, 3]], np.uint8)
    assert read(tmp_path, values) == ([0, 1, 2, 4, 5], [0, 1, 2, 20, 3])
    assert read(tmp_path, values, reader_of(classes=21))[1] == [0, 1, 2, 20, 3]
    ade20k = reader_of(classes=150, first=1)
    assert read(tmp_path, np.array([[0, 1, 150]], np.uint8), ade20k) == ([1, 2], [0, 149])
    wide = np.array([[255, 65535, 300]], np.uint16)  # where 255 is a class
    assert read(tmp_path, wide) == ([0, 2], [255, 300])


def test_depths(tmp_path):
    values = np.array([[0, 1, 2, 1500], [9999, 10_000, 65_535, 10]], np.uint16)
    places, depths = read(tmp_path, values, reader_of("depth"))
    assert places == [2, 3, 4, 7]  # strictly between 1 mm and 10 m
    assert depths == pytest.approx([0.002, 1.5, 9.999, 0.01])
    far = reader_of("depth", DenseOptions(depth_scale=256.0, max_depth=80.0))
    places, depths = read(tmp_path, values, far)
    assert places == [1, 2, 3, 4, 5, 7] and depths[2] == pytest.approx(1500 / 256)


def test_nyud_is_scored_without_its_border(tmp_path):
    values = np.full((480, 640), 2000, np.uint16)
    crop = reader_of("depth", scored=(slice(45, 471), slice(41, 601)))
    places, _ = read(tmp_path, values, crop)
    rows, columns = np.divmod(places, 640)
    assert len(places) == 426 * 560
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 470, 41, 600)
    assert "640 x 480" in refusal(read, tmp_path, values[:400], crop)


def test_labels_that_are_none(tmp_path):
    grey = np.array([[0, 7]], np.uint8)
    assert "has 2 x 1 pixels, but its image has 4 x 3" in refusal(read, tmp_path, grey, size_hw=(3, 4))
    assert "has the label 7: expected at most 7 classes" in refusal(
        read, tmp_path, grey, reader_of(classes=7)
    )
    of_ade20k = reader_of(classes=150, first=1)
    assert "the label 151" in refusal(read, tmp_path, np.array([[151]], np.uint8), of_ade20k)
    assert "at most 4,096 classes" in refusal(read, tmp_path, np.array([[5000]], np.uint16))
    assert "8 bits a pixel: expected depths of 16 bits" in refusal(read, tmp_path, grey, reader_of("depth"))
    colours = np.zeros((2, 2, 3), np.uint8)
    assert "several channels: expected a PNG of one" in refusal(read, tmp_path, colours)


@pytest.mark.parametrize("damage", ["cut off", "other", "missing", "link to a pipe"])
def test_files_that_are_no_png(damage, tmp_path):
    path = tmp_path / "labels.png"
    write_png(path, np.random.default_rng(0).integers(256, size=(50, 50), dtype=np.uint8))
    content = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(content[:-1000])
    elif damage == "other":
        path.write_bytes(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes())
    elif damage == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    text = refusal(reader_of().read, LabelledImage("x", path, path))
    assert text.startswith(f"{path}: ")


def test_all_labels_are_read_before_anything_else(tmp_path):
    reader, views = all_of(opened(write_segmentation(tmp_path)))
    assert reader.classes == 3
    assert [view.size_hw for view in views] == [(64, 64)] * 6
    drawn = [view.pixels for view in views]
    for pixels, one in zip(drawn, reader.data.train, strict=True):
        assert len(set(pixels.places.tolist())) == PIXELS
        labels = cv2.imread(str(one.labels), cv2.IMREAD_UNCHANGED)
        assert (labels.ravel()[pixels.places] == pixels.labels).all()
    again = all_of(opened(tmp_path))[1]
    assert all((one.places == other.pixels.places).all() for one, other in zip(drawn, again))
    other = all_of(opened(tmp_path, seed=1))[1]
    assert not (drawn[0].places == other[0].pixels.places).all()


def test_drawn_pixels_are_spread_over_the_image(tmp_path):
    _, views = all_of(opened(write_segmentation(tmp_path, train=40)))
    times = np.bincount(np.concatenate([view.pixels.places for view in views]), minlength=64 * 64)
    assert times.mean() == 10 and times.max() < 28  # binomial(40, 1/4)


def test_datasets_that_cannot_be_learned_from(tmp_path):
    one_class = write_segmentation(tmp_path / "one", train=2, test=1)
    for path in (one_class / "train" / "labels").iterdir():
        write_png(path, np.full((64, 64), 2, np.uint8))
    assert "are of one class, 2" in refusal(all_of, opened(one_class))
    for path in (one_class / "train" / "labels").iterdir():
        write_png(path, np.full((64, 64), 255, np.uint8))
    assert "that can be learned from has a class" in refusal(all_of, opened(one_class))
    more = write_segmentation(tmp_path / "more", train=2, test=1)
    write_png(more / "val" / "labels" / "1000.png", np.full((64, 64), 3, np.uint8))
    assert all_of(opened(more))[0].classes == 4  # a class that only test images have counts, too
    depth = write_depth(tmp_path / "depth", train=2, test=1)
    far = opened(depth, "depth", depth_scale=1.0)
    text = refusal(all_of, far)
    assert "has a depth between 0.001 and 10 m: is `depth_scale` right?" in text
    write_png(depth / "val" / "depths" / "1000.png", np.zeros((64, 64), np.uint16))
    assert "that can be scored has a depth" in refusal(all_of, opened(depth, "depth"))
