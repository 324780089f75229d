"""The images in exported folders: linked, copied, moved, missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from export_cases import export, prediction
from helpers import names, refusal
from torchvision.datasets import VOCDetection

from lost_reg.errors import LostRegError
from lost_reg.export.base import MODES
from lost_reg.export.run_export import warnings
from lost_reg.images.reading import read_image
from lost_reg.runs.image_folder import ImageFolder, ImageRoot


@pytest.mark.parametrize("images", MODES)
def test_pictures_of_yolo(tmp_path, photos, images):
    root, found = photos
    summary = export(tmp_path, found, "yolo", root=root, images=images)
    out = tmp_path / "out"
    listed = (out / "train.txt").read_text().split()
    assert listed == [
        f"./images/{name}" for name in ("a.jpg", "sub_a.png", "B.jpeg", "gone.jpg", "shard-0.tar_key.jpg")
    ]
    there = [] if images == "none" else ["B.jpeg", "a.jpg", "sub_a.png"]
    assert names(out / "images") == there
    assert all((out / "images" / name).is_symlink() == (images == "link") for name in there)
    if there:
        assert (out / "images/sub_a.png").read_bytes() == (root / "sub/a.png").read_bytes()
        assert "2 of 5 images are not there as files: gone.jpg (no file" in warnings(summary)[0]
    else:
        assert warnings(summary) == []


@pytest.mark.parametrize(
    "change, why", [("gone", "No such file"), ("pipe", "not a regular file"), ("grown", "changed")]
)
def test_an_image_that_changes_while_it_is_copied_is_counted(tmp_path, photos, monkeypatch, change, why):
    root, found = photos
    whole, calls = shutil.copyfileobj, []

    def find(self, image, found=ImageFolder.find):
        path = found(self, image)
        calls.append(image)
        if calls.count("a.jpg") == 2 and image == "a.jpg" and change != "grown":  # the first is a check
            path.unlink()
            if change == "pipe":
                os.mkfifo(path)
        return path

    def copy(source, target, length):
        whole(source, target, length)
        if source.name.endswith("a.jpg") and change == "grown":
            with (root / "a.jpg").open("ab") as file:
                file.write(b"more")

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    monkeypatch.setattr(ImageFolder, "find", find)
    summary = export(tmp_path, found, "yolo", root=root, images="copy")
    assert f"a.jpg ({why}" in warnings(summary)[0] and "3 of 5" in warnings(summary)[0]
    assert names(tmp_path / "out" / "images") == ["B.jpeg", "sub_a.png"]


@pytest.mark.parametrize("name", ["../secret.jpg", "sub/../../secret.jpg", "{tmp}/secret.jpg", "link.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, save_scene, name):
    save_scene(tmp_path / "secret.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/link.jpg").symlink_to(tmp_path / "secret.jpg")
    found = [prediction(name.format(tmp=tmp_path), (0, 0, 9, 9))]
    with pytest.raises(LostRegError, match=r"leads out of|is a link out of"):
        export(tmp_path, found, "yolo", root=tmp_path / "images", images="copy")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to, crops", [("yolo", False), ("yolo-seg", False), ("voc", False), ("csv", True)])
@pytest.mark.parametrize(
    "listed, said",
    [
        (("s-0.tar/a.jpg", "s-1.tgz/b.jpg"), "in tar shards (s-0.tar/a.jpg)"),
        (("a.jpg",), "none of the images is a file in "),
    ],
)
def test_without_any_image_nothing_is_written_that_needs_images(tmp_path, to, crops, listed, said):
    found = [prediction(name, (0, 0, 9, 9)) for name in listed]
    options = {"crops": tmp_path / "crops"} if crops else {"images": "copy"}
    line = refusal(export, tmp_path, found, to, root=tmp_path / "shards", **options)
    assert said in line and "`image_root`" in line and ("`images` none" in line) == (not crops)
    assert names(tmp_path) == ["run", "run/errors.jsonl", "run/predictions.jsonl", "run/run.json"]


def test_what_needs_no_images_is_written_of_a_run_on_shards(tmp_path):
    found = [prediction("s-0.tar/a.jpg", (0, 0, 9, 9))]
    for to, images in (("coco", "link"), ("csv", "link"), ("png", "link"), ("yolo", "none"), ("voc", "none")):
        summary = export(tmp_path / f"{to}-{images}", found, to, root=tmp_path, images=images)
        assert summary.tally.boxes == 1 and warnings(summary) == []


def test_shards_that_were_unpacked_are_found_under_their_names(tmp_path, save_scene):
    save_scene(tmp_path / "unpacked/s-0.tar/a.jpg")
    found = [prediction("s-0.tar/a.jpg", (0, 0, 9, 9))]
    export(tmp_path, found, "yolo", root=tmp_path / "shards", image_root=ImageRoot(tmp_path / "unpacked"))
    assert names(tmp_path / "out/images") == ["s-0.tar_a.jpg"]


def test_torchvision_reads_the_images_of_voc(tmp_path, photos):
    root, found = photos
    export(tmp_path, found[:3], "voc", root=root)
    dataset = VOCDetection(tmp_path / "out", year="2012", image_set="trainval")
    assert len(dataset) == 3
    for (image, target), one in zip(dataset, found):
        assert image.size == (128, 96)
        assert np.array_equal(np.asarray(image), read_image(root / one.image, apply_exif=False))
        assert len(target["annotation"]["object"]) == 2
        assert target["annotation"]["source"]["image"] == one.image


def test_images_that_were_moved(tmp_path, photos):
    root, found = photos
    (tmp_path / "moved").mkdir()
    root.rename(tmp_path / "moved/photos")
    summary = export(tmp_path, found[:3], "voc", root=root, image_root=ImageRoot(tmp_path / "moved/photos"))
    assert summary.not_placed.count == 0
    assert (tmp_path / "out/VOCdevkit/VOC2012/JPEGImages/a.jpg").is_file()
    line = refusal(export, tmp_path / "2", found, "voc", image_root=ImageRoot(tmp_path / "nowhere"))
    assert "no such folder" in line


def test_links_hold_from_a_relative_root(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(Path("deep/er"), photos[1][:1], "yolo", image_root=ImageRoot(Path("photos")))
    assert (tmp_path / "deep/er/out/images/a.jpg").is_file()


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_supervision_reads_the_folders(tmp_path, upright, to):
    supervision = pytest.importorskip("supervision")
    root, found = upright
    export(tmp_path, found, to, root=root)
    out = tmp_path / "out"
    if to == "yolo":
        read = supervision.DetectionDataset.from_yolo
        dataset = read(str(out / "images"), str(out / "labels"), str(out / "data.yaml"))
    else:
        top = out / "VOCdevkit/VOC2012"
        read = supervision.DetectionDataset.from_pascal_voc
        dataset = read(str(top / "JPEGImages"), str(top / "Annotations"))
    assert dataset.classes == ["object"]
    boxes = {Path(path).stem: detections.xyxy for path, _, detections in dataset}
    assert set(boxes) == {"a", "B"}
    for one in boxes.values():
        np.testing.assert_allclose(
            one, [(32, 16, 96, 64), (0, 1, 20, 30.2)], atol=0.25 if to == "voc" else 1e-3
        )
