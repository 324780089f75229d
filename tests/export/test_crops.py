"""Crops are the pixels of the boxes."""

from __future__ import annotations

import numpy as np
import pytest
from export_cases import export, prediction
from helpers import names, write_predictions
from PIL import Image

from lost_reg.export.boxes import COLUMNS
from lost_reg.export.run_export import ExportOptions, export_run, warnings
from lost_reg.images.reading import read_image

pandas = pytest.importorskip("pandas")


def test_crops_are_the_pixels_of_the_boxes(tmp_path, photos):
    root, found = photos
    summary = export(tmp_path, found, root=root, crops=tmp_path / "crops")
    assert names(tmp_path / "crops") == [
        *("B_0.jpg", "B_1.jpg", "a_0.jpg", "a_1.jpg", "crops.csv", "sub_a_0.png", "sub_a_1.png"),
    ]
    pixels = read_image(root / "sub/a.png", apply_exif=False)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "crops/sub_a_0.png")), pixels[16:64, 32:96])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "crops/sub_a_1.png")), pixels[1:30, 0:20])
    jpeg = Image.open(tmp_path / "crops/B_0.jpg")
    assert (jpeg.format, jpeg.size) == ("JPEG", (64, 48))
    table = pandas.read_csv(tmp_path / "crops/crops.csv")
    assert list(table.columns) == ["file", *COLUMNS]
    assert list(table["file"]) == ["a_0.jpg", "a_1.jpg", "sub_a_0.png", "sub_a_1.png", "B_0.jpg", "B_1.jpg"]
    assert list(table["xmax"]) == [96, 20] * 3
    assert summary.not_cropped.count == 2
    assert "2 of 5 images gave no crops: gone.jpg (no file of that name), shard" in warnings(summary)[0]


def test_thin_boxes_give_crops_too(tmp_path, photos):
    root, _ = photos
    export(
        tmp_path,
        [prediction("a.jpg", (5, 9.6, 5.3, 20), size_hw=(96, 128))],
        root=root,
        crops=tmp_path / "crops",
    )
    assert Image.open(tmp_path / "crops/a_0.jpg").size == (1, 10)


def test_images_that_changed_since_are_counted(tmp_path, photos, save_scene):
    root, found = photos
    (root / "a.jpg").write_text("no image any more")
    save_scene(root / "sub/a.png", size_hw=(128, 96), box_xyxy=(1, 1, 9, 9))
    progress = []
    folder = write_predictions(tmp_path / "run", found[:3], root=root)
    summary = export_run(
        folder, ExportOptions(crops=tmp_path / "crops"), lambda *counts: progress.append(counts)
    )
    assert names(tmp_path / "crops") == ["B_0.jpg", "B_1.jpg", "crops.csv"]
    (line,) = warnings(summary)
    assert "2 of 3" in line and "a.jpg (not an image" in line and "sub/a.png (another size" in line
    assert progress == [(0, 1, 3), (0, 2, 3), (1, 2, 3)]


@pytest.mark.parametrize("apply_exif", [False, True])
def test_crops_are_turned_as_the_run_did(tmp_path, photos, apply_exif):
    root, _ = photos
    picture = Image.open(root / "sub/a.png")
    exif = picture.getexif()
    exif[0x0112] = 6  # upright when turned by 90 degrees
    picture.save(root / "turned.png", exif=exif)
    size_hw = (128, 96) if apply_exif else (96, 128)
    found = [prediction("turned.png", (10, 20, 40, 80), size_hw=size_hw)]
    export(tmp_path, found, root=root, crops=tmp_path / "crops", run={"apply_exif": apply_exif})
    pixels = np.asarray(picture)
    upright = np.rot90(pixels, -1) if apply_exif else pixels
    crop = np.asarray(Image.open(tmp_path / "crops/turned_0.png"))
    assert np.array_equal(crop, upright[20:80, 10:40])
