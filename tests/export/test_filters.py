"""Which boxes are left out."""

from __future__ import annotations

import pytest
from export_cases import BOXES, export, prediction, read_back, read_csv
from helpers import names, refusal

from lost_reg.export.boxes import Filters
from lost_reg.export.formats import FORMATS
from lost_reg.export.run_export import summary_lines

pandas = pytest.importorskip("pandas")


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
        ({"min_score": 0.3}, ["some", "many"]),
        ({"min_score": 0.31}, ["many"]),
        ({"min_score": -1.0}, ["few", "some", "many"]),
        ({"min_score": 0.3, "max_degree": 0.3}, ["some"]),
    ],
)
def test_filters_of_patches(tmp_path, limits, kept):
    found = [
        prediction("few", BOXES["plain"], degree=10, score=-0.1),
        prediction("some", BOXES["plain"], degree=40, score=0.3),
        prediction("many", BOXES["plain"], degree=100, score=0.9),
    ]
    export(tmp_path, found, "csv", **limits)
    assert list(read_csv(tmp_path / "out.csv")) == kept


@pytest.mark.parametrize("to", FORMATS)
def test_images_in_which_nothing_was_found_are_left_out(tmp_path, to):
    found = [prediction("a.jpg"), prediction("b.jpg", BOXES["plain"])]
    summary = export(tmp_path, found, to)
    assert list(read_back(tmp_path, to, found)) == ["b.jpg"]
    assert (summary.tally.images, summary.tally.without_box, summary.tally.dropped) == (1, 1, {})
    assert summary_lines(summary)[1:] == ["left out: 1 image without a box"]


def test_further_objects_keep_their_number(tmp_path, save_scene):
    save_scene(tmp_path / "photos/a.jpg")
    found = [prediction("a.jpg", BOXES["whole"], BOXES["plain"], BOXES["patch"], BOXES["small"])]
    summary = export(
        tmp_path, found, "csv", root=tmp_path / "photos", drop_implausible=True, crops=tmp_path / "crops"
    )
    table = pandas.read_csv(tmp_path / "out.csv")
    assert list(table["object"]) == [1, 3]
    assert (summary.tally.images, summary.tally.boxes, summary.tally.without_box) == (1, 2, 0)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("min_area", value) for value in (-0.1, 1.1, float("nan"))),
        *(("max_area", value) for value in (-0.1, 1.1, float("nan"))),
        *(("max_degree", value) for value in (-0.1, 1.1, float("nan"))),
        ("min_score", float("nan")),  # every other number may be a score
        *(("max_borders", value) for value in (-1, 5)),
    ],
)
def test_limits_out_of_range(name, value):
    assert f"`{name}`" in refusal(Filters, **{name: value})


@pytest.mark.parametrize("limit, signal", [("min_score", "score"), ("max_degree", "degree")])
def test_a_limit_on_what_the_method_does_not_give(tmp_path, limit, signal):
    found = [prediction("a.jpg", BOXES["plain"], **{signal: None})]
    line = refusal(export, tmp_path, found, "csv", **{limit: 0.1})
    assert f"gives no {signal}" in line and f"`{limit}`" in line
    assert not (tmp_path / "out.csv").exists()


def test_no_box_left(tmp_path):
    line = refusal(export, tmp_path, [prediction("a.jpg", BOXES["whole"])], "voc", drop_implausible=True)
    assert "1 whole image" in line and "loosen" in line
    assert names(tmp_path) == ["run", "run/errors.jsonl", "run/predictions.jsonl", "run/run.json"]
    assert "no boxes" in refusal(export, tmp_path / "2", [], "csv")
    assert "no boxes" in refusal(export, tmp_path / "3", [prediction("a.jpg")], "csv")
