"""What a detector is trained on: a run's boxes, scaled and mirrored, in an order given by the seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detector_cases import SIDE, boxes_of, run_on_scenes, small, write_run
from helpers import found_object, refusal
from PIL import Image

from lost_reg.runs.seals import sealed
from lost_reg.training.detector_config import LOST_CAD, chosen_config
from lost_reg.training.detector_data import (
    Steps,
    flipped_boxes,
    read_training_set,
    scaled_boxes,
    scaled_hw,
    steps_from,
)
from lost_reg.training.ranks import Ranks


def test_sizes_worked_out_by_hand():
    assert scaled_hw((375, 500), 480, 1333) == (480, 640)
    assert scaled_hw((100, 500), 480, 1000) == (200, 1000)  # the longer side decides
    assert scaled_hw((1, 5000), 480, 1000) == (1, 1000)


def test_boxes_worked_out_by_hand():
    boxes = np.array([[10.0, 20, 30, 60]])
    assert scaled_boxes(boxes, (100, 50), (50, 100)).tolist() == [[20, 10, 60, 30]]
    assert flipped_boxes(boxes, 50).tolist() == [[20, 20, 40, 60]]


@pytest.fixture
def data(tmp_path, save_scene):
    return read_training_set(run_on_scenes(tmp_path, save_scene, count=5))


def test_pixels_and_boxes_stay_together(data):
    """The rectangle is the only place without the grey of the background, mirrored or not."""
    flips = set()
    for images in steps_from(Steps(data, small(steps=6)), 0, 0):
        for pixels, target in images:
            assert pixels.shape == (3, SIDE, SIDE) and target["labels"].tolist() == [1]
            away = (pixels.float() - 120).abs().amax(0) > 12
            rows, columns = np.nonzero(away.numpy())
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert target["boxes"][0].tolist() == pytest.approx(around, abs=1)
            flips.add(tuple(around) in boxes_of(5))
    assert flips == {True, False}


def test_an_epoch_has_every_image_once_in_an_order_of_its_seed(data):
    def order(seed):
        steps = Steps(data, small(seed=seed))
        return [steps.index_at(place) for place in range(15)]

    epochs = [order(0)[start : start + 5] for start in (0, 5, 10)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert order(0) == order(0) != order(1) and len(set(map(tuple, epochs))) > 1


def test_ranks_share_the_images_of_one(data):
    whole = Steps(data, small())[3]
    shares = [image for rank in range(2) for image in Steps(data, small(), Ranks(rank, 2))[3]]
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(whole, shares, strict=True))
    assert "batch_size" in refusal(Steps, data, small(batch_size=3), Ranks(0, 2))


def test_workers_read_the_same_images(data):
    here, there = (list(steps_from(Steps(data, small(steps=2)), 0, workers)) for workers in (0, 1))
    assert all(torch.equal(one[0][0], other[0][0]) for one, other in zip(here, there, strict=True))


def test_exif_is_applied_as_in_the_run(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (32, 64)).save(tmp_path / "photos" / f"{name}.jpg", exif=exif)
    objects = {f"{name}.jpg": [found_object((0, 0, 16, 16))] for name in "ab"}
    for apply, size_hw, other_hw in ((True, (32, 64), (64, 32)), (False, (64, 32), (32, 64))):
        for name, size in (("right", size_hw), ("wrong", other_hw)):
            run = write_run(tmp_path / f"{name}-{apply}", tmp_path / "photos", objects, size)
            record = json.loads((run / "run.json").read_text())
            record["settings"]["apply_exif"] = apply
            (run / "run.json").write_text(json.dumps(sealed(record)))
        assert read_training_set(tmp_path / f"right-{apply}").read(0).shape == (*size_hw, 3)
        assert "another size" in refusal(read_training_set(tmp_path / f"wrong-{apply}").read, 0)


def test_transparent_images_have_the_background_of_the_run(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.new("RGBA", (32, 64), (0, 0, 255, 0)).save(tmp_path / "photos" / f"{name}.png")
    objects = {f"{name}.png": [found_object((0, 0, 16, 16))] for name in "ab"}
    run = write_run(tmp_path / "run", tmp_path / "photos", objects, (64, 32))
    record = json.loads((run / "run.json").read_text())
    for background, colour in (("#ff0000", [255, 0, 0]), (None, [0, 0, 255])):
        record["settings"]["background"] = background
        (run / "run.json").write_text(json.dumps(sealed(record)))
        assert read_training_set(run).read(0)[5, 5].tolist() == colour


def test_classes_are_the_labels(tmp_path, save_scene):
    run = run_on_scenes(tmp_path, save_scene, labels=("b", "a"))
    data = read_training_set(run, classes=True)
    assert data.classes == ("a", "b")
    assert [labels.tolist() for _, _, labels in data.images] == [[1], [0], [1], [0]]
    assert read_training_set(run).classes == ("object",)


def test_what_cannot_be_trained_on_is_refused(tmp_path, save_scene):
    run = run_on_scenes(tmp_path, save_scene)
    assert "no label" in refusal(read_training_set, run, classes=True)
    assert "name one of them" in refusal(read_training_set, tmp_path)
    (tmp_path / "photos" / "1.png").unlink()
    assert "1 of 4 images is missing below" in refusal(read_training_set, run)
    nothing = write_run(tmp_path / "nothing", tmp_path / "photos", {"0.png": [], "2.png": []})
    assert "holds no boxes" in refusal(read_training_set, nothing)
    one = write_run(tmp_path / "one", tmp_path / "photos", {"0.png": [found_object((0, 0, 9, 9))]})
    assert "too few" in refusal(read_training_set, one)
    outside = {name: [found_object((90, 90, 99, 99))] for name in ("0.png", "2.png")}
    assert "holds no boxes" in refusal(
        read_training_set, write_run(tmp_path / "outside", tmp_path / "photos", outside)
    )


def test_an_image_that_breaks_during_training_is_one_line(data):
    (data.folder.root / "3.png").write_bytes(b"no image")
    for workers in (0, 1):
        assert "3.png" in refusal(list, steps_from(Steps(data, small()), 0, workers))


def test_the_schedule_of_losts_cad():
    config = chosen_config(LOST_CAD)
    assert config.lr_at(0) == pytest.approx(0.02 / 1000) and config.lr_at(100) == 0.02
    assert [config.lr_at(step) for step in (17_999, 18_000, 22_000)] == pytest.approx([0.02, 0.002, 0.0002])
    assert (config.min_sizes[0], config.min_sizes[-1], len(config.min_sizes)) == (480, 800, 11)
    assert chosen_config(LOST_CAD, batch_size=4).lr_at(100) == pytest.approx(0.005)


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": -1.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"warmup": -5}, {"lr": float("inf")},
        {"seed": -1}, {"seed": 2**32},
    ],
)  # fmt: skip
def test_options_that_are_not_possible_are_refused_by_name(changes):
    assert f"`{next(iter(changes))}`" in refusal(small, **changes)
