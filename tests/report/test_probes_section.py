"""The probes of a report: their scores, where these are drawn, and a damaged file."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from probe_cases import column, write_case
from report_cases import charts_of, drawn, page_of, rows_of, ticks_of

from lost_reg.cli.app import main

RIGHT = column(*[1] * 16, *[0] * 4)


def test_scores_stand_in_a_table_and_are_drawn_where_they_are(tmp_path):
    rows = {("cls", "logistic", "top1"): RIGHT, ("outlier", "logistic", "top1"): None}
    write_case(tmp_path / "results" / "<b>", rows, label="dino <i>")
    text = page_of(tmp_path)
    first, second = rows_of(text, "Scores of cifar10: classes")
    assert first[:6] == ["&lt;b&gt;", "dino &lt;i&gt;", "cls", "logistic", "top-1", "80.0"]
    assert second[5] == "3 images"
    (chart,) = charts_of(text)
    label = chart.get("aria-label")
    assert label.startswith("top-1 of cifar10: classes: dino <i>: cls, logistic 80.0, 95 % interval ")
    ((x, _),) = drawn(chart, label.split("classes: ", 1)[1])[0]
    assert x == pytest.approx(ticks_of(chart, "x")["80"], abs=0.5)


def test_errors_of_depth_are_in_their_unit(tmp_path):
    depths = column(*np.linspace(0.25, 0.75, 5))
    write_case(tmp_path / "results" / "a", {("patches", "linear", "rmse"): depths}, task="depth", classes=0)
    (row,) = rows_of(page_of(tmp_path), "Scores of cifar10: depth")
    assert row[4:6] == ["RMSE", "0.500"]


def test_a_damaged_probe_is_a_note_and_the_others_are_shown(tmp_path):
    for name in ("good", "bad"):
        write_case(tmp_path / "results" / name, {("cls", "knn", "top1"): RIGHT})
    (tmp_path / "results" / "bad" / "probe.json").write_text("{}")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "bad/probe.json does not hold a probe" in result.stderr
    assert result.stdout.startswith("1 probe: open ")
    assert len(rows_of((tmp_path / "out" / "index.html").read_text(), "Scores of cifar10: classes")) == 1


def test_where_there_is_nothing_else_its_own_error_is_shown(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "probe.json").write_text("{}")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "results"), "--out", str(tmp_path / "page")])
    assert result.exit_code == 1 and "probe.json does not hold a probe" in result.stderr
