"""The masks of a report's gallery."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers import found_object, prediction, write_predictions
from PIL import Image
from report_cases import RIGHT, SIZE_HW, data_of, report

from lost_reg.masks.grids import stored
from lost_reg.report.pictures import masks_picture


def two_masks() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros(SIZE_HW, bool), np.zeros(SIZE_HW, bool)
    first[16:64, 32:96] = True
    second[40:, :] = True
    return first, second


def test_masks_are_pictures_over_the_image(tmp_path, save_scene):
    for name in ("a", "b", "c"):
        save_scene(tmp_path / "photos" / f"{name}.jpg")
    first, second = two_masks()
    objects = [replace(found_object(RIGHT), mask=stored(one, SIZE_HW)) for one in (first, second)]
    absurd = replace(objects[0], mask=replace(objects[0].mask, size_hw=(10**9, 10**9)))
    found = [prediction("a.jpg", *objects), prediction("b.jpg", absurd), prediction("c.jpg", RIGHT)]
    write_predictions(tmp_path / "run", found, root=tmp_path / "photos", dataset=None, split=None)
    summary = report(tmp_path / "run", tmp_path / "out")
    drawn, broken, plain = (item["entries"]["0"] for item in data_of(summary.page)["items"])
    picture = Image.open(tmp_path / "out" / drawn["masks"])
    assert (np.asarray(picture) == np.where(first, 1, 2 * second)).all()  # the first lies above
    assert picture.info["transparency"][:3] == bytes([0, 115, 115])
    assert "too large" in broken["masks_error"] and "masks" not in broken
    assert not {"masks", "masks_error"} & plain.keys()


def test_masks_of_large_images_are_as_large_as_the_thumbnail():
    mask = stored(np.array([[True, False]]), (900, 1600))
    one = replace(found_object((0, 0, 800, 900)), mask=mask)
    picture = np.asarray(masks_picture(prediction("a.jpg", one, size_hw=(900, 1600), grid_hw=(1, 2))))
    assert picture.shape == (360, 640) and picture[:, :320].all() and not picture[:, 320:].any()
