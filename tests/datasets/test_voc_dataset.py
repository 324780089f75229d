"""VOC: which images a dataset has, and its ground truth worked out by hand."""

from __future__ import annotations

import pytest
from helpers import refusal

from lost_reg.datasets.catalog import find_dataset
from lost_reg.datasets.voc import read_voc_truth


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
        voc_xml(size="<size><width>a</width><height>1</height></size>"),
        voc_xml("<object><name>dog</name></object>"),
        voc_xml(voc_object("", 1, 2, 3)),
        voc_xml(voc_object("one", 1, 2, 3)),
    ],
)
def test_malformed_voc_truth(tmp_path, text):
    path = tmp_path / "a.xml"
    path.write_text(text)
    assert refusal(read_voc_truth, path, "a.jpg").startswith(f"{path}: ")


def test_missing_voc_truth(tmp_path, make_voc):
    folder = make_voc(tmp_path / "mine", {"a": [("dog", 1, 1, 9, 9)], "b": []})
    (folder / "Annotations" / "b.xml").unlink()
    found = find_dataset(str(folder), tmp_path)
    expected = "1 of 2 images of mine has no annotation (b.jpg)"
    assert refusal(lambda: found.truths) == f"{expected}: `unannotated` leave-out scores the others"
    others = found.annotated()
    assert list(others.truths) == list(others.images) == ["a.jpg"]
    assert others.notes == (f"{expected}: left out",) and not found.notes


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
