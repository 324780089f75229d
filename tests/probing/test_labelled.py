"""Datasets with classes: splits that are drawn, folders of class folders, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.probing.catalog import find_labelled
from lost_reg.probing.labelled import LabelledDataset, LabelledPart, draw, with_drawn_splits


def part(labels) -> LabelledPart:
    names = [f"{index}.png" for index in range(len(labels))]
    return LabelledPart(names, names, np.array(labels))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 3), st.data())
def test_of_each_class_its_share_is_drawn(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    drawn = draw(np.array(labels), count, seed)
    assert len(set(drawn.tolist())) == count and (np.diff(drawn) > 0).all()
    counts = np.bincount(np.array(labels)[drawn], minlength=5)
    expected = np.bincount(labels, minlength=5) * count / len(labels)
    assert np.abs(counts - expected).max() < 2


@given(st.lists(st.integers(0, 3), min_size=12, max_size=40), st.integers(0, 3))
def test_no_class_loses_its_last_training_image(labels, seed):
    parts = with_drawn_splits(("a", "b", "c", "d"), {"train": part(labels)}, seed, name="x").parts
    assert set(parts["train"].labels) == set(labels)
    assert sorted(name for one in parts.values() for name in one.names) == sorted(part(labels).names)
    spare = len(labels) - len(set(labels))
    assert len(parts["test"]) == min(spare, round(0.2 * len(labels)))


def test_another_seed_draws_other_images():
    def test_names(seed):
        return with_drawn_splits(("a", "b"), {"train": part([0, 1] * 50)}, seed, name="x").parts["test"].names

    assert test_names(0) == test_names(0) != test_names(1)


def test_one_folder_is_split(save_digits, tmp_path):
    found = find_labelled(str(save_digits(tmp_path / "digits", 100)), tmp_path)
    assert found.classes == tuple(f"digit {digit}" for digit in range(10))
    assert found.title == "10 classes, 72 training, 8 validation and 20 test images"
    assert found.split_by == "drawn with seed 0: 20 % for test, 10 % of the rest for val"
    assert (found.name, found.measure, found.apply_exif) == (str(tmp_path / "digits"), "top1", True)
    for one in found.parts.values():
        for name, image, label in zip(one.names, one.images, one.labels):
            assert name == image.relative_to(tmp_path / "digits").as_posix()
            assert image.parent.name == found.classes[label]


def test_folders_of_splits_are_kept(save_digits, tmp_path):
    root = tmp_path / "digits"
    save_digits(root / "train", 60)
    save_digits(root / "val", 30, first=60)
    (root / "train" / "empty").mkdir()
    (root / "train" / "notes.txt").touch()
    as_imagenet = find_labelled(str(root), tmp_path)
    assert set(as_imagenet.parts["test"].names) == {
        path.relative_to(root).as_posix() for path in root.glob("val/*/*")
    }
    assert len(as_imagenet.parts["val"]) == 6 and len(as_imagenet.classes) == 10
    assert as_imagenet.split_by == "drawn with seed 0: 10 % of train for val"
    save_digits(root / "test", 20, first=90)
    full = find_labelled(str(root), tmp_path)
    assert {split: len(one) for split, one in full.parts.items()} == {"train": 60, "val": 30, "test": 20}
    assert full.split_by == "official"


def test_a_limit_is_of_each_split(save_digits, tmp_path):
    found = find_labelled(str(save_digits(tmp_path / "digits", 100)), tmp_path).limited(12, 0)
    assert {split: len(one) for split, one in found.parts.items()} == {"train": 12, "val": 8, "test": 12}
    assert found.limit == 12 and set(found.parts["train"].labels) == set(range(10))
    assert found.limited(None, 0) is found
    assert "fewer training images than classes: 5 of 10 classes" in refusal(
        found.limited(5, 0).check_trainable
    )


def test_what_nothing_can_be_learned_from(save_digits, tmp_path):
    root = save_digits(tmp_path / "digits", 40)
    for name in ("nothing", "one/cat"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(next(root.glob("*/*")), tmp_path / "one" / "cat")
    few = {"train": part([0, 1]), "val": part([0]), "test": part([1])}
    assert "holds no folders of images" in refusal(find_labelled, str(tmp_path / "nothing"), tmp_path)
    assert "only the class 'cat'" in refusal(find_labelled, str(tmp_path / "one"), tmp_path)
    assert "fewer training images than classes: 2 of 3" in refusal(
        LabelledDataset("x", ("a", "b", "c"), few).check_trainable
    )
    assert "no test image" in refusal(LabelledDataset, "x", ("a", "b"), {**few, "test": part([])})
    assert "no validation image" in refusal(LabelledDataset, "x", ("a", "b"), {**few, "val": part([])})
    missing = refusal(find_labelled, "cifar11", tmp_path)
    assert missing.startswith("unknown dataset 'cifar11', nor is it a folder: choose among imagenet, ")
    assert "`download`" in refusal(find_labelled, str(root), tmp_path, download=True)
    save_digits(tmp_path / "split" / "train", 3)
    save_digits(tmp_path / "split" / "test", 5)
    unknown = refusal(find_labelled, str(tmp_path / "split"), tmp_path)
    assert "classes without training images: digit 3, digit 4" in unknown
