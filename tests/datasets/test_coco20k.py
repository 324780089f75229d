"""coco20k: the images of its list, and the cache of their ground truth."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from helpers import refusal

from lost_reg.datasets import coco
from lost_reg.datasets.catalog import find_dataset, missing_images
from lost_reg.scoring.corloc import score

NAMES = ("COCO_train2014_000000560992.jpg", "COCO_train2014_000000000009.jpg")


@pytest.fixture
def coco20k(tmp_path):
    """A data root with two images of coco20k, out of three that are annotated."""
    folder = tmp_path / "root" / "coco"
    for name in ("annotations", "train2014"):
        (folder / name).mkdir(parents=True)
    (folder / "coco_20k_filenames.txt").write_text("".join(f"train2014/{name}\n" for name in NAMES))
    for name in NAMES:
        (folder / "train2014" / name).write_bytes(b"never decoded")
    ids = {560992: NAMES[0], 9: NAMES[1], 25: "COCO_train2014_000000000025.jpg"}
    images = [{"id": i, "file_name": name, "height": 480, "width": 640} for i, name in ids.items()]
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 44, "bbox": [0.5, 1.5, 10, 20], "iscrowd": 0, "area": 1},
        {"id": 2, "image_id": 9, "category_id": 44, "bbox": [0, 0, 640, 480], "iscrowd": 1, "area": 1},
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 44, "name": "bottle"}]}
    (folder / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    return tmp_path / "root"


@pytest.fixture
def json_is_not_read(monkeypatch):
    """A function after whose call COCO's JSON cannot be read any more."""

    def forbid():
        monkeypatch.setattr(coco, "read_coco_file", lambda path: pytest.fail("COCO's JSON was read"))

    return forbid


def test_coco20k(coco20k):
    found = find_dataset("coco20k", coco20k)
    assert (found.name, found.split, found.images) == ("coco20k", "coco20k", NAMES)
    assert found.root == coco20k / "coco" / "train2014"
    assert missing_images(found) == []
    assert [found.truths[name].image_id for name in NAMES] == ["560992", "9"]
    assert [found.truths[name].boxes_xyxy for name in NAMES] == [(), ((0, 2, 10, 22),)]
    assert found.truths[NAMES[1]].labels == ("bottle",)


def test_cache_is_used_the_second_time(coco20k, json_is_not_read):
    first = find_dataset("coco20k", coco20k).truths
    json_is_not_read()
    assert find_dataset("coco20k", coco20k).truths == first
    assert not list(coco20k.rglob("*.part"))


def test_cache_is_renewed_when_the_annotations_change(coco20k):
    assert find_dataset("coco20k", coco20k).truths[NAMES[0]].size_hw == (480, 640)
    path = coco20k / "coco" / "annotations" / "instances_train2014.json"
    path.write_text(path.read_text().replace('"height": 480', '"height": 481'))  # of the same length
    os.utime(path, ns=(0, 0))
    assert find_dataset("coco20k", coco20k).truths[NAMES[0]].size_hw == (481, 640)


def test_cache_is_renewed_when_the_list_changes(coco20k):
    listed = coco20k / "coco" / "coco_20k_filenames.txt"
    whole = listed.read_text()
    listed.write_text(whole.splitlines()[0])
    assert list(find_dataset("coco20k", coco20k).truths) == [NAMES[0]]
    listed.write_text(whole)
    assert list(find_dataset("coco20k", coco20k).truths) == list(NAMES)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"source": 5}', b"\xff", "cut", "no rows"])
def test_damaged_cache_is_ignored(coco20k, damage):
    first = find_dataset("coco20k", coco20k).truths
    cache = coco20k / "coco" / "coco20k_ground_truth.json"
    if damage == "cut":
        damage = cache.read_bytes()[:-20]
    if damage == "no rows":
        damage = json.dumps({**json.loads(cache.read_text()), "truths": [{}, {}]}).encode()
    cache.write_bytes(damage)
    assert find_dataset("coco20k", coco20k).truths == first
    assert json.loads(cache.read_text())["truths"]  # and made anew


def test_read_only_data_root(coco20k, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    before = sorted(coco20k.rglob("*"))
    for _ in range(2):
        assert find_dataset("coco20k", coco20k).truths[NAMES[1]].image_id == "9"
    assert sorted(coco20k.rglob("*")) == before


def test_twenty_thousand_images_are_known_from_the_cache_alone(coco20k, json_is_not_read):
    """No image file is there: neither the ground truth nor the score decodes one. (2,000 are scored.)"""
    folder = coco20k / "coco"
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012}.jpg", "height": 100, "width": 100}
        for i in range(20_000)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 44, "bbox": [0, 0, 50 + i % 2, 100], "iscrowd": 0}
        for i in range(20_000)
    ]
    content = {"images": images, "annotations": boxes, "categories": []}
    (folder / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    (folder / "coco_20k_filenames.txt").write_text(
        "".join(f"train2014/{image['file_name']}\n" for image in images)
    )
    assert len(find_dataset("coco20k", coco20k).truths) == 20_000
    json_is_not_read()
    found = find_dataset("coco20k", coco20k)
    assert list(found.truths) == [image["file_name"] for image in images]
    got = score({name: (0, 0, 25.25, 100) for name in found.images[:2000]}, found.truths)
    assert (got.images, got.found, got.whole) == (2000, 1000, 100)  # 25.25 is less than half of 51


def test_coco20k_without_annotations(coco20k):
    path = coco20k / "coco" / "annotations" / "instances_train2014.json"
    path.unlink()
    assert f"looked for {path}" in refusal(find_dataset, "coco20k", coco20k)


def test_all_images_are_missing_without_their_folder(coco20k):
    for image in (coco20k / "coco" / "train2014").iterdir():
        image.unlink()
    (coco20k / "coco" / "train2014").rmdir()
    assert missing_images(find_dataset("coco20k", coco20k)) == list(NAMES)
