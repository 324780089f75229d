"""Exported files are read back by the programs they are for, keep the boxes, and do no harm."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import pickletools
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import names, refusal, write_predictions
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.datasets import VOCDetection

from lost_reg.boxes import whole_pixels
from lost_reg.cli.app import main
from lost_reg.datasets.catalog import find_dataset
from lost_reg.export.boxes import COLUMNS, Filters
from lost_reg.export.export import ExportOptions, ExportSummary, export_run, summary_lines, warnings
from lost_reg.export.files import PICTURES, Stems
from lost_reg.export.formats import FORMATS
from lost_reg.images.reading import read_image
from lost_reg.scoring.prediction_files import read_boxes
from lost_reg.types import FoundObject, Prediction

pandas = pytest.importorskip("pandas")
yaml = pytest.importorskip("yaml")

DOCS = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def prediction(image, *boxes, size_hw=(100, 200), grid_hw=(10, 20), degree=19, affinity=0.5):
    """An image with a box, and further ones."""
    first, *further = boxes
    return Prediction(
        image, size_hw, first, (0, 0), grid_hw, degree, affinity,
        tuple(FoundObject(box, (1, 1), degree, affinity) for box in further),
    )  # fmt: skip


def export(tmp: Path, predictions, to=None, *, failures=(), root=None, run=None, **options) -> ExportSummary:
    """Export predictions to tmp/out, with the suffix of the format."""
    folder = write_predictions(tmp / "run", predictions, failures, root=root, **(run or {}))
    out = tmp / f"out{FORMATS[to].suffix}" if to else None
    filters = Filters(**{name: options.pop(name) for name in list(options) if hasattr(Filters, name)})
    return export_run(folder, ExportOptions(to, out, filters=filters, **options))


# --- readers -----------------------------------------------------------------------------------------
# Each gives {image: boxes xyxy} for the files that `export` wrote.


def read_csv(out: Path) -> dict:
    table = pandas.read_csv(out)
    assert list(table.columns) == list(COLUMNS)
    boxes: dict = {}
    for line in table.to_dict("records"):
        assert line["object"] == len(boxes.setdefault(line["image"], []))
        boxes[line["image"]].append(tuple(line[side] for side in ("xmin", "ymin", "xmax", "ymax")))
    return boxes


def load_coco(out: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(out))


def read_coco(out: Path) -> dict:
    coco = load_coco(out)
    boxes = {}
    for image in coco.loadImgs(coco.getImgIds()):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]], iscrowd=False))
        corners = ((x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in found))
        boxes[image["file_name"]] = list(corners)
    return boxes


def read_yolo(out: Path, sizes: dict) -> dict:
    """By the rules that Ultralytics publishes: of data.yaml, of the list, and of where labels lie."""
    settings = yaml.safe_load((out / "data.yaml").read_text())
    assert settings["names"] == {0: "object"} and settings["train"] == settings["val"]
    top = Path(out, settings.get("path", "."))
    images = [line.replace("./", f"{top}/", 1) for line in (top / settings["train"]).read_text().splitlines()]
    assert all(
        image.rpartition(".")[2] in ("bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp") for image in images
    )
    called = {str(out / line["file"]): line["image"] for line in table_of(out / "names.csv")}
    boxes = {}
    for image in images:
        labels = Path("/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
        rows = np.array([line.split() for line in labels.read_text().splitlines()], dtype=np.float64)
        assert rows.shape[1] == 5 and not rows[:, 0].any() and rows.min() >= 0 and rows.max() <= 1
        height, width = sizes[called[image]]
        centre, half = rows[:, 1:3] * (width, height), rows[:, 3:] * (width, height) / 2
        boxes[called[image]] = [tuple(box) for box in np.hstack([centre - half, centre + half])]
    assert len({Path(image).stem for image in images}) == len(images)  # as supervision has it
    return boxes


def read_voc(out: Path, sizes: dict) -> dict:
    """By torchvision; and our own reader finds the same."""
    dataset = VOCDetection(out, year="2012", image_set="trainval")
    called = {Path(line["file"]).stem: line["image"] for line in table_of(out / "names.csv")}
    ours = find_dataset(str(out / "VOCdevkit" / "VOC2012"), out).truths
    boxes = {}
    for path in map(Path, dataset.annotations):
        target = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        assert target["filename"] == f"{path.stem}.jpg"
        sides = [
            [int(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            for one in target["object"]
        ]
        boxes[called[path.stem]] = [(xmin - 1, ymin - 1, xmax, ymax) for xmin, ymin, xmax, ymax in sides]
        truth = ours[f"{path.stem}.jpg"]
        assert list(truth.boxes_xyxy) == boxes[called[path.stem]] and not any(truth.hard)
        assert truth.size_hw == sizes[called[path.stem]]
    return boxes


def read_lost(out: Path) -> dict:
    """By our reader, which executes nothing; and as LOST's scripts do."""
    assert not {"GLOBAL", "STACK_GLOBAL", "REDUCE"} & {
        op.name for op, *_ in pickletools.genops(out.read_bytes())
    }
    boxes = read_boxes(out)
    content = pickle.loads(out.read_bytes())
    assert {name: tuple(np.asarray(box)) for name, box in content.items()} == boxes
    return {name: [box] for name, box in boxes.items()}


def table_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_back(tmp: Path, to: str, predictions) -> dict:
    out = tmp / f"out{FORMATS[to].suffix}"
    if to in ("yolo", "voc"):
        read = {"yolo": read_yolo, "voc": read_voc}[to]
        return read(out, {escaped(one.image): one.size_hw for one in predictions})
    return {"csv": read_csv, "coco": read_coco, "lost": read_lost}[to](out)


def escaped(name: str) -> str:
    """A name as tables have it, which are UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


# --- boxes -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("to", FORMATS)
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
    if to == "yolo":
        assert list(found) == list(expected)
        for name, boxes in expected.items():
            np.testing.assert_allclose(found[name], boxes, atol=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("to", FORMATS)
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
        np.testing.assert_allclose(found, boxes, rtol=1e-9, atol=1e-4 if to == "yolo" else 0)


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


def test_a_table_by_hand(tmp_path):
    export(
        tmp_path,
        [prediction("a.jpg", (0, 0, 100, 50), (0, 0, 200, 100)), prediction("b.jpg", (1, 2, 3, 4))],
        "csv",
    )
    first, second, third = pandas.read_csv(tmp_path / "out.csv").to_dict("records")
    assert list(first.values())[:8] == ["a.jpg", 200, 100, 0, 0, 0, 100, 50]
    assert first["area"] == 0.25 and first["degree"] == 19 / 199 and first["affinity"] == 0.5
    assert first["borders"] == 2 and pandas.isna(first["implausible"])
    assert second["object"] == 1 and second["implausible"] == "whole image" and second["borders"] == 4
    assert third["image"] == "b.jpg" and third["implausible"] == "single patch"


def test_affinities_that_were_not_recorded(tmp_path):
    export(tmp_path, [prediction("a.jpg", (0, 0, 100, 50), affinity=None)], "csv")
    assert pandas.read_csv(tmp_path / "out.csv")["affinity"].isna().all()
    export(tmp_path / "2", [prediction("a.jpg", (0, 0, 100, 50), affinity=None)], "coco")
    (box,) = load_coco(tmp_path / "2/out.json").dataset["annotations"]
    assert box["affinity"] is None and box["score"] == 1


# --- COCO --------------------------------------------------------------------------------------------


def test_coco_by_hand(tmp_path):
    export(
        tmp_path,
        [prediction("b.jpg", (10, 20, 40, 60), affinity=-0.2), prediction("a.jpg", (0, 0, 9, 9))],
        "coco",
    )
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["images"][0] == {"id": 1, "file_name": "b.jpg", "width": 200, "height": 100}
    assert content["categories"] == [{"id": 1, "name": "object", "supercategory": "object"}]
    assert content["annotations"][0] == {
        **{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 20, 30, 40], "area": 1200},
        **{"score": 0, "object": 0, "area_share": 0.06, "degree_share": 19 / 199, "affinity": -0.2},
        **{"borders": 0, "implausible": None},
    }
    assert content["annotations"][1]["id"] == 2 and content["annotations"][1]["image_id"] == 2


def test_cocoeval_takes_it_as_truth_and_as_results(tmp_path):
    export(
        tmp_path, [prediction(f"{n}.jpg", (10, 20, 40 + n, 60), (100, 0, 180, 90)) for n in range(3)], "coco"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "out.json"))
        results = truth.loadRes(json.loads((tmp_path / "out.json").read_text())["annotations"])
        scored = COCOeval(truth, results, "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] == pytest.approx(1)


def test_ids_are_those_of_the_coco_dataset(tmp_path, make_coco):
    dataset = make_coco(tmp_path / "coco", {"x.jpg": [], "y.jpg": [], "z.jpg": []})
    found = [prediction("z.jpg", (0, 0, 9, 9)), prediction("x.jpg", (0, 0, 9, 9))]
    for to in ("coco", "lost"):
        assert warnings(export(tmp_path, found, to, run={"dataset": str(dataset)})) == []
        (tmp_path / "run/run.json").unlink()
        (tmp_path / "run/predictions.jsonl").unlink()
    assert sorted(load_coco(tmp_path / "out.json").imgs) == [1, 3]
    assert list(read_boxes(tmp_path / "out.pkl")) == ["3", "1"]


def test_ids_of_coco20k(tmp_path):
    found = [prediction("COCO_train2014_000000560992.jpg", (0, 0, 9, 9))]
    export(tmp_path, found, "coco", run={"dataset": "coco20k"})
    assert list(load_coco(tmp_path / "out.json").imgs) == [560992]
    export(tmp_path / "2", found, "lost", run={"dataset": "coco20k"})
    assert list(read_boxes(tmp_path / "2/out.pkl")) == ["560992"]


@pytest.mark.parametrize("dataset", ["gone.json", "coco20k"])
def test_ids_that_nothing_tells(tmp_path, dataset):
    summary = export(tmp_path, [prediction("a_b.jpg", (0, 0, 9, 9))], "coco", run={"dataset": dataset})
    assert list(load_coco(tmp_path / "out.json").imgs) == [1]
    assert dataset in warnings(summary)[0]


# --- filters -----------------------------------------------------------------------------------------

BOXES = {  # of an image of 100 x 200 pixels in 10 x 20 patches, and what they are
    "plain": (20, 20, 120, 70),  # a quarter of it
    "small": (20, 20, 60, 40),  # 4 %
    "corner": (0, 0, 100, 50),  # two borders
    "whole": (0, 0, 200, 100),
    "patch": (50, 50, 60, 60),
    "strip": (0, 0, 200, 10),
}


@pytest.mark.parametrize(
    "limits, kept, dropped",
    [
        ({}, ["plain", "small", "corner", "whole", "patch", "strip"], {}),
        (
            {"drop_implausible": True},
            ["plain", "small", "corner"],
            {"whole image": 1, "single patch": 1, "border strip": 1},
        ),
        ({"min_area": 0.04}, ["plain", "small", "corner", "whole", "strip"], {"area below 0.04": 1}),
        ({"min_area": 0.041}, ["plain", "corner", "whole", "strip"], {"area below 0.041": 2}),
        ({"max_area": 0.25}, ["plain", "small", "corner", "patch", "strip"], {"area above 0.25": 1}),
        ({"max_area": 0.249}, ["small", "patch", "strip"], {"area above 0.249": 3}),
        ({"max_borders": 2}, ["plain", "small", "corner", "patch"], {"borders above 2": 2}),
        ({"max_borders": 0}, ["plain", "small", "patch"], {"borders above 0": 3}),
        (
            {"drop_implausible": True, "max_borders": 1, "min_area": 0.05},
            ["plain"],
            {
                **{"whole image": 1, "single patch": 1, "border strip": 1},
                **{"area below 0.05": 1, "borders above 1": 1},
            },
        ),
    ],
)
def test_filters_of_shape(tmp_path, limits, kept, dropped):
    summary = export(tmp_path, [prediction(name, box) for name, box in BOXES.items()], "csv", **limits)
    assert list(read_csv(tmp_path / "out.csv")) == kept
    assert summary.tally.dropped == dropped
    assert (summary.tally.images, summary.tally.boxes) == (len(kept), len(kept))
    assert summary.tally.without_box == len(BOXES) - len(kept)
    kinds = {"whole": "whole image", "patch": "single patch", "strip": "border strip"}
    assert summary.tally.implausible == {kind: 1 for name, kind in kinds.items() if name in kept}


@pytest.mark.parametrize(
    "limits, kept",
    [
        ({"max_degree": 40 / 199}, ["few", "some"]),
        ({"max_degree": 39.9 / 199}, ["few"]),
        ({"min_affinity": 0.3}, ["some", "many"]),
        ({"min_affinity": 0.31}, ["many"]),
        ({"min_affinity": -1.0}, ["few", "some", "many"]),
        ({"min_affinity": 0.3, "max_degree": 0.3}, ["some"]),
    ],
)
def test_filters_of_patches(tmp_path, limits, kept):
    found = [
        prediction("few", BOXES["plain"], degree=10, affinity=-0.1),
        prediction("some", BOXES["plain"], degree=40, affinity=0.3),
        prediction("many", BOXES["plain"], degree=100, affinity=0.9),
    ]
    export(tmp_path, found, "csv", **limits)
    assert list(read_csv(tmp_path / "out.csv")) == kept


def test_further_objects_keep_their_number(tmp_path):
    found = [prediction("a.jpg", BOXES["whole"], BOXES["plain"], BOXES["patch"], BOXES["small"])]
    summary = export(tmp_path, found, "csv", drop_implausible=True, crops=tmp_path / "crops")
    table = pandas.read_csv(tmp_path / "out.csv")
    assert list(table["object"]) == [1, 3]
    assert (summary.tally.images, summary.tally.boxes, summary.tally.without_box) == (1, 2, 0)


def test_lost_has_room_for_one_box(tmp_path):
    found = [
        prediction("a.jpg", BOXES["whole"], BOXES["plain"], BOXES["small"]),
        prediction("b.jpg", BOXES["small"]),
    ]
    summary = export(tmp_path, found, "lost", drop_implausible=True)
    assert read_lost(tmp_path / "out.pkl") == {"a.jpg": [BOXES["plain"]], "b.jpg": [BOXES["small"]]}
    assert summary.further == 1
    assert "left out: 1 boxes beyond one in an image" in summary_lines(summary)[-1]


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "lost"])
def test_images_without_a_box_left_are_left_out(tmp_path, to):
    found = [prediction("a.jpg", BOXES["whole"]), prediction("b.jpg", BOXES["plain"])]
    summary = export(tmp_path, found, to, drop_implausible=True)
    back = read_back(tmp_path, to, found)
    assert list(back) == ["b.jpg"]
    np.testing.assert_allclose(back["b.jpg"], [BOXES["plain"]], atol=1e-4)
    assert summary.tally.without_box == 1


@pytest.mark.parametrize(
    "name, value",
    [
        *(("min_area", value) for value in (-0.1, 1.1, float("nan"))),
        *(("max_area", value) for value in (-0.1, 1.1, float("nan"))),
        *(("max_degree", value) for value in (-0.1, 1.1, float("nan"))),
        *(("min_affinity", value) for value in (-1.1, 1.1, float("nan"))),
    ],
)
def test_limits_out_of_range(name, value):
    assert f"--{name.replace('_', '-')}" in refusal(Filters, **{name: value})


def test_a_limit_on_what_was_not_recorded(tmp_path):
    found = [prediction("a.jpg", BOXES["plain"], affinity=None)]
    assert "--min-affinity" in refusal(export, tmp_path, found, "csv", min_affinity=0.1)
    assert not (tmp_path / "out.csv").exists()


def test_no_box_left(tmp_path):
    line = refusal(export, tmp_path, [prediction("a.jpg", BOXES["whole"])], "voc", drop_implausible=True)
    assert "1 whole image" in line and "loosen" in line
    assert names(tmp_path) == ["run", "run/errors.jsonl", "run/predictions.jsonl", "run/run.json"]
    assert "no boxes" in refusal(export, tmp_path / "2", [], "csv")


# --- names -------------------------------------------------------------------------------------------

HOSTILE = [
    *("a/x.jpg", "b/x.jpg", "x.png", "x.jpg", "X.jpg", "x.JPG", "a_x.jpg", "x_png.jpg", "x-2.jpg"),
    *("../../evil.jpg", "/etc/passwd", "..", ".", "-rf.jpg", ".hidden.jpg", "no suffix", "a/../../b.jpg"),
    *("new\nline.jpg", "cr\r.jpg", 'comma,"quote".jpg', "<&>]]>.jpg", "{}: #'.jpg", "tab\t\x1b[31m.jpg"),
    *(os.fsdecode(b"\xff\xfe.jpg"), "\ud800.jpg", "ünï çødé/图.jpg", "\N{PARTY POPPER}.jpg", "\N{EYES}.jpg"),
    *(
        "shard-000.tar/key.jpg",
        "l" * 250 + ".jpg",
        "long/" * 100 + "图" * 100 + ".jpg",
        "%s{0}.jpg",
        "\\..\\w.jpg",
    ),
    *("./images/y.jpg", "labels/images/z.webp", "nul\0.jpg"),
]


@pytest.mark.parametrize("to", FORMATS)
def test_hostile_names_do_no_harm(tmp_path, to):
    found = [prediction(name, (n, 0, n + 20, 30)) for n, name in enumerate(HOSTILE)]
    summary = export(tmp_path / "top", found, to, root=tmp_path / "images", crops=tmp_path / "top/crops")
    assert {path.name for path in tmp_path.iterdir()} == {"top"}
    assert {path.name for path in (tmp_path / "top").iterdir()} == {
        "run",
        "crops",
        f"out{FORMATS[to].suffix}",
    }
    back = read_back(tmp_path / "top", to, found)
    in_tables = to in ("csv", "yolo", "voc")
    assert list(back) == [escaped(name) if in_tables else name for name in HOSTILE]
    for box, one in zip(back.values(), found):
        np.testing.assert_allclose(box, [one.box_xyxy], atol=1e-4)
    assert summary.not_cropped.count == len(HOSTILE)
    assert len(names(tmp_path / "top/crops")) == 1  # the table alone


def test_files_outside_of_the_root_are_not_taken(tmp_path, save_scene):
    save_scene(tmp_path / "secret.jpg")
    (tmp_path / "images").mkdir()
    found = [prediction(name, (0, 0, 9, 9)) for name in ("../secret.jpg", str(tmp_path / "secret.jpg"))]
    summary = export(tmp_path, found, "yolo", root=tmp_path / "images", images="copy")
    assert names(tmp_path / "out/images") == [] and summary.not_linked.count == 2


@given(st.lists(st.text(max_size=6) | st.text("ab./_-A", max_size=8), max_size=30))
def test_stems_are_plain_and_no_two_alike(images):
    first, second = Stems(), Stems()
    stems = [first.of(image) for image in images]
    assert stems == [second.of(image) for image in images]
    assert len({stem.casefold() for stem in stems}) == len(stems)
    for stem in stems:
        assert stem and stem[0] not in "." and not set(stem) & set("/\\\n\r\0 <&\"'")
        assert len(stem.encode()) < 200 and stem.isprintable()


def test_stems_by_hand():
    stems = Stems()
    images = (
        "x.jpg",
        "x.png",
        "x.png",
        "x.png",
        "a/x.jpg",
        "a_x.jpg",
        "a.b/c  d.jpg",
        "??.jpg",
        "!!.jpg",
        "..",
    )
    assert [stems.of(image) for image in images] == [
        *("x", "x_png", "x_png-2", "x_png-3", "a_x", "a_x_jpg", "a.b_c_d", "image", "jpg", "image-2"),
    ]


def test_many_images_of_one_name_take_no_longer():
    stems = Stems()
    assert (
        len({stems.of("\N{GRINNING FACE}") for _ in range(20_000)}) == 20_000
    )  # 0.1 s; a square would be hours


# --- pictures ----------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, save_scene):
    """Three images of 96 x 128 pixels, and what was found in them and in two that are not there."""
    root = tmp_path / "photos"
    save_scene(root / "a.jpg")
    save_scene(root / "sub/a.png", seed=1)
    save_scene(root / "B.JPEG", seed=2)
    listed = ("a.jpg", "sub/a.png", "B.JPEG", "gone.jpg", "shard-0.tar/key.jpg")
    found = [
        prediction(name, (32, 16, 96, 64), (0, 1, 20, 30.2), size_hw=(96, 128), grid_hw=(6, 8))
        for name in listed
    ]
    return root, found


@pytest.mark.parametrize("images", PICTURES)
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
    summary = export(tmp_path, found[:3], "voc", root=root, image_root=tmp_path / "moved/photos")
    assert summary.not_linked.count == 0
    assert (tmp_path / "out/VOCdevkit/VOC2012/JPEGImages/a.jpg").is_file()
    line = refusal(export, tmp_path / "2", found, "voc", image_root=tmp_path / "nowhere")
    assert "no such folder" in line


def test_links_hold_from_a_relative_root(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(Path("deep/er"), photos[1][:1], "yolo", image_root=Path("photos"))
    assert (tmp_path / "deep/er/out/images/a.jpg").is_file()


# --- crops -------------------------------------------------------------------------------------------


def test_crops_are_the_pixels_of_the_boxes(tmp_path, photos):
    root, found = photos
    summary = export(tmp_path, found, root=root, crops=tmp_path / "crops")
    assert names(tmp_path / "crops") == [
        *("B_0.jpg", "B_1.jpg", "a_0.jpg", "a_1.jpg", "crops.csv", "sub_a_0.png", "sub_a_1.png"),
    ]
    pixels = read_image(root / "sub/a.png", apply_exif=False)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "crops/sub_a_0.png")), pixels[16:64, 32:96])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "crops/sub_a_1.png")), pixels[1:30, 0:20])
    jpeg = Image.open(tmp_path / "crops/B_0.jpg")
    assert (jpeg.format, jpeg.size) == ("JPEG", (64, 48))
    table = pandas.read_csv(tmp_path / "crops/crops.csv")
    assert list(table.columns) == ["file", *COLUMNS]
    assert list(table["file"]) == ["a_0.jpg", "a_1.jpg", "sub_a_0.png", "sub_a_1.png", "B_0.jpg", "B_1.jpg"]
    assert list(table["xmax"]) == [96, 20] * 3
    assert summary.not_cropped.count == 2
    assert "2 of 5 images gave no crops: gone.jpg (no file of that name), shard" in warnings(summary)[0]


def test_thin_boxes_give_crops_too(tmp_path, photos):
    root, _ = photos
    export(
        tmp_path,
        [prediction("a.jpg", (5, 9.6, 5.3, 20), size_hw=(96, 128))],
        root=root,
        crops=tmp_path / "crops",
    )
    assert Image.open(tmp_path / "crops/a_0.jpg").size == (1, 10)


def test_images_that_changed_since_are_counted(tmp_path, photos, save_scene):
    root, found = photos
    (root / "a.jpg").write_text("no image any more")
    save_scene(root / "sub/a.png", size_hw=(128, 96), box_xyxy=(1, 1, 9, 9))
    progress = []
    folder = write_predictions(tmp_path / "run", found[:3], root=root)
    summary = export_run(
        folder, ExportOptions(crops=tmp_path / "crops"), lambda *counts: progress.append(counts)
    )
    assert names(tmp_path / "crops") == ["B_0.jpg", "B_1.jpg", "crops.csv"]
    (line,) = warnings(summary)
    assert "2 of 3" in line and "a.jpg (not an image" in line and "sub/a.png (of another size" in line
    assert progress == [(0, 1, 3), (0, 2, 3), (1, 2, 3)]


@pytest.mark.parametrize("apply_exif", [False, True])
def test_crops_are_turned_as_the_run_did(tmp_path, photos, apply_exif):
    root, _ = photos
    picture = Image.open(root / "sub/a.png")
    exif = picture.getexif()
    exif[0x0112] = 6  # upright when turned by 90 degrees
    picture.save(root / "turned.png", exif=exif)
    size_hw = (128, 96) if apply_exif else (96, 128)
    found = [prediction("turned.png", (10, 20, 40, 80), size_hw=size_hw)]
    export(tmp_path, found, root=root, crops=tmp_path / "crops", run={"apply_exif": apply_exif})
    pixels = np.asarray(picture)
    upright = np.rot90(pixels, -1) if apply_exif else pixels
    crop = np.asarray(Image.open(tmp_path / "crops/turned_0.png"))
    assert np.array_equal(crop, upright[20:80, 10:40])


# --- all or nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_export_leaves_nothing(tmp_path, photos, monkeypatch, error, to):
    root, found = photos
    before = set(names(tmp_path))

    def save(*args, **kwargs):
        raise error

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(BaseException) as caught:
        export(tmp_path, found, to, root=root, crops=tmp_path / "crops")
    assert "No space left" in str(caught.value) or caught.type is KeyboardInterrupt
    left = set(names(tmp_path)) - before
    assert {name.split("/")[0] for name in left} == {"run"}
    assert (root / "a.jpg").is_file()  # what was linked is not deleted


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten(tmp_path, photos, to):
    root, found = photos
    export(tmp_path, found, to, root=root)
    folder, out = tmp_path / "run", tmp_path / f"out{FORMATS[to].suffix}"
    before = names(out) if out.is_dir() else out.read_bytes()
    assert "name another" in refusal(export_run, folder, ExportOptions(to, out))
    assert before == (names(out) if out.is_dir() else out.read_bytes())
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/mine.txt").touch()
    assert "name another" in refusal(export_run, folder, ExportOptions(crops=tmp_path / "crops"))


@pytest.mark.parametrize("to", FORMATS)
def test_empty_targets_are_taken(tmp_path, photos, to):
    out = tmp_path / f"out{FORMATS[to].suffix}"
    out.touch() if FORMATS[to].suffix else out.mkdir()
    export(tmp_path, photos[1], to)
    read_back(tmp_path, to, photos[1])


def test_targets_that_cannot_be(tmp_path, photos):
    folder = write_predictions(tmp_path / "run", photos[1])
    (tmp_path / "file").touch()
    (tmp_path / "x.json").mkdir()
    for to, out, said in (
        ("coco", "out.txt", ".json"),
        ("lost", "out.json", ".pkl"),
        ("csv", "out", ".csv"),
        ("coco", "x.json", "is a folder"),
        ("yolo", "file", "there already"),
        ("csv", "file/x.csv", "cannot write"),
        ("voc", "file/x", "cannot write"),
    ):
        assert said in refusal(export_run, folder, ExportOptions(to, tmp_path / out))
    for out, crops in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        options = ExportOptions("yolo", tmp_path / out, crops=tmp_path / crops)
        assert "in one another" in refusal(export_run, folder, options)
    assert names(tmp_path / "run") == ["errors.jsonl", "predictions.jsonl", "run.json"]
    assert not (tmp_path / "a").exists()


def test_folders_are_as_others_may_read_them(tmp_path, photos):
    before = os.umask(0o022)
    try:
        export(tmp_path, photos[1], "yolo")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def lost_reg():
    """Run `lost-reg ARGS...` in this process."""
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_the_command_says_what_it_wrote(lost_reg, tmp_path, photos):
    root, found = photos
    strip = prediction("strip.jpg", (0, 0, 128, 8), size_hw=(96, 128), grid_hw=(6, 8))
    run = write_predictions(tmp_path / "run", [*found, strip], ["bad.jpg"], root=root)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "images": 9}))
    options = ("--max-area", 0.3, "--images", "copy", "--crops", tmp_path / "crops")
    result = lost_reg("export", run, "--to", "voc", "-o", tmp_path / "voc", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "11 boxes of 6 images; implausible among them: 0 whole image, 0 single patch, 1 border strip",
        "left out: 1 images that the run could not use, 2 images that the run has not done",
        f"written: {tmp_path / 'voc'}, {tmp_path / 'crops'}",
    ]
    linked, crops = result.stderr.splitlines()
    assert linked.startswith(
        "Warning: 3 of 6 images are not there as files: gone.jpg (no file of that name), shard"
    )
    assert crops.startswith("Warning: 3 of 6 images gave no crops: gone.jpg (no file of that name), shard")
    result = lost_reg(
        "export", run, "--to", "csv", "-o", tmp_path / "x.csv", "--drop-implausible", "--min-area", 0.1
    )
    assert result.stdout.splitlines() == [
        "5 boxes of 5 images; implausible among them: 0 whole image, 0 single patch, 0 border strip",
        "dropped: 6 boxes (5 area below 0.1, 1 border strip)",
        "left out: 1 images without a box left, 1 images that the run could not use, "
        "2 images that the run has not done",
        f"written: {tmp_path / 'x.csv'}",
    ]


def test_every_filter_reaches_the_library(lost_reg, tmp_path):
    run = write_predictions(tmp_path / "run", [prediction(name, box) for name, box in BOXES.items()])
    for number, (option, value, dropped) in enumerate((
        ("--drop-implausible", None, "1 whole image"), ("--min-area", 0.05, "2 area below 0.05"),
        ("--max-area", 0.5, "1 area above 0.5"), ("--max-degree", 0, None), ("--min-affinity", 0.6, None),
        ("--max-borders", 3, "1 borders above 3"),
    )):  # fmt: skip
        arguments = [option] if value is None else [option, value]
        result = lost_reg("export", run, "--to", "csv", "-o", tmp_path / f"{number}.csv", *arguments)
        if dropped:
            assert dropped in result.stdout
        else:
            assert "no box of" in result.stderr and result.exit_code == 1


@pytest.mark.parametrize(
    "arguments, exit_code, said",
    [
        ((), 2, "--to, or a folder with --crops"),
        (("--to", "coco"), 2, "--out"),
        (("--out", "x.json"), 2, "--to"),
        (("--to", "coco", "--out", "x.json", "--images", "copy"), 2, "yolo and voc"),
        (("--crops", "c", "--images", "link"), 2, "yolo and voc"),
        (("--to", "tfrecord", "--out", "x"), 2, "tfrecord"),
        (("--to", "csv", "--out", "x.csv", "--max-borders", "5"), 2, "--max-borders"),
        (("--to", "csv", "--out", "x.csv", "--min-area", "30"), 1, "--min-area"),
        (("--to", "csv", "--out", "x.csv", "--min-area", "nan"), 1, "--min-area"),
        (("--to", "csv", "--out", "x.txt"), 1, ".csv"),
    ],
)
def test_refusals_are_one_line(lost_reg, tmp_path, monkeypatch, arguments, exit_code, said):
    monkeypatch.chdir(tmp_path)
    write_predictions(tmp_path / "run", [prediction("a.jpg", (0, 0, 9, 9))])
    result = lost_reg("export", "run", *arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == exit_code and line.startswith("Error: ") and said in line
    assert names(tmp_path) == ["run", "run/errors.jsonl", "run/predictions.jsonl", "run/run.json"]


def test_folders_without_a_run(lost_reg, tmp_path):
    result = lost_reg("export", tmp_path / "nowhere", "--to", "csv", "--out", tmp_path / "x.csv")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and "no run in" in line


def test_hostile_names_stay_on_one_line(lost_reg, tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("a\nError: \x1b[31m\udcff.jpg", (0, 0, 9, 9))])
    result = lost_reg("export", run, "--crops", tmp_path / "c\nd")
    assert len(result.stdout.splitlines()) == 2 and len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.output


def test_torch_is_not_imported(tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("a.jpg", (0, 0, 9, 9))])
    code = (
        "import sys\n"
        "from lost_reg.cli.app import main\n"
        f"try: main(['export', {str(run)!r}, '--to', 'coco', '--out', {str(tmp_path / 'x.json')!r}])\n"
        "finally: print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_the_choices_of_the_command_are_those_of_the_library():
    choices = {option.name: option.type for option in main.commands["export"].params}
    assert tuple(choices["to"].choices) == tuple(FORMATS)
    assert tuple(choices["images"].choices) == PICTURES


# --- supervision, and the docs -----------------------------------------------------------------------


@pytest.fixture
def upright(photos):
    """Of `photos` what is there, in two files of one folder, as supervision wants them."""
    root, found = photos
    return root, [one for one in found if one.image in ("a.jpg", "B.JPEG")]


def test_the_three_lines_of_the_docs(tmp_path, upright, monkeypatch, capsys):
    pytest.importorskip("supervision")
    root, found = upright
    export(tmp_path, found, "coco", root=root)
    (tmp_path / "out.json").rename(tmp_path / "photos.json")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    assert len(block.split("\n\n")) == 2 and len(block.splitlines()) == 4  # three, and an empty one
    content: dict = {}
    exec(block, content)
    assert content["path"] == str(root / "B.JPEG") and content["image"].shape == (96, 128, 3)
    np.testing.assert_allclose(
        content["detections"].xyxy, [box.box_xyxy for box in found[1].objects], atol=1e-5
    )
    assert capsys.readouterr().out.count("[[") == 2


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


def test_the_commands_of_the_docs_parse():
    commands = re.findall(r"^\$ lost-reg (.*)$", DOCS, flags=re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        name, *arguments = shlex.split(command)
        main.commands[name].make_context(name, arguments)


def test_every_option_and_column_is_described():
    options = {
        option for one in main.commands["export"].params for option in one.opts if option.startswith("--")
    }
    assert options <= set(re.findall(r"--[a-z-]+", DOCS))
    assert {f"`{column}`" for column in COLUMNS} <= set(re.findall(r"`[a-z]+`", DOCS))
