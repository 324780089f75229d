"""The sweeps of a report: where the points of curves stand, what the tables say, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from artifact_cases import write_artifacts_file
from helpers import setting
from report_cases import (
    charts_of,
    drawn,
    keys_of,
    page_of,
    rows_of,
    ticks_of,
    two_runs,
    write_recorded,
    write_settings,
    write_sweep,
)

from lost_reg.discovery.methods import preset_setting, with_changes
from lost_reg.errors import LostRegError
from lost_reg.report.loading import load_sweeps
from lost_reg.scoring.found_boxes import REGISTER_KINDS, register_kind
from lost_reg.scoring.sweep_text import read_scores, write_scores


def test_scores_that_were_written_are_read_again(tmp_path):
    scores = write_sweep(tmp_path / "sweep", normalize=(False, True))
    assert read_scores(tmp_path / "sweep") == scores


def test_curves_stand_where_their_numbers_are(tmp_path):
    write_sweep(tmp_path / "results" / "sweep")
    text = page_of(tmp_path)
    assert "<figcaption>dinov2_vits14 on voc07 trainval: k, raw</figcaption>" in text
    (chart,) = charts_of(text)
    at = {float(tick): x for tick, x in ticks_of(chart, "x").items() if tick not in ("bias", "auto")}
    scale = (ticks_of(chart, "y")["0"] - ticks_of(chart, "y")["50"]) / 50
    bottom = drawn(chart, "dinov2_vits14, layer -1")[0][0][1]  # 0 percent

    def place(bias, corloc):
        return pytest.approx((at[bias], bottom - scale * corloc), abs=0.1)

    (line,) = drawn(chart, "dinov2_vits14, layer -2")
    at[-0.5] = (at[-1.0] + at[0.0]) / 2
    assert line == [place(-1, 20), place(-0.5, 40), place(0, 10)]
    (line,) = drawn(chart, "dinov2_vits14, layer -1")
    assert line == [place(-1, 0), place(-0.5, 30), place(0, 25)]
    at["auto"] = ticks_of(chart, "x")["auto"]
    assert at["auto"] > at[0.0]
    for title, *expected in (
        ("dinov2_vits14, layer -1: 50.0", "auto", 50),
        ("chosen on other images: dinov2_vits14, layer -2, bias -0.5: 40.0", -0.5, 40),
        ("best in hindsight: dinov2_vits14, layer -1, bias auto: 50.0", "auto", 50),
    ):
        assert drawn(chart, title) == [[place(*expected)]], title
    assert {"layer -2", "layer -1", "chosen on other images", "best in hindsight"} <= set(keys_of(chart))
    lines = re.findall(r"layer -\d</title><path [^>]*stroke=\"([^\"]+)\"", text)
    assert len(lines) == len(set(lines)) == 2


def test_a_sweep_over_another_option_than_the_bias_is_drawn_over_that(tmp_path):
    options = [{"k_patches": k, "layer": layer} for layer in (-2, -1) for k in (10, 100, 1000)]
    write_settings(tmp_path / "results" / "sweep", options)
    text = page_of(tmp_path)
    (chart,) = charts_of(text)
    assert chart.get("aria-label").endswith("CorLoc over k_patches; the values are in the table below")
    (line,) = drawn(chart, "dinov2_vits14, layer -2")
    assert len(line) == 3 and line[1][0] - line[0][0] == pytest.approx(
        (line[2][0] - line[0][0]) / 11, abs=0.1
    )
    (rows,) = (rows_of(text, label) for label in re.findall(r'aria-label="(CorLoc over[^"]*)">', text))
    assert rows == [["10", "0.0", "15.0"], ["100", "5.0", "20.0"], ["1000", "10.0", "25.0"]]


def test_the_bias_is_on_the_axis_whatever_else_varies(tmp_path):
    options = [{"bias": bias, "k_patches": k} for bias in (-0.2, 0.0) for k in (10, 100, 1000)]
    write_settings(tmp_path / "results" / "sweep", options)
    charts = charts_of(page_of(tmp_path))
    assert charts and all("CorLoc over bias;" in chart.get("aria-label") for chart in charts)


def test_a_sweep_of_nothing_that_can_be_drawn_over_is_a_table(tmp_path):
    write_settings(tmp_path / "results" / "sweep", [{"facet": facet} for facet in "kqv"])
    text = page_of(tmp_path)
    assert charts_of(text) == [] and text.count("<details open>") == 3
    titles = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert titles == [f"dinov2_vits14 on voc07 trainval: {facet}, raw, bias 0" for facet in "kqv"]
    assert rows_of(text, f"CorLoc over settings, {titles[1]}") == [["CorLoc", "5.0"]]


def test_a_sweep_of_layers_alone_is_drawn_over_the_layers(tmp_path):
    write_settings(tmp_path / "results" / "sweep", [{"layer": layer} for layer in (-3, -2, -1)])
    text = page_of(tmp_path)
    (chart,) = charts_of(text)
    (line,) = drawn(chart, "dinov2_vits14")
    assert len(line) == 3 and not any(key.startswith("layer ") for key in keys_of(chart))
    (values,) = [rows_of(text, label) for label in re.findall(r'aria-label="(CorLoc over [^"]*)">', text)]
    assert values == [["-3", "0.0"], ["-2", "5.0"], ["-1", "10.0"]]


def test_a_sweep_of_a_method_that_is_not_installed_is_drawn_over_its_option(tmp_path):
    features = setting().recorded()["features"]
    settings = [{"method": "cut", "features": features, "options": {"tau": tau}} for tau in (0.1, 0.2, 0.4)]
    write_recorded(tmp_path / "results" / "sweep", settings, method="cut")
    text = page_of(tmp_path)
    (chart,) = charts_of(text)
    assert chart.get("aria-label").startswith("dinov2_vits14 on voc07 trainval: k, raw: CorLoc over tau")
    assert rows_of(text, "Table of sweeps")[2][2:4] == ["best in hindsight", "k of layer -1, raw, tau 0.4"]


def test_each_method_of_a_sweep_has_panels_of_its_own(tmp_path):
    settings = [setting(bias=bias).recorded() for bias in (-0.2, 0.0)]
    cuts = [with_changes(preset_setting("tokencut"), {"tau": tau}).recorded() for tau in (0.1, 0.2, 0.4)]
    settings += [*cuts, preset_setting("spread").recorded()]
    write_recorded(tmp_path / "results" / "1", settings, method=None)
    write_settings(tmp_path / "results" / "2", [{"bias": bias} for bias in (-0.5, 0.0)])
    text = page_of(tmp_path)
    titles = re.findall("<figcaption>(.*?)</figcaption>", text)
    name = "dinov2_vits14 on voc07 trainval: "
    assert titles == [f"{name}{one}" for one in ("LOST, k, raw", "TokenCut, k", "Spread, qkv, raw", "k, raw")]
    lost, cut, alone = charts_of(text)
    assert "CorLoc over bias;" in lost.get("aria-label") and "CorLoc over tau;" in cut.get("aria-label")
    assert [len(drawn(chart, "dinov2_vits14, layer -1")[0]) for chart in (lost, cut, alone)] == [2, 3, 2]
    assert rows_of(text, f"CorLoc over tau, {titles[1]}") == [
        ["0.1", "10.0"],
        ["0.2", "15.0"],
        ["0.4", "20.0"],
    ]
    assert rows_of(text, f"CorLoc over settings, {titles[2]}") == [["CorLoc", "25.0"]]
    assert [row[2:4] for row in rows_of(text, "Table of sweeps")][:6] == [
        ["chosen on 10 other images (one of 6 that tie)", "LOST: k of layer -1, raw, bias 0"],
        ["mean of the 6 that tie there", ""],
        ["best in hindsight", "Spread: qkv of layer -1, raw"],
        ["LOST as published", "LOST: k of layer -1, raw, bias 0"],
        ["TokenCut as published", "TokenCut: k of layer -1, tau 0.2"],
        ["Spread as published", "Spread: qkv of layer -1, raw"],
    ]


def test_all_values_and_the_choice_are_in_tables(tmp_path):
    write_sweep(tmp_path / "results" / "sweep")
    text = page_of(tmp_path)
    assert rows_of(text, "CorLoc over bias, dinov2_vits14 on voc07 trainval: k, raw") == [
        ["-1", "20.0", "0.0"],
        ["-0.5", "40.0", "30.0"],
        ["0", "10.0", "25.0"],
        ["auto", "-", "50.0"],
    ]
    assert [row[2:5] for row in rows_of(text, "Table of sweeps")] == [
        ["chosen on 10 other images", "k of layer -2, raw, bias -0.5", "40.0"],
        ["best in hindsight", "k of layer -1, raw, bias auto", "50.0"],
        ["LOST as published", "k of layer -1, raw, bias 0", "25.0"],
    ]


def test_baselines_are_lines_across_and_rows(tmp_path):
    scores = write_sweep(tmp_path / "results" / "sweep")
    write_scores(replace(scores, found_centred=7, found_whole=5))
    text = page_of(tmp_path)
    (chart,) = charts_of(text)
    scale = ticks_of(chart, "y")
    for name, corloc in (("centred box", 35.0), ("whole image", 25.0)):
        (line,) = drawn(chart, f"{name}: {corloc}")
        expected = scale["0"] - (scale["0"] - scale["50"]) * corloc / 50
        assert [y for _, y in line] == pytest.approx([expected] * 2, abs=0.1) and line[0][0] < line[1][0]
        assert name in keys_of(chart)
    rows = rows_of(text, "Table of sweeps")[-2:]
    assert [(row[2], row[4]) for row in rows] == [("centred box", "35.0"), ("whole image", "25.0")]


def test_a_choice_among_settings_that_cannot_be_told_apart_has_a_note(tmp_path):
    scores = write_sweep(tmp_path / "results" / "sweep")
    write_scores(replace(scores, alike=6))
    line = "6 of 7 settings, the chosen one included, cannot be told apart on these 10 images"
    assert f"<li>dinov2_vits14 on voc07 trainval: {line}" in page_of(tmp_path)


@pytest.mark.parametrize("names", [("dinov2_vits14",), ("dinov2_vits14", "dinov2_vits14_reg")], ids=str)
def test_conditions_are_said_in_captions_and_rows(names, tmp_path):
    """Of one sweep by its label; of two in one chart, what both have."""
    for name in names:
        scores = write_sweep(
            tmp_path / "results" / name, backbone=name, precision="bf16", label=f"{name} (bf16)"
        )
        write_scores(replace(scores, conditions=("bf16",)))
    text = page_of(tmp_path)
    assert "<figcaption>dinov2_vits14 (bf16) on voc07 trainval: k, raw</figcaption>" in text
    assert {row[2] for row in rows_of(text, "Table of sweeps")} == {
        "chosen on 10 other images", "best in hindsight", "LOST as published, but at bf16",
    }  # fmt: skip


def test_models_with_and_without_registers_share_a_panel(tmp_path):
    added = {"test_time_registers": {"count": 1, "rule": "paper", "neurons": [[5, 94]]}}
    results = tmp_path / "results"
    write_sweep(results / "1", normalize=(False, True))
    write_sweep(results / "2", backbone="dinov2_vits14_reg", normalize=(False, True))
    write_sweep(results / "3", label="dinov2_vits14 (1 test-time register)", **added)
    write_sweep(results / "4", label="again")  # of the same kind: in a panel of its own
    write_sweep(results / "5", backbone="dinov2_vits14_reg", precision="bf16", label="bf16")
    write_sweep(results / "6", backbone="tiny")
    text = page_of(tmp_path)
    titles = re.findall("<figcaption>(.*?)</figcaption>", text)
    charts = charts_of(text)
    assert [
        (title, [kind for kind in REGISTER_KINDS.values() if kind in keys_of(chart)])
        for title, chart in zip(titles, charts, strict=True)
    ] == [
        ("dinov2_vits14 on voc07 trainval: k, raw", list(REGISTER_KINDS.values())),
        ("dinov2_vits14 on voc07 trainval: k, normalised", ["without registers", "with registers"]),
        ("again on voc07 trainval: k, raw", []),
        ("bf16 on voc07 trainval: k, raw", []),
        ("tiny on voc07 trainval: k, raw", []),
    ]
    for name in ("dinov2_vits14", "dinov2_vits14_reg", "dinov2_vits14 (1 test-time register)"):
        assert len(drawn(charts[0], f"{name}, layer -1")) == 1


def test_random_weights_are_said_in_the_title(tmp_path):
    weights = {"source": "random", "name": "", "sha256": None}
    for name in ("dinov2_vits14", "dinov2_vits14_reg"):
        label = f"{name} (RANDOM WEIGHTS)"
        scores = write_sweep(tmp_path / "results" / name, backbone=name, weights=weights, label=label)
        write_scores(replace(scores, conditions=("RANDOM WEIGHTS",)))
    write_sweep(tmp_path / "results" / "true", backbone="dinov2_vits14")
    titles = re.findall(r"<figcaption>(.*?) on voc07", page_of(tmp_path))
    assert titles == ["dinov2_vits14 (RANDOM WEIGHTS)", "dinov2_vits14"]


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({"backbone": "tiny"}, "with"),  # it has registers of its own
        ({"backbone": "dinov2_vitl14_reg"}, "with"),
        ({"backbone": "dinov2_vitl14"}, "without"),
        ({"backbone": "openclip", "test_time_registers": None}, "without"),
        ({"backbone": "openclip", "test_time_registers": {"count": 1}}, "test-time"),
    ],
)
def test_kinds_of_registers(settings, kind):
    assert register_kind(settings) == kind


def test_a_sweep_without_scores_is_left_out_with_a_note(tmp_path):
    write_sweep(tmp_path / "results" / "done")
    write_sweep(tmp_path / "results" / "cut <b>short", scored=False)
    text = page_of(tmp_path)
    assert re.search(r"<li>[^<]*cut &lt;b&gt;short is left out: it has no corloc.json", text)
    assert len(rows_of(text, "Table of sweeps")) == 3 and "No runs: only sweeps, artifacts and probes" in text


def test_a_sweep_that_is_incomplete_is_shown_and_said_to_be(tmp_path):
    scores = write_sweep(tmp_path / "results" / "part")
    write_scores(replace(scores, not_done=1234))
    assert "part is incomplete: 1,234 images are not done and left out" in page_of(tmp_path)


def test_runs_stand_beside_sweeps_and_artifacts(tmp_path, make_coco):
    results = two_runs(make_coco, tmp_path)
    write_sweep(results / "sweep")
    write_artifacts_file(results / "artifacts", "dinov2_vits14")
    sections = re.findall(r'<section id="(\w+)"', page_of(tmp_path))
    assert sections == ["corloc", "bars", "paired", "sweeps", "artifacts", "gallery"]


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": []},
        {"images_scored": 0},
        {"images_scored": 3},  # fewer than found
        {"settings": [{"layer": -1}]},
        {"seed": None},
    ],
)
def test_scores_of_another_form_are_one_line(tmp_path, changed):
    write_sweep(tmp_path / "sweep")
    path = tmp_path / "sweep" / "corloc.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(LostRegError, match="does not hold the scores of a sweep") as caught:
        read_scores(tmp_path / "sweep")
    assert len(str(caught.value).splitlines()) == 1
    _, _, (error,) = load_sweeps(tmp_path)
    assert str(error) == str(caught.value)


def test_a_sweep_of_unknown_settings_is_one_line(tmp_path):
    write_sweep(tmp_path / "sweep", weights=None)
    _, _, (error,) = load_sweeps(tmp_path)
    assert "does not hold the settings of a sweep" in str(error)
