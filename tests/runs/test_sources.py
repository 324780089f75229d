"""Where the images of a run come from."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from helpers import refusal

from lost_reg.datasets.catalog import find_dataset
from lost_reg.images.shards import find_shards
from lost_reg.images.sources import list_images
from lost_reg.runs.sources import check_drawable, source_of_dataset, source_of_files


@pytest.fixture
def voc(tmp_path, make_voc) -> Path:
    return make_voc(tmp_path / "voc", {f"{i:06}": [("thing", 1, 1, 40, 40)] for i in range(5)})


def test_a_dataset_is_read_as_lost_does(voc, tmp_path):
    source = source_of_dataset(find_dataset(str(voc), tmp_path))
    assert source.images.count == 5 and not source.apply_exif
    assert source.settings == {"dataset": str(voc), "split": "trainval"}


def test_a_dataset_with_missing_images_is_refused_with_their_names(voc, tmp_path):
    for index in (0, 1, 2, 3):
        (voc / f"JPEGImages/{index:06}.jpg").unlink()
    text = refusal(source_of_dataset, find_dataset(str(voc), tmp_path))
    assert (
        "1 of 5 images found in" in text and "without 000000.jpg, 000001.jpg, 000002.jpg and 1 more" in text
    )
    assert "put the others into that folder" in text  # it is the user's own


def test_files_are_recorded_by_absolute_paths_and_standard_input_as_it_is(tmp_path, save_scene, monkeypatch):
    save_scene(tmp_path / "a" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    source = source_of_files(list_images(["a"]), ["a", "-"])
    assert source.apply_exif and source.settings["inputs"] == [str(tmp_path / "a"), "-"]
    assert source.settings["dataset"] is None
    check_drawable(source)


def test_pictures_of_shards_are_refused(tmp_path, save_scene):
    save_scene(tmp_path / "a" / "1.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a", arcname=".")
    shards = find_shards([str(tmp_path / "a.tar")])
    assert "not tar shards or addresses" in refusal(check_drawable, source_of_files(shards, ["a.tar"]))
