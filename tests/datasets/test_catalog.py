"""Datasets: where they are looked for, which images they have, and their ground truth worked out by hand."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from helpers import refusal

from lost_reg.datasets import catalog as datasets
from lost_reg.datasets.catalog import (
    data_root,
    find_dataset,
    missing_images,
    read_coco_truths,
    read_voc_truth,
)
from lost_reg.scoring.corloc import score


def voc_xml(*objects: str, size="<size><width>500</width><height>375</height></size>") -> str:
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def voc_object(
    xmin, ymin, xmax, ymax, *, name="dog", difficult: int | str = 0, truncated: int | str = 0
) -> str:
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>{truncated}</truncated>"
        f"<difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
    )


# --- VOC ---------------------------------------------------------------------------------------------


def test_voc_truth_worked_out_by_hand(tmp_path):
    path = tmp_path / "2007_000027.xml"
    head = voc_object(1, 1, 2, 2, name="head").replace("object>", "part>")
    person = voc_object(45.7, 50, 99.9, 120, name="person").replace("</object>", head + "</object>")
    path.write_text(
        voc_xml(
            voc_object(1, 1, 500, 375),
            voc_object(263, 211, 324, 339, difficult=1),
            voc_object(165, 264, 253, 372, truncated=1, name="cat"),
            person,
        )
    )
    got = read_voc_truth(path, "2007_000027.jpg")
    assert (got.image, got.image_id, got.size_hw) == ("2007_000027.jpg", "2007_000027", (375, 500))
    # 1 is taken from the minima alone; the parts of a person are no objects
    assert got.boxes_xyxy[:3] == ((0, 0, 500, 375), (262, 210, 324, 339), (164, 263, 253, 372))
    assert got.boxes_xyxy[3:] == (pytest.approx((44.7, 49, 99.9, 120)),)
    assert got.labels == ("dog", "dog", "cat", "person")
    assert got.hard == (False, True, True, False)


def test_voc_truth_without_objects_or_flags(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(voc_xml())
    assert read_voc_truth(path, "a.jpg").boxes_xyxy == ()
    path.write_text(
        voc_xml("<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>")
    )
    got = read_voc_truth(path, "a.jpg")
    assert (got.boxes_xyxy, got.labels, got.hard) == (((0, 0, 5, 5),), ("",), (False,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "no xml",
        "<annotation/>",
        voc_xml(size=""),
        voc_xml(size="<size><width>a</width><height>1</height></size>"),
        voc_xml("<object><name>dog</name></object>"),
        voc_xml(voc_object("", 1, 2, 3)),
        voc_xml(voc_object("one", 1, 2, 3)),
    ],
)
def test_malformed_voc_truth(tmp_path, text):
    path = tmp_path / "a.xml"
    path.write_text(text)
    assert f"malformed ground truth {path}" in refusal(read_voc_truth, path, "a.jpg")


def test_missing_voc_truth(tmp_path, make_voc):
    folder = make_voc(tmp_path / "mine", {"a": [("dog", 1, 1, 9, 9)], "b": []})
    (folder / "Annotations" / "b.xml").unlink()
    found = find_dataset(str(folder), tmp_path)
    expected = f"no ground truth for b.jpg: {folder / 'Annotations' / 'b.xml'} is missing"
    assert refusal(lambda: found.truths) == expected


@pytest.mark.parametrize(("name", "folder"), [("voc07", "VOC2007"), ("voc12", "VOC2012")])
def test_voc_of_the_table(tmp_path, make_voc, name, folder):
    made = make_voc(tmp_path / "VOCdevkit" / folder, {"b": [("dog", 33, 17, 96, 64)], "a": [], "c": []})
    listed = made / "ImageSets" / "Main" / "trainval.txt"
    listed.write_text("b\n\na  \n")  # in its order; c is of another split
    found = find_dataset(name, tmp_path)
    assert (found.name, found.title, found.split) == (name, name, "trainval")
    assert (found.images, found.root) == (("b.jpg", "a.jpg"), made / "JPEGImages")
    assert {image: truth.boxes_xyxy for image, truth in found.truths.items()} == {
        "b.jpg": ((32, 16, 96, 64),),
        "a.jpg": (),
    }
    assert not found.is_full
    listed.unlink()
    assert f"{name} is incomplete: no list of its images at {listed}" in refusal(find_dataset, name, tmp_path)
    listed.write_text("\n")
    assert f"{name} has no images: {listed} is empty" in refusal(find_dataset, name, tmp_path)


@pytest.mark.parametrize(("name", "images"), [("voc07", 5011), ("voc12", 11540), ("coco20k", 19817)])
def test_full_splits_have_the_published_sizes(name, images):
    spec = {spec.name: spec for spec in datasets.SPECS}[name]
    found = datasets.Dataset(name, spec.split, Path(), ("a.jpg",) * images, spec.images, list)
    assert found.is_full


def test_own_voc_folder_without_a_list(tmp_path, make_voc, monkeypatch):
    folder = make_voc(tmp_path / "mine", {"b": [("dog", 1, 1, 9, 9)], "a": []})
    (folder / "ImageSets" / "Main" / "trainval.txt").unlink()
    (folder / "JPEGImages" / "b.jpg").rename(folder / "JPEGImages" / "b.PNG")
    (folder / "JPEGImages" / "notes.txt").write_text("")
    found = find_dataset(str(folder), tmp_path)
    assert (found.title, found.split, found.images) == ("mine", "all", ("a.jpg", "b.PNG"))
    assert found.truths["b.PNG"].boxes_xyxy == ((0, 0, 9, 9),)
    assert not found.is_full
    monkeypatch.chdir(tmp_path)
    assert find_dataset("mine", tmp_path).name == str(folder)  # recorded so that any folder finds it


def test_own_folder_in_another_layout(tmp_path):
    assert "is not in VOC layout" in refusal(find_dataset, str(tmp_path), tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    assert f"{tmp_path / 'JPEGImages'} is empty" in refusal(find_dataset, str(tmp_path), tmp_path)


# --- COCO --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ((10, 20, 30, 40), (10, 20, 40, 60)),
        ((0.4, 0.4, 0.4, 10), (0, 0, 1, 10)),  # rounded before the sum, xmax would be 0
        ((0.6, 0.6, 0.6, 10.6), (1, 1, 1, 11)),  # ... and here 2 and 12
        ((0.5, 1.5, 2, 2), (0, 2, 2, 4)),  # halves go to the even number: 0.5, 1.5, 2.5, 3.5
        ((2.5, 4.5, 3, 1), (2, 4, 6, 6)),
    ],
)
def test_coco_box_is_rounded_after_the_sum(tmp_path, make_coco, bbox, box):
    path = make_coco(tmp_path, {"a.jpg": [(*bbox, 0)]})
    (truth,) = read_coco_truths(path, ("a.jpg",))
    assert truth.boxes_xyxy == (box,)
    assert all(isinstance(side, int) for side in truth.boxes_xyxy[0])


def test_coco_truth_worked_out_by_hand(tmp_path, make_coco):
    path = make_coco(
        tmp_path,
        {
            "crowd.jpg": [(0, 0, 90, 90, 1), (10, 10, 20, 20, 0), (5, 5, 9, 9, 0)],
            "crowd alone.jpg": [(0, 0, 90, 90, 1)],
            "empty.jpg": [],
            "not asked for.jpg": [(1, 1, 2, 2, 0)],
        },
    )
    got = read_coco_truths(path, ("empty.jpg", "crowd.jpg", "crowd alone.jpg"))
    assert [truth.image for truth in got] == ["empty.jpg", "crowd.jpg", "crowd alone.jpg"]
    assert [truth.image_id for truth in got] == ["3", "1", "2"]
    assert [truth.boxes_xyxy for truth in got] == [(), ((10, 10, 30, 30), (5, 5, 14, 14)), ()]
    assert (got[1].labels, got[1].hard, got[1].size_hw) == (("thing", "thing"), (False, False), (96, 128))


def test_coco_file_does_not_print(tmp_path, make_coco, capsys):
    read_coco_truths(make_coco(tmp_path, {"a.jpg": []}), ("a.jpg",))
    assert capsys.readouterr() == ("", "")


def test_coco_image_without_ground_truth(tmp_path, make_coco):
    path = make_coco(tmp_path, {"a.jpg": []})
    assert f"no ground truth for b.jpg in {path}" in refusal(read_coco_truths, path, ("a.jpg", "b.jpg"))


@pytest.mark.parametrize(
    "bbox", [[1, 2, 3], ["1", "2", "3", "4"], None, [1, 2, 3, float("inf")], [float("nan"), 2, 3, 4]]
)
def test_malformed_coco_box(tmp_path, make_coco, bbox):
    path = make_coco(tmp_path, {"a.jpg": [(1, 2, 3, 4, 0)]})
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = bbox
    path.write_text(json.dumps(content))
    assert f"malformed ground truth {path}" in refusal(read_coco_truths, path, ("a.jpg",))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 5}', '{"images": [5]}', '{"images": [{"id": 1}]}']
)
def test_malformed_coco_file(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_text(text)
    assert "is not a COCO annotation file" in refusal(find_dataset, str(path), tmp_path)


def test_coco_file_without_images(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    assert "lists no images" in refusal(find_dataset, str(path), tmp_path)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("instances.json", "."),
        ("instances.json", "images"),
        ("instances.json", "val2017"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images"),
        ("annotations/instances_val2017.json", "."),
    ],
)
def test_images_are_found_beside_a_coco_file(tmp_path, make_coco, annotations, images):
    made = make_coco(tmp_path / "made", {"deep/b.jpg": [(1, 2, 3, 4, 0)], "a.jpg": []})
    folder = tmp_path / "coco"
    (folder / "other").mkdir(parents=True)
    (folder / annotations).parent.mkdir(exist_ok=True)
    made.rename(folder / annotations)
    (folder / images).mkdir(exist_ok=True)
    for name in ("deep", "a.jpg"):
        (tmp_path / "made" / "images" / name).rename(folder / images / name)
    found = find_dataset(str(folder / annotations), tmp_path)
    assert found.root.resolve() == (folder / images).resolve()
    assert (found.images, found.split) == (("deep/b.jpg", "a.jpg"), "all")
    assert missing_images(found) == []
    assert found.truths["deep/b.jpg"].boxes_xyxy == ((1, 2, 4, 6),)
    assert not found.is_full


def test_coco_file_without_its_images(tmp_path, make_coco):
    path = make_coco(tmp_path / "made", {"a.jpg": []})
    (tmp_path / "made" / "images" / "a.jpg").unlink()
    text = refusal(find_dataset, str(path), tmp_path)
    assert "no folder beside" in text and "'a.jpg'" in text


# --- coco20k and its cache ---------------------------------------------------------------------------

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
        monkeypatch.setattr(datasets, "_read_coco", lambda path: pytest.fail("COCO's JSON was read"))

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


# --- what is not there -------------------------------------------------------------------------------


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
    assert "--data-root" in text and "LOST_REG_DATA" in text
    assert f"`lost-reg datasets --download {name} --data-root {tmp_path}` gets it" in text


def test_coco20k_without_annotations(coco20k):
    path = coco20k / "coco" / "annotations" / "instances_train2014.json"
    path.unlink()
    assert f"looked for {path}" in refusal(find_dataset, "coco20k", coco20k)


def test_samples_that_are_not_there_cannot_be_downloaded(tmp_path):
    text = refusal(find_dataset, "samples", tmp_path)
    assert "project's checkout" in text and "--download" not in text


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


def test_all_images_are_missing_without_their_folder(coco20k):
    for image in (coco20k / "coco" / "train2014").iterdir():
        image.unlink()
    (coco20k / "coco" / "train2014").rmdir()
    assert missing_images(find_dataset("coco20k", coco20k)) == list(NAMES)
