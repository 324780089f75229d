"""The datasets by name, in the layouts that their authors publish, made up and small."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from helpers import refusal
from scipy.io import savemat
from torchvision import datasets

from lost_reg.probing import catalog
from lost_reg.probing.catalog import SPECS, find_labelled


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # no test reads its pixels


def text(path: Path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    text(data / "variants.txt", ["707-320", "A300B4"])
    for split, numbers in {"train": (1, 2), "val": (3,), "test": (4, 5)}.items():
        text(data / f"images_variant_{split}.txt", [f"{n} {('707-320', 'A300B4')[n % 2]}" for n in numbers])
        for number in numbers:
            image(data / "images" / f"{number}.jpg")


def dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        text(
            root / "dtd" / "dtd" / "labels" / f"{split}1.txt", [f"banded/{split}.jpg", f"dotted/{split}.jpg"]
        )


def food101(root: Path) -> None:
    for split in ("train", "test"):
        names = {name: [f"{name}/{split}{index}" for index in range(2)] for name in ("apple_pie", "waffles")}
        text(root / "food-101" / "meta" / f"{split}.json", [json.dumps(names)])
    (root / "food-101" / "images").mkdir()


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    for name in ("devkit", "cars_train", "cars_test"):
        (folder / name).mkdir(parents=True)
    savemat(
        folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General", "Acura"], dtype=object)}
    )
    kind = [("fname", object), ("class", object)]
    of = np.array([("00001.jpg", 2), ("00002.jpg", 1), ("00003.jpg", 2)], dtype=kind)
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": of})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": of})


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    lines = ["Abyssinian_100 1 1 1", "american_bulldog_1 2 2 1", "american_bulldog_2 2 2 1"]
    for split in ("trainval", "test"):
        text(folder / "annotations" / f"{split}.txt", lines)


def cub200(root: Path) -> None:
    folder = root / "CUB_200_2011"
    text(folder / "images.txt", ["1 001.Black_footed/a.jpg", "2 001.Black_footed/b.jpg", "3 002.Laysan/c.jpg",
                                 "4 002.Laysan/d.jpg", "5 002.Laysan/e.jpg"])  # fmt: skip
    text(folder / "image_class_labels.txt", ["1 1", "2 1", "3 2", "4 2", "5 2"])
    text(folder / "train_test_split.txt", ["1 1", "2 0", "3 1", "4 0", "5 1"])
    text(folder / "classes.txt", ["1 001.Black_footed", "2 002.Laysan"])


def sun397(root: Path) -> None:
    text(root / "SUN397" / "ClassName.txt", ["/a/abbey", "/a/apse/indoor"])
    for index in range(10):
        image(root / "SUN397" / "a" / "abbey" / f"sun_{index}.jpg")
        image(root / "SUN397" / "a" / "apse" / "indoor" / f"sun_{index}.jpg")


def caltech101(root: Path) -> None:
    for name, count in {"BACKGROUND_Google": 3, "Faces": 40, "ant": 33}.items():
        for index in range(count):
            image(root / "caltech101" / "101_ObjectCategories" / name / f"image_{index + 1:04d}.jpg")
    (root / "caltech101" / "Annotations").mkdir()


def voc07(root: Path) -> None:
    lists = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    for split, names in {"train": "ab", "val": "c", "test": "de"}.items():
        text(lists / f"{split}.txt", names)
        text(lists / f"cat_{split}.txt", [f"{name}  {1 if name in 'ace' else -1}" for name in names])
        text(lists / f"dog_{split}.txt", [f"{name}  {0 if name == 'd' else 1}" for name in names])
    text(lists / "cat_trainval.txt", ["a  1"])


MADE = {
    "aircraft": (aircraft, ("707-320", "A300B4"), {"train": [1, 0], "val": [1], "test": [0, 1]},
                 "mean_per_class"),
    "dtd": (dtd, ("banded", "dotted"), {"train": [0, 1], "val": [0, 1], "test": [0, 1]}, "top1"),
    "food101": (food101, ("apple_pie", "waffles"), {"train": [0, 0, 1], "val": [1], "test": [0, 0, 1, 1]},
                "top1"),
    "cars": (cars, ("AM General", "Acura"), {"train": [0, 1], "val": [1], "test": [1, 0, 1]}, "top1"),
    "pets": (pets, ("Abyssinian", "American Bulldog"), {"train": [0, 1], "val": [1], "test": [0, 1, 1]},
             "mean_per_class"),
    "cub200": (cub200, ("Black footed", "Laysan"), {"train": [0, 1], "val": [1], "test": [0, 1]}, "top1"),
    "voc07": (voc07, ("cat", "dog"),
              {"train": [[1, 1], [0, 1]], "val": [[1, 1]], "test": [[0, -1], [1, 1]]}, "map"),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_its_classes_and_splits(name, tmp_path):
    make, classes, labels, measure = MADE[name]
    make(tmp_path)
    found = find_labelled(name, tmp_path)
    assert (found.name, found.classes, found.measure, found.apply_exif) == (name, classes, measure, False)
    assert {split: one.labels.tolist() for split, one in found.parts.items()} == labels
    for one in found.parts.values():
        assert [tmp_path / image_name for image_name in one.names] == list(one.images)


def test_sun397_and_caltech101_have_no_official_split(tmp_path):
    sun397(tmp_path)
    sun = find_labelled("sun397", tmp_path)
    assert sun.split_by == "drawn with seed 0: 20 % for test, 10 % of the rest for val"
    assert {split: len(one) for split, one in sun.parts.items()} == {"train": 14, "val": 2, "test": 4}
    caltech101(tmp_path)
    caltech = find_labelled("caltech101", tmp_path)
    assert caltech.classes == ("Faces", "ant") and caltech.measure == "mean_per_class"
    learned = np.concatenate([caltech.parts["train"].labels, caltech.parts["val"].labels])
    assert np.bincount(learned).tolist() == [30, 30]  # of each class
    assert np.bincount(caltech.parts["test"].labels).tolist() == [10, 3]
    assert caltech.split_by == "drawn with seed 0: 30 of each class for training, 10 % of train for val"


def test_cifar_is_arrays(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 3072), dtype=np.uint8)
    files = {"data_batch_1": pixels, "test_batch": pixels[:5]}
    for name, data in files.items():
        content = {"data": data, "labels": [index % 2 for index in range(len(data))]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [("data_batch_1", None)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [("test_batch", None)])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": None})
    found = find_labelled("cifar10", tmp_path)
    assert found.classes == ("airplane", "automobile")
    test = found.parts["test"]
    assert list(test.names) == [f"test/{index:05d}" for index in range(5)]
    assert (test.images[3] == pixels[3].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    assert {split: len(one) for split, one in found.parts.items()} == {"train": 18, "val": 2, "test": 5}


def test_imagenet_and_places_are_folders_of_classes(tmp_path):
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            for index in range(10):
                image(tmp_path / "imagenet" / split / name / f"{index}.JPEG")
    found = find_labelled("imagenet", tmp_path)
    assert (found.name, found.apply_exif, len(found.parts["test"])) == ("imagenet", False, 20)
    missing = refusal(find_labelled, "places205", tmp_path, download=True)
    assert "cannot be downloaded from here; places.csail.mit.edu has it, as train/ and val/" in missing


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_what_is_missing_is_said(name, tmp_path):
    message = refusal(find_labelled, name, tmp_path)
    spec = next(spec for spec in SPECS if spec.name == name)
    assert f"looked for {tmp_path / spec.folder} (the data root is {tmp_path}, set by `data_root`" in message
    assert ("`download` gets it" in message) == spec.can_download
    assert list(tmp_path.iterdir()) == []  # torchvision would have made a folder for some


def test_what_is_damaged_is_said(tmp_path):
    aircraft(tmp_path)
    (tmp_path / "fgvc-aircraft-2013b" / "data" / "images_variant_val.txt").write_text("3 Concorde\n")
    assert "FGVC-Aircraft in" in (message := refusal(find_labelled, "aircraft", tmp_path))
    assert "is incomplete or damaged: 'Concorde'" in message
    voc07(tmp_path)
    (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").unlink()  # as `lost-reg datasets` downloads it
    assert "test.txt" in refusal(find_labelled, "voc07", tmp_path)


def test_torchvision_downloads(tmp_path, monkeypatch):
    def download(self):
        dtd(Path(self.root))

    monkeypatch.setattr(datasets.DTD, "_download", download)
    assert len(find_labelled("dtd", tmp_path / "new", download=True).parts["train"]) == 2

    def fail(self):
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.DTD, "_download", fail)
    assert (
        refusal(find_labelled, "dtd", tmp_path / "x", download=True)
        == "cannot download DTD: no route to host"
    )


def test_the_names_are_those_of_the_published_table():
    from lost_reg.probing.published import published_classes

    assert set(published_classes()["percent"]) == {spec.name for spec in catalog.SPECS}
