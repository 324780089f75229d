"""The part of the images that yolo keeps for validation."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_cases import export, prediction, write_predictions
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.export.base import Split
from lost_reg.export.run_export import ExportOptions, export_run, summary_lines

NAMES = [f"{number:03}.jpg" for number in range(200)]


def parts_of(out: Path) -> tuple[list[str], list[str]]:
    train, val = ((out / name).read_text().split() for name in ("train.txt", "val.txt"))
    return train, val


def found_in(names) -> list:
    return [prediction(name, (0, 0, 50, 40)) for name in names]


def test_each_image_is_in_one_part_and_data_yaml_names_both(tmp_path):
    yaml = pytest.importorskip("yaml")
    summary = export(tmp_path, found_in(NAMES), "yolo", split=Split(0.2))
    train, val = parts_of(tmp_path / "out")
    assert sorted(train + val) == [f"./images/{name}" for name in NAMES]
    assert 25 <= len(val) <= 55  # 40 are expected, with a standard deviation of 5.7
    settings = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert settings == {"train": "train.txt", "val": "val.txt", "names": {0: "object"}}
    assert summary.for_validation == len(val)
    assert f"split: {len(train)} images to train on, {len(val)} for validation" in summary_lines(summary)


def test_the_parts_only_grow_when_a_run_is_continued(tmp_path):
    for number, count in enumerate((60, 200)):
        export(tmp_path / str(number), found_in(NAMES[:count]), "yolo", split=Split(0.3, seed=4))
    before, after = (parts_of(tmp_path / str(number) / "out") for number in range(2))
    assert all(set(one) < set(other) for one, other in zip(before, after))


def test_the_order_of_the_images_does_not_matter(tmp_path):
    for number, names in enumerate((NAMES, NAMES[::-1])):
        export(tmp_path / str(number), found_in(names), "yolo", split=Split(0.2))
    first, second = (parts_of(tmp_path / str(number) / "out") for number in range(2))
    assert [sorted(part) for part in first] == [sorted(part) for part in second]


def test_another_seed_gives_other_parts():
    kept = {seed: {name for name in NAMES if Split(0.2, seed).is_val(name)} for seed in range(3)}
    assert len(kept[0] & kept[1]) < 20 > len(kept[1] & kept[2])  # 8 are expected by chance


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.text())
def test_a_larger_share_keeps_what_a_smaller_one_did(one, other, name):
    smaller, larger = sorted((one, other))
    assert Split(smaller).is_val(name) <= Split(larger).is_val(name)


@pytest.mark.parametrize("share", [0, 1, -0.1, 20, float("nan")])
def test_a_share_that_leaves_a_part_empty_is_refused(share):
    assert refusal(Split, share).startswith("expected a share `val` above 0 and below 1")


@pytest.mark.parametrize(("share", "part"), [(0.001, "val.txt"), (0.999, "train.txt")])
def test_a_part_without_images_is_refused_and_nothing_is_written(tmp_path, share, part):
    line = refusal(export, tmp_path, found_in(NAMES[:5]), "yolo", split=Split(share))
    assert line.startswith(f"of 5 images with boxes, `val` {share} leaves none for {part}")
    assert not (tmp_path / "out").exists()


def test_without_a_split_both_are_all_images(tmp_path):
    export(tmp_path, found_in(NAMES[:5]), "yolo")
    assert not (tmp_path / "out/val.txt").exists()
    assert "val: train.txt" in (tmp_path / "out/data.yaml").read_text()


@pytest.mark.parametrize("to", ["yolo", "yolo-seg"])
def test_ultralytics_finds_every_image_with_its_labels(tmp_path, save_scene, to):
    """Its own check of data.yaml, and its own dataset, which drops images and labels that it cannot use."""
    pytest.importorskip("ultralytics")
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    for name in NAMES[:12]:
        save_scene(tmp_path / "photos" / name)
    found = [prediction(name, (32, 16, 96, 64), (0, 0, 20, 30), size_hw=(96, 128)) for name in NAMES[:12]]
    export(tmp_path, found, to, root=tmp_path / "photos", images="copy", split=Split(0.3))
    data = check_det_dataset(str(tmp_path / "out/data.yaml"), autodownload=False)
    assert data["nc"] == 1 and data["names"] == {0: "object"}
    counts = []
    for part in ("train", "val"):
        task = "segment" if to == "yolo-seg" else "detect"
        dataset = YOLODataset(img_path=data[part], data=data, task=task, augment=False, imgsz=64)
        counts.append(len(dataset))
        for labels in dataset.labels:
            expected = [(0.5, 40 / 96, 0.5, 0.5), (10 / 128, 15 / 96, 20 / 128, 30 / 96)]
            assert labels["bboxes"].shape == (2, 4)
            assert abs(labels["bboxes"] - expected).max() < (0.02 if to == "yolo-seg" else 1e-6)
    assert sum(counts) == 12 and min(counts) > 0


def test_a_format_without_parts_takes_no_split_from_the_library(tmp_path):
    run = write_predictions(tmp_path / "run", found_in(NAMES[:5]))
    summary = export_run(run, ExportOptions("csv", tmp_path / "x.csv", split=Split(0.5)))
    assert summary.for_validation is None
