"""The table of boxes."""

from __future__ import annotations

import pytest
from export_cases import export, prediction

pandas = pytest.importorskip("pandas")


def test_a_table_by_hand(tmp_path):
    export(
        tmp_path,
        [prediction("a.jpg", (0, 0, 100, 50), (0, 0, 200, 100)), prediction("b.jpg", (1, 2, 3, 4))],
        "csv",
    )
    first, second, third = pandas.read_csv(tmp_path / "out.csv").to_dict("records")
    assert list(first.values())[:8] == ["a.jpg", 200, 100, 0, 0, 0, 100, 50]
    assert first["area"] == 0.25 and first["degree"] == 19 / 199 and first["score"] == 0.5
    assert first["borders"] == 2 and pandas.isna(first["implausible"])
    assert second["object"] == 1 and second["implausible"] == "whole image" and second["borders"] == 4
    assert third["image"] == "b.jpg" and third["implausible"] == "single patch"


def test_a_method_without_scores_and_degrees(tmp_path):
    export(tmp_path, [prediction("a.jpg", (0, 0, 100, 50), score=None, degree=None)], "csv")
    assert pandas.read_csv(tmp_path / "out.csv")[["score", "degree"]].isna().all(axis=None)
