"""Layouts of datasets whose pixels are labelled, and folders that have none of them."""

from __future__ import annotations

import pytest
from dense_cases import write_depth, write_segmentation
from helpers import refusal

from lost_reg.datasets.pixel_labels import find_depth, find_segmentation


def write_files(folder, *names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"?")


def found(images) -> list[tuple[str, str]]:
    """The names of images, and the files of their labels."""
    assert all(one.image.is_file() and one.labels.is_file() for one in images)
    return [(one.name, one.labels.name) for one in images]


def test_ade20k(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for part, name in (("training", "ADE_train_2"), ("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        write_files(folder, f"images/{part}/{name}.jpg", f"annotations/{part}/{name}.png")
    write_files(folder, "images/training/._ADE_train_1.jpg", "objectInfo150.txt")
    for name, shown in (("ade20k", "ade20k"), (str(folder), str(folder))):
        data = find_segmentation(name, tmp_path)
        assert (data.name, data.layout, data.classes, data.first) == (shown, "ade20k", 150, 1)
        assert found(data.train) == [
            ("images/training/ADE_train_1.jpg", "ADE_train_1.png"),
            ("images/training/ADE_train_2.jpg", "ADE_train_2.png"),
        ]
        assert found(data.test) == [("images/validation/ADE_val_1.jpg", "ADE_val_1.png")]
    (folder / "annotations/training/ADE_train_2.png").unlink()
    assert "no PNG file for ADE_train_2.jpg" in refusal(find_segmentation, "ade20k", tmp_path)


def test_voc(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("a", "b", "unlabelled"):
        write_files(folder, f"JPEGImages/{name}.jpg")
    write_files(folder, "SegmentationClass/a.png", "SegmentationClass/b.png")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\n")
    (lists / "val.txt").write_text("a\n\n")
    data = find_segmentation("voc12", tmp_path)
    assert (data.layout, data.classes, data.first) == ("voc", 21, 0)
    assert found(data.train) == [("JPEGImages/b.jpg", "b.png")]
    assert found(data.test) == [("JPEGImages/a.jpg", "a.png")]
    for line, what in (
        ("unlabelled", "SegmentationClass/unlabelled.png"),
        ("../../x", "JPEGImages/../../x.jpg"),
    ):
        (lists / "val.txt").write_text(line)
        text = refusal(find_segmentation, "voc12", tmp_path)
        assert f"names files that are not there: {what}" in text or what in text
    (lists / "val.txt").write_text("\n")
    assert "names no images" in refusal(find_segmentation, "voc12", tmp_path)
    (lists / "val.txt").unlink()
    assert "cannot read" in refusal(find_segmentation, "voc12", tmp_path)


def test_nyud(tmp_path):
    folder = tmp_path / "nyu"
    write_files(
        folder, "kitchen/rgb_1.jpg", "kitchen/sync_depth_1.png", "bath/rgb_2.jpg", "bath/sync_depth_2.png"
    )
    (folder / "nyu_train.txt").write_text("/kitchen/rgb_1.jpg /kitchen/sync_depth_1.png 518.8579\n")
    (folder / "nyu_test.txt").write_text("bath/rgb_2.jpg bath/sync_depth_2.png 518.8579\n")
    data = find_depth("nyud", tmp_path)
    assert (data.name, data.layout, data.classes) == ("nyud", "nyud", None)
    assert data.scored == (slice(45, 471), slice(41, 601))
    assert found(data.train) == [("kitchen/rgb_1.jpg", "sync_depth_1.png")]
    assert found(data.test) == [("bath/rgb_2.jpg", "sync_depth_2.png")]
    secret = tmp_path / "secret.png"
    write_files(tmp_path, "secret.png")
    for line in (f"/bath/rgb_2.jpg ../{secret.name}", "/bath/rgb_2.jpg", f"//{secret} {secret}"):
        (folder / "nyu_test.txt").write_text(line)
        assert "names files that are not there" in refusal(find_depth, "nyud", tmp_path)


@pytest.mark.parametrize("find, write", [(find_segmentation, write_segmentation), (find_depth, write_depth)])
def test_a_folder_of_your_own(find, write, tmp_path):
    folder = write(tmp_path / "own", train=2, test=1)
    data = find(str(folder), tmp_path)
    assert (data.name, data.layout, data.classes) == (str(folder), "own", None)
    assert [name for name, _ in found(data.train)] == ["train/images/0.png", "train/images/1.png"]
    assert found(data.test) == [("val/images/1000.png", "1000.png")]


def test_folders_that_are_none(tmp_path):
    assert "no such folder: 'x'" in refusal(find_segmentation, "x", tmp_path)
    assert "ade20k is not there: looked for" in refusal(find_segmentation, "ade20k", tmp_path)
    assert "nyud is not there: looked for" in refusal(find_depth, "nyud", tmp_path)
    segmentation = write_segmentation(tmp_path / "own", train=1, test=1)
    text = refusal(find_depth, str(segmentation), tmp_path)
    assert "NYUd's layout" in text and "it has no train/depths, val/depths" in text
    (segmentation / "train" / "images" / "0.png").unlink()
    assert "no images in" in refusal(find_segmentation, str(segmentation), tmp_path)
