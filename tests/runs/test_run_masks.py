"""Masks in a run folder."""

import json
from dataclasses import replace

import numpy as np
from helpers import refusal, setting

from lost_reg.backbones.loading import load_backbone
from lost_reg.masks.grids import cells, in_pixels
from lost_reg.runs.folder import read_run


def run_with(tmp_path, name, **options):
    from lost_reg.images.sources import list_images
    from lost_reg.runs.options import LoaderOptions, RunOptions
    from lost_reg.runs.run import run
    from lost_reg.runs.sources import source_of_files

    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    import cv2

    for index, size in enumerate(((50, 64), (48, 40))):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    source = source_of_files(list_images([str(folder)]), [str(folder)])
    chosen = replace(setting(**options.pop("features", {})), refine=options.pop("refine", None))
    run(source, load_backbone("tiny", device="cpu"), tmp_path / name, chosen,
        RunOptions(LoaderOptions(workers=0), **options))  # fmt: skip
    return read_run(tmp_path / name)


def test_masks_are_written_if_asked_for(tmp_path):
    without, with_masks = run_with(tmp_path, "without"), run_with(tmp_path, "with", masks=True)
    assert "masks" not in without.settings and with_masks.settings["masks"] is True
    for line in (tmp_path / "without/predictions.jsonl").read_text().splitlines():
        assert all("mask" not in one for one in json.loads(line)["objects"])
    for name, prediction in with_masks.predictions.items():
        (one,) = prediction.objects
        assert without.predictions[name].objects[0].mask is None
        assert one.mask.size_hw == prediction.grid_hw
        assert cells(one.mask)[one.seed]


def test_a_mask_has_the_extent_of_its_box(tmp_path):
    for features in ({}, {"max_side": 45}):
        found = run_with(tmp_path, str(features), masks=True, features=features).predictions
        for prediction in found.values():
            (one,) = prediction.objects
            rows, columns = in_pixels(one.mask, prediction.size_hw).nonzero()
            extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.allclose(extent, one.box_xyxy, atol=0.5)


def test_refined_masks_have_the_pixels_of_the_image_and_give_the_boxes(tmp_path):
    for features in ({}, {"max_side": 45}):
        results = run_with(tmp_path, str(features), refine="bilateral", features=features)
        assert results.settings["masks"] is True and results.settings["refine"] == "bilateral"
        for prediction in results.predictions.values():
            (one,) = prediction.objects
            height, width = prediction.size_hw
            scale = min(1, features.get("max_side", 1000) / max(height, width))
            assert one.mask.size_hw == (round(height * scale), round(width * scale))
            assert one.mask.spans_hw == prediction.size_hw
            rows, columns = cells(one.mask).nonzero()
            extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            scales = np.array(prediction.size_hw[::-1]) / one.mask.size_hw[::-1]
            np.testing.assert_allclose(one.box_xyxy, extent * np.tile(scales, 2))


def test_a_run_is_only_continued_with_the_same_refinement(tmp_path):
    run_with(tmp_path, "out", masks=True)
    assert "refine" in refusal(run_with, tmp_path, "out", refine="bilateral", resume=True)
    run_with(tmp_path, "refined", refine="bilateral")
    assert "refine" in refusal(run_with, tmp_path, "refined", masks=True, resume=True)
    run_with(tmp_path, "refined", refine="bilateral", masks=True, resume=True)
