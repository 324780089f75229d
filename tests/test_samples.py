"""The scenes that `tiny` was trained on, the samples made from them, and the sheet that shows a run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lost_reg.datasets.catalog import find_dataset

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    for folder in ("data", "evaluation", "evaluation/tiny"):
        monkeypatch.syspath_prepend(ROOT / folder)


def test_boxes_are_the_extents_of_what_is_visible():
    """Object 2 is hidden: it has neither a box nor a label."""
    from scenes import Scene

    instances = np.zeros((6, 8), np.uint8)
    instances[1, 2] = instances[3, 4] = 1
    instances[5, 7] = 3
    scene = Scene(np.zeros((6, 8, 3), np.uint8), instances, ("creature", "lump", "vessel"))
    assert scene.boxes_xyxy.tolist() == [[2, 1, 5, 4], [7, 5, 8, 6]]
    assert scene.labels == ["creature", "vessel"]


def test_a_scene_depends_on_its_seed_alone():
    from scenes import make_scene

    first, again, other = (make_scene(seed, (48, 64)) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.instances, again.instances)
    assert not np.array_equal(first.image, other.image)


def test_every_visible_object_of_a_composed_scene_has_a_kind():
    from scenes import compose_from, render_part
    from scenes.objects import KINDS

    bank = [render_part(seed) for seed in range(2)]
    known = {shape.__name__ for shape in KINDS}
    for seed in range(20):
        scene = compose_from(bank, seed, (96, 128))
        assert len(scene.labels) == len(scene.boxes_xyxy) <= len(scene.kinds) <= 4
        assert set(scene.kinds) <= known


def test_a_sample_is_what_the_generator_makes():
    """Other versions of OpenCV may round a pixel differently, so the photo is compared loosely."""
    import render_samples
    from scenes import make_scene

    samples = find_dataset("samples", ROOT / "data")
    for index in (2, 11):
        scene = make_scene(
            render_samples.SEEDS[index], render_samples.SIZES_HW[index % len(render_samples.SIZES_HW)]
        )
        name = samples.images[index]
        truth = samples.truths[name]
        assert name == f"scene-{index + 1:02}.jpg"
        assert list(truth.labels) == scene.labels
        assert np.abs(np.array(truth.boxes_xyxy) - scene.boxes_xyxy).max() <= 1
        image = np.asarray(Image.open(samples.root / name), dtype=float)
        assert image.shape == scene.image.shape and np.abs(image - scene.image).mean() < 4


def test_samples_share_no_seed_with_training_validation_and_scoring():
    import render_samples
    import score
    import train

    used = [*train.VALIDATION.values(), range(score.UNSEEN_SEEDS, score.UNSEEN_SEEDS + 400)]
    for number, stage in enumerate(train.STAGES):
        scenes_of_a_step = stage.batch_tokens // min(rows * columns for rows, columns in stage.grids)
        first = number * 10**7
        used += [range(stage.parts), range(first, first + stage.steps * scenes_of_a_step)]
    assert len(render_samples.SEEDS) == 16
    assert not any(set(render_samples.SEEDS) & set(seeds) for seeds in used)


def test_what_is_written_in_voc_layout_is_read_as_it_was_given(tmp_path):
    from voc_layout import annotate, make_folders

    make_folders(tmp_path)
    boxes = {
        "b.png": [("cup & saucer", 0, 2, 9, 11), ("spoon", 3, 4, 8, 9)],
        "a.png": [("cat", 1, 1, 19, 12)],
    }
    for name in boxes:
        Image.new("RGB", (20, 12)).save(tmp_path / "JPEGImages" / name)
    annotate(tmp_path, boxes)
    dataset = find_dataset(str(tmp_path), tmp_path)
    assert dataset.images == ("b.png", "a.png")
    truth = dataset.truths["b.png"]
    assert truth.labels == ("cup & saucer", "spoon") and truth.size_hw == (12, 20)
    assert truth.boxes_xyxy == ((0, 2, 9, 11), (3, 4, 8, 9))
    assert truth.hard == (True, False)  # the first touches the edge
    assert dataset.truths["a.png"].hard == (True,)  # at the bottom


def test_the_contact_sheet_fills_rows_in_order_and_leaves_out_what_it_is_told(tmp_path, monkeypatch):
    import contact_sheet

    (tmp_path / "pictures").mkdir()
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    for index, (colour, size_wh) in enumerate(zip(colours, [(80, 40), (40, 40), (60, 60), (80, 40)])):
        Image.new("RGB", size_wh, colour).save(tmp_path / "pictures" / f"{index}.jpg")
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "other.png.jpg")
    sheet = tmp_path / "sheet.jpg"
    monkeypatch.setattr(sys, "argv", ["contact_sheet.py", str(tmp_path), str(sheet), "2", "other"])
    contact_sheet.main()
    image = Image.open(sheet)
    assert image.size == (contact_sheet.WIDTH, 2 * 498 + contact_sheet.GAP)  # (1500 - 6) / (2 + 1) = 498
    corners = [image.getpixel(at) for at in ((10, 10), (1490, 10), (10, 990), (1490, 990))]
    assert np.abs(np.array(corners) - colours).max() < 10
