"""Datasets: how they are named, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import refusal

from lost_reg.datasets.base import Dataset
from lost_reg.datasets.catalog import SPECS, data_root, find_dataset, missing_images


@pytest.mark.parametrize(("name", "images"), [("voc07", 5011), ("voc12", 11540), ("coco20k", 19817)])
def test_full_splits_have_the_published_sizes(name, images):
    spec = {spec.name: spec for spec in SPECS}[name]
    found = Dataset(name, spec.split, Path(), ("a.jpg",) * images, spec.images, list)
    assert found.is_full


@pytest.mark.parametrize(
    ("name", "looked_for"),
    [
        ("voc07", "VOCdevkit/VOC2007"),
        ("voc12", "VOCdevkit/VOC2012"),
        ("coco20k", "coco/coco_20k_filenames.txt"),
    ],
)
def test_dataset_that_is_not_there(tmp_path, name, looked_for):
    text = refusal(find_dataset, name, tmp_path)
    assert f"looked for {tmp_path / looked_for}" in text
    assert "`data_root`" in text and "LOST_REG_DATA" in text
    assert f"`lost-reg datasets --download {name} --data-root {tmp_path}` gets it" in text


def test_samples_are_part_of_the_package(tmp_path, make_voc):
    """Those of that name below the data root come first."""
    samples = find_dataset("samples", tmp_path)
    assert samples.is_full and missing_images(samples) == [] and len(samples.images) == 16
    make_voc(tmp_path / "samples", {"1": [("thing", 1, 1, 9, 9)]})
    assert find_dataset("samples", tmp_path).images == ("1.jpg",)


@pytest.mark.parametrize("name", ["voc2007", "nowhere", "", "nowhere.json"])
def test_unknown_name(tmp_path, monkeypatch, name):
    if not name:
        monkeypatch.chdir(tmp_path)
    text = refusal(find_dataset, name or "instances.txt", tmp_path)
    assert "unknown dataset" in text and "voc07, voc12, coco20k, samples" in text


def test_order_of_the_data_roots(monkeypatch):
    assert data_root() == Path("data")
    assert data_root(recorded="recorded") == Path("recorded")
    monkeypatch.setenv("LOST_REG_DATA", "variable")
    assert data_root(recorded="recorded") == Path("variable")
    assert data_root("option", "recorded") == data_root(Path("option")) == Path("option")
    monkeypatch.setenv("LOST_REG_DATA", "")
    assert data_root() == Path("data")


def test_missing_images(tmp_path, make_voc, make_coco):
    folder = make_voc(tmp_path / "mine", {"a": [], "b": [], "c": []})
    for stem in "ac":
        (folder / "JPEGImages" / f"{stem}.jpg").unlink()
    assert missing_images(find_dataset(str(folder), tmp_path)) == ["a.jpg", "c.jpg"]
    path = make_coco(tmp_path / "coco", {"a.jpg": [], "deep/b.jpg": [], "deep/c.jpg": []})
    (tmp_path / "coco" / "images" / "deep" / "b.jpg").unlink()
    assert missing_images(find_dataset(str(path), tmp_path)) == ["deep/b.jpg"]
