"""A COCO file is checked as a whole: ids of one type, repeated ones, orphans, and every field by name."""

from __future__ import annotations

import json

import pytest
from helpers import refusal

from lost_reg.datasets.catalog import find_dataset
from lost_reg.datasets.coco_file import read_coco_file
from lost_reg.runs.sources import source_of_dataset


@pytest.fixture
def coco(tmp_path, make_coco):
    """A function that writes a COCO file of four images, changed, and returns its path.

    Annotation 1 is of a.jpg; 2 of b.jpg, 3 of c.jpg; 4 of c.jpg, too.
    """

    def write(change=lambda content: None, encoding="utf-8"):
        box = (10, 20, 30, 40, 0)
        path = make_coco(tmp_path, {"a.jpg": [box], "b.jpg": [box], "c.jpg": [box, box], "d.jpg": []})
        content = json.loads(path.read_text())
        change(content)
        path.write_bytes(json.dumps(content).encode(encoding))
        return path

    return write


def annotation(index, **fields):
    return lambda content: content["annotations"][index].update(fields)


def image(index, **fields):
    return lambda content: content["images"][index].update(fields)


def boxes(path) -> dict[str, int]:
    return {
        name: len(truth.boxes_xyxy) for name, truth in find_dataset(str(path), path.parent).truths.items()
    }


ALL = {"a.jpg": 1, "b.jpg": 1, "c.jpg": 2, "d.jpg": 0}


@pytest.mark.parametrize("image_id", [2, 2.0, "2", "2.0", " 2 "])
def test_an_id_is_the_same_whatever_its_type(coco, image_id):
    path = coco(annotation(1, image_id=image_id))
    assert boxes(path) == ALL and read_coco_file(path).notes == ()
    path = coco(image(1, id=image_id))
    assert boxes(path) == ALL
    assert find_dataset(str(path), path).truths["b.jpg"].image_id == "2"


def test_ids_that_are_texts(coco):
    def name_images(content):
        for one in content["images"]:
            one["id"] = f"00{one['id']}"
        for one in content["annotations"]:
            one["image_id"] = f"00{one['image_id']}"

    assert boxes(coco(name_images)) == ALL
    path = coco(lambda content: (name_images(content), content["annotations"][0].update(image_id=1)))
    assert read_coco_file(path).notes == (
        "instances.json: 1 of 4 annotations belong to no listed image: ids 1",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (image(1, id="1"), "several images have the id 1"),
        (image(1, id=1.0), "several images have the id 1"),
        (image(1, file_name="a.jpg"), "several images have the file_name a.jpg"),
        (annotation(1, id="1"), "several annotations have the id 1"),
        (
            lambda content: content["categories"].append({"id": "1", "name": "x"}),
            "several categories have the id 1",
        ),
    ],
)
def test_repeated_identities_are_named(coco, change, said):
    path = coco(change)
    assert refusal(find_dataset, str(path), path) == f"{path}: {said}"


def test_annotations_need_no_ids(coco):
    def without_ids(content):
        for one in content["annotations"]:
            one.pop("id")

    assert boxes(coco(without_ids)) == ALL
    path = coco(lambda content: (without_ids(content), annotation(2, bbox=None)(content)))
    assert f"{path}: the annotation at index 2 of image c.jpg: bbox is null" in refusal(read_coco_file, path)


def test_orphans_are_counted_and_said(coco):
    def disown(content):
        for index, image_id in ((0, 77), (2, "x"), (3, 77)):
            content["annotations"][index]["image_id"] = image_id

    path = coco(disown)
    note = "instances.json: 3 of 4 annotations belong to no listed image: ids 77, x"
    assert find_dataset(str(path), path).notes == (note,)
    assert boxes(path) == {"a.jpg": 0, "b.jpg": 1, "c.jpg": 0, "d.jpg": 0}


def test_unknown_categories_are_said(coco):
    path = coco(annotation(0, category_id=9))
    found = find_dataset(str(path), path)
    assert found.truths["a.jpg"].labels == ("",)
    assert found.notes == ("instances.json: 1 of 4 annotations have no listed category: ids 9",)
    path = coco(lambda content: content.pop("categories"))
    assert find_dataset(str(path), path).notes == ()


@pytest.mark.parametrize(
    "mark", [1, 1.0, True, "1", "1.0", "true", "True", 0, 0.0, False, "0", "false", None]
)
def test_crowds_by_value(coco, mark):
    path = coco(annotation(0, iscrowd=mark))
    assert boxes(path)["a.jpg"] == (mark not in (1, "1", "1.0", "true", "True"))


@pytest.mark.parametrize("mark", [2, -1, "", "no", [0], {}])
def test_other_marks_of_crowds_are_refused(coco, mark):
    path = coco(annotation(0, iscrowd=mark))
    line = f"{path}: annotation 1 of image a.jpg: iscrowd is {json.dumps(mark)} (expected 0 or 1)"
    assert refusal(read_coco_file, path) == line


@pytest.mark.parametrize(
    ("bbox", "shown"),
    [
        ([], "[]"),
        (None, "null"),
        ("1, 2, 3, 4", '"1, 2, 3, 4"'),
        ([1, 2, 3], "[1, 2, 3]"),
        (["1", 2, 3, 4], '["1", 2, 3, 4]'),
        ([True, 2, 3, 4], "[true, 2, 3, 4]"),
        ([float("nan"), 2, 3, 4], "[NaN, 2, 3, 4]"),
        ([float("-inf"), 2, 3, 4], "[-Infinity, 2, 3, 4]"),
        ([1e7, 2, 3, 4], "[10000000.0, 2, 3, 4]"),
        ([10**400, 2, 3, 4], f"[1{'0' * 35}..."),
    ],
)
def test_a_box_that_is_none_is_one_line(coco, bbox, shown):
    path = coco(annotation(2, bbox=bbox))
    expected = "[x, y, width, height], numbers up to 1,000,000"
    line = f"{path}: annotation 3 of image c.jpg: bbox is {shown} (expected {expected})"
    assert refusal(find_dataset, str(path), path) == line


def test_boxes_without_area_are_legal_and_negative_ones_are_not(coco):
    path = coco(annotation(0, bbox=[10, 20, 0, 40]))
    assert find_dataset(str(path), path).truths["a.jpg"].boxes_xyxy == ((10, 20, 10, 60),)
    path = coco(annotation(0, bbox=[10, 20, -1, 40]))
    assert "bbox is [10, 20, -1, 40] (expected [x, y, width, height], width" in refusal(read_coco_file, path)


def test_a_missing_box_of_a_crowd_does_not_matter(coco):
    path = coco(lambda content: (annotation(0, iscrowd=1)(content), content["annotations"][0].pop("bbox")))
    assert boxes(path)["a.jpg"] == 0


@pytest.mark.parametrize("value", [0, -5, 1.5, "96", [96], True, 10**400, float("nan"), 100_001])
@pytest.mark.parametrize("side", ["height", "width"])
def test_sizes_out_of_range_are_one_line(coco, side, value):
    path = coco(image(2, **{side: value}))
    assert refusal(read_coco_file, path).startswith(f"{path}: image 3, c.jpg: {side} is ")


def test_sizes_too_large_together(coco):
    path = coco(image(2, height=100_000, width=100_000))
    assert "image 3, c.jpg: height x width are 100000 x 100000" in refusal(read_coco_file, path)


@pytest.mark.parametrize("fields", [{"height": None}, {"width": None}, {"height": None, "width": None}])
def test_a_size_that_is_not_given(coco, fields):
    path = coco(image(0, **fields))
    found = find_dataset(str(path), path)
    assert found.truths["a.jpg"].size_hw is None and found.truths["b.jpg"].size_hw == (96, 128)
    assert found.with_sizes({"a.jpg": (7, 8)}, ["a.jpg"]).truths["a.jpg"].size_hw == (7, 8)
    assert found.with_sizes({}, ["a.jpg"]).truths["a.jpg"].size_hw == (96, 128)  # from the image
    (found.root / "a.jpg").write_bytes(b"no image")
    assert found.with_sizes({}, ["a.jpg"]).truths["a.jpg"].size_hw is None
    (found.root / "a.jpg").unlink()
    assert "the size of a.jpg is not known" in refusal(found.with_sizes, {}, ["a.jpg"])
    assert found.with_sizes({}, ["b.jpg"]) is found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (image(1, id=None), "the image at index 1: id is null (expected a whole number or a text)"),
        (image(1, id=1.5), "the image at index 1: id is 1.5 (expected"),
        (image(1, id=True), "the image at index 1: id is true (expected"),
        (image(1, file_name=5), "image 2: file_name is 5 (expected the path of an image)"),
        (image(1, file_name=" "), 'image 2: file_name is " " (expected'),
        (annotation(1, image_id=None), "annotation 2: image_id is null (expected"),
        (annotation(1, image_id=10**400), "annotation 2: image_id is 1000"),
        (annotation(1, id=[1]), "the annotation at index 1: id is [1] (expected"),
        (annotation(1, category_id=[1]), "annotation 2 of image b.jpg: category_id is [1] (expected"),
        (lambda content: content["categories"][0].pop("name"), "the category at index 0: name is missing"),
        (lambda content: content["categories"][0].pop("id"), "the category at index 0: id is missing"),
    ],
)
def test_other_fields_are_named(coco, change, said):
    path = coco(change)
    assert refusal(read_coco_file, path).startswith(f"{path}: {said}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_encodings(coco, encoding):
    assert boxes(coco(encoding=encoding)) == ALL


def test_what_is_no_text_is_one_line(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes('{"images": [{"id": 1, "file_name": "é.jpg"}]}'.encode("latin-1"))
    line = f"{str(path)!r} is not a COCO annotation file: it is not UTF-8 text"
    assert refusal(read_coco_file, path) == line


def test_a_file_that_only_lists_images_is_not_scored(coco):
    path = coco(lambda content: content.pop("annotations"))
    found = find_dataset(str(path), path)
    assert found.images == tuple(ALL)
    assert "has no annotations: it only lists images" in refusal(lambda: found.truths)


# --- where the images are ----------------------------------------------------------------------------


def names_with(prefix):
    return lambda content: [one.update(file_name=prefix + one["file_name"]) for one in content["images"]]


@pytest.mark.parametrize("prefix", ["D:\\data\\", "/home/someone/data/", "..\\..\\", "../", "val2017/"])
def test_names_of_another_machine_are_tried_by_their_last_part(coco, prefix):
    path = coco(names_with(prefix))
    found = find_dataset(str(path), path)
    assert found.root == path.parent / "images" and found.images == tuple(ALL)
    assert boxes(path) == ALL


def test_backslashes_are_slashes_where_that_is_a_file(coco):
    path = coco(names_with("sub\\"))
    (path.parent / "images" / "sub").mkdir()
    for name in ALL:
        (path.parent / "images" / name).rename(path.parent / "images" / "sub" / name)
    other = path.parent / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"")
    found = find_dataset(str(path), path)
    assert (found.root, found.images) == (path.parent / "images", tuple(f"sub/{name}" for name in ALL))


def test_two_names_that_end_alike_are_not_guessed(coco):
    path = coco(
        lambda content: (image(0, file_name="x/b.jpg")(content), image(1, file_name="y/b.jpg")(content))
    )
    found = find_dataset(str(path), path)
    assert found.images == ("x/b.jpg", "y/b.jpg", "c.jpg", "d.jpg")
    line = refusal(source_of_dataset, found)
    assert f"2 of 4 images found in {found.root}, without x/b.jpg, y/b.jpg;" in line


def test_the_folder_with_the_most_images_is_taken(coco):
    path = coco()
    few = path.parent / "a few"
    few.mkdir()
    (path.parent / "images" / "a.jpg").rename(few / "a.jpg")  # the first of the list
    assert find_dataset(str(path), path).root == path.parent / "images"


def test_a_file_may_end_in_capitals(coco):
    path = coco()
    other = path.rename(path.with_name("Instances.JSON"))
    assert boxes(other) == ALL
