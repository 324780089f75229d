"""Every format is read back by the programs it is for, keeps the boxes, and is not harmed by names."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from export_cases import BOXES, HOSTILE, MASK_FORMATS, escaped, export, prediction, read_back
from helpers import names
from hypothesis import given, settings
from hypothesis import strategies as st

from lost_reg.boxes import whole_pixels
from lost_reg.export.formats import FORMATS, Format
from lost_reg.files import leads_out

BOX_FORMATS = [to for to in FORMATS if to not in MASK_FORMATS]
SHARES = "yolo", "fiftyone"  # formats of boxes as shares of the image


@st.composite
def images_with_boxes(draw, coordinates):
    height, width = draw(st.tuples(st.integers(2, 3000), st.integers(2, 3000)))

    def span(length):
        return sorted(draw(st.lists(coordinates(0, length), min_size=2, max_size=2, unique=True)))

    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        (xmin, xmax), (ymin, ymax) = span(width), span(height)
        boxes.append((xmin, ymin, xmax, ymax))
    return (height, width), boxes


def fractions(least, most):
    return st.floats(least, most, allow_subnormal=False)


@pytest.mark.parametrize("to", BOX_FORMATS)
@given(drawn=st.lists(images_with_boxes(st.integers), min_size=1, max_size=4))
@settings(max_examples=15)
def test_whole_boxes_are_kept(to, drawn):
    predictions = [prediction(f"{n}.jpg", *boxes, size_hw=size) for n, (size, boxes) in enumerate(drawn)]
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder), predictions, to)
        found = read_back(Path(folder), to, predictions)
    expected = {one.image: [one.box_xyxy for one in one.objects] for one in predictions}
    if to == "lost":
        expected = {name: boxes[:1] for name, boxes in expected.items()}
    if to in SHARES:
        assert list(found) == list(expected)
        for name, boxes in expected.items():
            np.testing.assert_allclose(found[name], boxes, atol=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("to", BOX_FORMATS)
@given(drawn=images_with_boxes(fractions))
@settings(max_examples=15)
def test_boxes_of_scaled_images_are_kept_as_well_as_the_format_can(to, drawn):
    size_hw, boxes = drawn
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder), [prediction("a.png", *boxes, size_hw=size_hw)], to)
        (found,) = read_back(Path(folder), to, [prediction("a.png", *boxes, size_hw=size_hw)]).values()
    if to == "voc":
        assert found == [whole_pixels(box, size_hw) for box in boxes]
    else:
        boxes = boxes[:1] if to == "lost" else boxes
        np.testing.assert_allclose(found, boxes, rtol=1e-9, atol=1e-4 if to in SHARES else 0)


@pytest.mark.parametrize(
    "box, expected",
    [
        ((3, 4, 10, 20), (3, 4, 10, 20)),
        ((2.6, 4.4, 9.6, 19.7), (3, 4, 10, 20)),
        ((4.4, 0, 4.45, 30), (4, 0, 5, 30)),  # of one pixel at least
        ((39.8, 29.9, 40, 30), (39, 29, 40, 30)),  # and inside
        ((-0.4, -3, 40.2, 31), (0, 0, 40, 30)),
    ],
)
def test_whole_pixels(box, expected):
    assert whole_pixels(box, (30, 40)) == expected


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "lost"])
def test_images_without_a_box_left_are_left_out(tmp_path, to):
    found = [prediction("a.jpg", BOXES["whole"]), prediction("b.jpg", BOXES["plain"])]
    summary = export(tmp_path, found, to, drop_implausible=True)
    back = read_back(tmp_path, to, found)
    assert list(back) == ["b.jpg"]
    np.testing.assert_allclose(back["b.jpg"], [BOXES["plain"]], atol=1e-4)
    assert summary.tally.without_box == 1


@pytest.mark.parametrize("to", FORMATS)
def test_hostile_names_do_no_harm(tmp_path, save_scene, to):
    hostile = [name for name in HOSTILE if not leads_out(name)]
    save_scene(tmp_path / "images" / hostile[0], size_hw=(99, 99))  # another size: it gives no crop
    found = [prediction(name, (n, 0, n + 20, 30)) for n, name in enumerate(hostile)]
    summary = export(tmp_path / "top", found, to, root=tmp_path / "images", crops=tmp_path / "top/crops")
    assert {path.name for path in tmp_path.iterdir()} == {"top", "images"}
    assert {path.name for path in (tmp_path / "top").iterdir()} == {
        "run",
        "crops",
        f"out{FORMATS[to].suffix}",
    }
    back = read_back(tmp_path / "top", to, found)
    in_tables = to in ("csv", "yolo", "voc", "fiftyone", *MASK_FORMATS)
    assert list(back) == [escaped(name) if in_tables else name for name in hostile]
    for box, one in zip(back.values(), found):
        np.testing.assert_allclose(box, [one.box_xyxy], atol=1e-4)
    assert summary.not_cropped.count == len(hostile)
    assert len(names(tmp_path / "top/crops")) == 1  # the table alone


@pytest.mark.parametrize("to", ["coco", "csv", "lost"])
def test_formats_without_images_take_any_name(tmp_path, to):
    found = [prediction(name, (n, 0, n + 20, 30)) for n, name in enumerate(HOSTILE)]
    export(tmp_path / "top", found, to)
    assert {path.name for path in tmp_path.iterdir()} == {"top"}
    assert len(read_back(tmp_path / "top", to, found)) == len(HOSTILE)


def test_a_new_format_is_a_row(tmp_path, monkeypatch):
    def write_names(export, path):
        path.write_text("".join(f"{image.name} {len(image.boxes)}\n" for image in export.images))

    monkeypatch.setitem(FORMATS, "names", Format(".txt", write_names))
    found = [prediction("a.jpg", (0, 0, 9, 9), (0, 0, 20, 20)), prediction("b.jpg", (0, 0, 9, 9))]
    export(tmp_path, found, "names")
    assert (tmp_path / "out.txt").read_text() == "a.jpg 2\nb.jpg 1\n"
