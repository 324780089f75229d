"""VOC annotations of other tools: encodings, sizes, marks and boxes; and lists in other forms."""

from __future__ import annotations

import tracemalloc

import pytest
from helpers import refusal

from lost_reg.datasets.catalog import find_dataset
from lost_reg.datasets.voc import read_voc_truth

BOX = {"xmin": "11", "ymin": "21", "xmax": "40", "ymax": "60"}


def xml(size="<size><width>128</width><height>96</height></size>", name="dog", marks="", **sides) -> str:
    box = "".join(
        f"<{side}>{value}</{side}>" for side, value in {**BOX, **sides}.items() if value is not None
    )
    return f"<annotation>{size}<object><name>{name}</name>{marks}<bndbox>{box}</bndbox></object></annotation>"


@pytest.fixture
def truth(tmp_path):
    """A function that reads an annotation from its text or its bytes."""

    def read(content: str | bytes):
        (tmp_path / "a.xml").write_bytes(content.encode() if isinstance(content, str) else content)
        return read_voc_truth(tmp_path / "a.xml", "a.jpg")

    return read


@pytest.fixture
def refused(truth, tmp_path):
    """A function that gives the line that an annotation is refused by, without its path."""
    return lambda content: refusal(truth, content).removeprefix(f"{tmp_path / 'a.xml'}: ")


@pytest.mark.parametrize("encoding", ["gb2312", "GBK", "shift_jis", "big5", "utf-8", "UTF-16", "latin-1"])
def test_an_annotation_is_read_in_the_encoding_that_it_declares(truth, encoding):
    name = "café" if encoding == "latin-1" else "犬"
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n{xml(name=name)}'
    got = truth(text.encode(encoding))
    assert (got.labels, got.boxes_xyxy, got.size_hw) == ((name,), ((10, 20, 40, 60),), (96, 128))


def test_marks_of_encodings_and_a_declaration_that_is_wrong(truth):
    text = xml(name="犬")
    for content in (text.encode("utf-8-sig"), text.encode("utf-16"), f"\n {text}".encode()):
        assert truth(content).labels == ("犬",)
    assert truth(f'<?xml version="1.0" encoding="utf-16"?>{text}').labels == ("犬",)  # as .NET writes it


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "its encoding 'klingon' is unknown"),
        (b'<?xml version="1.0" encoding="rot13"?><annotation/>', "its encoding 'rot13' is unknown"),
        (xml(name="é").encode("latin-1"), "it is not UTF-8 text"),
        (b"\xff\xfea", "it is not UTF-16 text"),
        (b"", "it is not XML: no element found: line 1, column 0"),
        ("<html/>", "its root is <html> (expected <annotation>)"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotation/>", "it defines entities, which annotations do not need"),
    ],
)
def test_what_is_no_annotation_is_one_line(refused, content, said):
    assert refused(content) == f"image a.jpg: {said}"


@pytest.mark.parametrize(
    "size",
    ["", "<size/>", "<size><width>128</width></size>", "<size><height>96</height><depth>3</depth></size>"],
)
def test_the_size_may_be_left_out(truth, size):
    assert truth(xml(size)).size_hw is None


@pytest.mark.parametrize("width", ["128.0", " 128 ", "1.28e2", "128."])
def test_whole_numbers_written_in_other_ways(truth, width):
    assert truth(xml(f"<size><width>{width}</width><height>96</height></size>")).size_hw == (96, 128)


@pytest.mark.parametrize("width", ["0", "-1", "1.5", "wide", "", "nan", "9" * 400, "1e400", "1_28", "\uff11"])
def test_widths_that_are_none(refused, width):
    line = refused(xml(f"<size><width>{width}</width><height>96</height></size>"))
    assert line.startswith("image a.jpg: width is ")
    assert line.endswith("(expected a whole number from 1 to 100,000)")


@pytest.mark.parametrize(
    ("side", "shown"),
    [
        ("wide", '"wide"'), ("", '""'), (None, "missing"), ("nan", '"nan"'), ("1e400", "Infinity"),
        ("1e7", "10000000"), ("<x/>", '"<x>"'),
    ],
)  # fmt: skip
def test_sides_of_boxes_that_are_none(refused, side, shown):
    said = f"object 1 of image a.jpg: ymax is {shown} (expected a number up to 1,000,000)"
    assert refused(xml(ymax=side)) == said


def test_reversed_boxes_are_refused_and_those_without_area_are_not(truth, refused):
    assert truth(xml(xmax="10")).boxes_xyxy == ((10, 20, 10, 60),)
    assert "xmin and xmax are 11 and 9 (expected the smaller one first)" in refused(xml(xmax="9"))
    assert "ymin and ymax are 21 and 9" in refused(xml(ymax="9"))


@pytest.mark.parametrize(
    ("mark", "hard"),
    [("1", True), ("true", True), ("1.0", True), ("0", False), ("", False), ("False", False)],
)
def test_marks_by_value(truth, refused, mark, hard):
    for name in ("difficult", "truncated"):
        got = truth(xml(marks=f"<{name}>{mark}</{name}>"))
        assert got.hard == (hard,) and got.difficult == (hard and name == "difficult",)
        assert f"{name} is " in refused(xml(marks=f"<{name}>Unspecified {mark}</{name}>"))


# --- lists -------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path, make_voc):
    """A function that gives the images of a folder whose trainval.txt has this content."""
    folder = make_voc(tmp_path / "mine", {stem: [("dog", 1, 1, 9, 9)] for stem in ("a", "b", "c.1", "d 1")})

    def images(content: str, encoding="utf-8"):
        (folder / "ImageSets" / "Main" / "trainval.txt").write_bytes(content.encode(encoding))
        found = find_dataset(str(folder), tmp_path)
        assert list(found.truths) == list(found.images)
        return found.images

    return images


@pytest.mark.parametrize(
    "content",
    [
        "b\na\n",
        "b.jpg\na.JPG\n",
        "JPEGImages/b.jpg\nJPEGImages/a\n",
        "JPEGImages\\b.jpg\r\n\r\n  a  ",
        "/home/someone/VOC2007/JPEGImages/b.jpg\n./a.jpg",
        "D:\\photos\\b.jpg\n../../a.jpg",
        "b.png\na",
    ],
)
def test_images_are_listed_by_stem_name_or_path(listed, content):
    assert listed(content) == ("b.jpg", "a.jpg")


def test_stems_with_dots_and_spaces(listed):
    assert listed("c.1\nd 1\n") == listed("c.1.jpg\nd 1.jpg\n") == ("c.1.jpg", "d 1.jpg")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_mark(listed, encoding):
    assert listed("b\na\n", encoding) == ("b.jpg", "a.jpg")


def test_lists_of_a_class_and_repeated_images_are_refused(listed):
    line = refusal(listed, "a\nb -1\n")
    assert "trainval.txt, line 2: 'b -1' is of a class's list: expected a name alone" in line
    assert refusal(listed, "a\nb\nJPEGImages/a.jpg\n").endswith("trainval.txt lists images twice: a")


def test_a_list_may_name_folders(tmp_path, make_voc, save_scene):
    folder = make_voc(tmp_path / "mine", {"a": [("dog", 1, 1, 9, 9)], "sub/b": [("dog", 1, 1, 9, 9)]})
    found = find_dataset(str(folder), tmp_path)
    assert found.images == tuple(found.truths) == ("a.jpg", "sub/b.jpg")


def test_images_of_one_stem_are_refused(tmp_path, make_voc, save_scene):
    folder = make_voc(tmp_path / "mine", {"a": [], "b": []})
    save_scene(folder / "JPEGImages" / "a.PNG")
    assert "share one stem, and so one annotation: a.PNG, a.jpg" in refusal(
        find_dataset, str(folder), tmp_path
    )


def test_annotations_may_end_in_capitals(tmp_path, make_voc):
    folder = make_voc(tmp_path / "mine", {"a": [("dog", 1, 1, 9, 9)]})
    (folder / "Annotations" / "a.xml").rename(folder / "Annotations" / "a.XML")
    assert find_dataset(str(folder), tmp_path).truths["a.jpg"].labels == ("dog",)


def test_only_objects_right_below_the_root_count_and_the_size_may_come_last(truth):
    inner = "<part><name>head</name><object><name>no</name></object></part>"
    annotated = xml(size="", marks=inner).replace(
        "</annotation>", "<group><object><name>no</name></object></group><size><width>9</width>"
        "<height>8</height></size><size><width>1</width><height>1</height></size></annotation>"
    )  # fmt: skip
    got = truth(annotated)
    assert (got.labels, got.size_hw) == (("dog",), (8, 9))


def test_memory_does_not_grow_with_what_the_parser_makes_of_objects(truth):
    one = xml(size="").removeprefix("<annotation>").removesuffix("</annotation>")
    content = f"<annotation>{10_000 * one}</annotation>"
    truth(content)
    tracemalloc.start()
    got = truth(content)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(got.boxes_xyxy) == 10_000
    assert most < 5 * len(content)  # the text, its bytes and the boxes; a tree of it takes 9 times as much
