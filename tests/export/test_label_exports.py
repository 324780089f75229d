"""Labels of objects as categories, in every format that has some."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import yaml
from export_cases import export, prediction, with_masks
from helpers import names

from lost_reg.export.boxes import COLUMNS

LEFT, RIGHT = (0, 0, 50, 50), (100, 20, 180, 90)


def labelled(image, *labels, **facts):
    one = prediction(image, LEFT, RIGHT, **facts)
    return replace(
        one, objects=tuple(replace(found, label=label) for found, label in zip(one.objects, labels))
    )


@pytest.fixture
def found():
    return [labelled("a.jpg", "zebra: 1", "Größe"), labelled("b.jpg", "zebra: 1", None)]


def test_coco_has_a_category_for_each_label_in_sorted_order(tmp_path, found):
    export(tmp_path, found, "coco")
    content = json.loads((tmp_path / "out.json").read_text())
    categories = {one["id"]: one["name"] for one in content["categories"]}
    assert categories == {1: "Größe", 2: "object", 3: "zebra: 1"}
    assert [categories[one["category_id"]] for one in content["annotations"]] == [
        *("zebra: 1", "Größe", "zebra: 1", "object"),
    ]


@pytest.mark.parametrize("to", ["yolo", "yolo-seg"])
def test_yolo_has_numbers_and_their_names(tmp_path, found, to):
    export(tmp_path, found, to, images="none")
    out = tmp_path / "out"
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] == {
        0: "Größe",
        1: "object",
        2: "zebra: 1",
    }
    numbers = [
        line.split()[0] for stem in "ab" for line in (out / f"labels/{stem}.txt").read_text().splitlines()
    ]
    assert numbers == ["2", "0", "2", "1"]


def test_voc_names_each_object(tmp_path, found):
    export(tmp_path, found, "voc", images="none")
    tree = ElementTree.parse(tmp_path / "out/VOCdevkit/VOC2012/Annotations/a.xml")
    assert [one.findtext("name") for one in tree.findall("object")] == ["zebra: 1", "Größe"]


def test_csv_has_one_more_column(tmp_path, found):
    table = pytest.importorskip("pandas")
    export(tmp_path, found, "csv")
    table = table.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(table.columns) == [*COLUMNS, "label"]
    assert list(table["label"]) == ["zebra: 1", "Größe", "zebra: 1", ""]


def test_crops_are_in_a_folder_for_each_label(tmp_path, save_scene):
    save_scene(tmp_path / "photos/a.jpg", size_hw=(100, 200), box_xyxy=(10, 10, 50, 50))
    found = [labelled("a.jpg", "../a/b", "A_a_b")]
    export(tmp_path, found, root=tmp_path / "photos", crops=tmp_path / "crops")
    assert names(tmp_path / "crops") == ["A_a_b", "A_a_b/a_1.jpg", "a_b", "a_b/a_0.jpg", "crops.csv"]
    assert "a_b/a_0.jpg" in (tmp_path / "crops/crops.csv").read_text()


def test_filters_apply_before_categories(tmp_path, found):
    export(tmp_path, found, "coco", max_area=0.2)
    content = json.loads((tmp_path / "out.json").read_text())
    assert [one["name"] for one in content["categories"]] == ["zebra: 1"]


@pytest.mark.parametrize("to", ["coco", "yolo", "csv"])
def test_labels_change_nothing_else(tmp_path, to):
    plain = [with_masks(prediction("a.jpg", LEFT, RIGHT))]
    export(tmp_path / "plain", plain, to, **({"images": "none"} if to == "yolo" else {}))
    same = [replace(plain[0], objects=tuple(replace(one, label="object") for one in plain[0].objects))]
    export(tmp_path / "labelled", same, to, **({"images": "none"} if to == "yolo" else {}))
    texts = [read_all(tmp_path / name) for name in ("plain", "labelled")]
    if to == "csv":
        texts[1] = texts[1].replace(',"label"', "").replace(',"object"\n', "\n")
    assert texts[0] == texts[1]


def read_all(folder):
    files = sorted(path for path in folder.glob("out*/**/*" if (folder / "out").is_dir() else "out*"))
    return "".join(path.read_text() for path in files if path.is_file())
