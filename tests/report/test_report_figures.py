"""The report's sweep curves and artifact figures: where their points stand, what is said, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_cases import report, two_runs

from lost_reg.cli.app import main
from lost_reg.errors import LostRegError
from lost_reg.report.plots import HEIGHT, Axis, Plot, linear_axis, log_axis
from lost_reg.report.report import load_extras
from lost_reg.scoring.score_runs import register_kind
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores, read_scores, write_scores
from lost_reg.types import Protocol

# found of 20, by layer and bias; the most of 10 tuned is at layer -2 and -0.5, the most found at auto
FOUND = {(-2, -1): 4, (-2, -0.5): 8, (-2, 0.0): 2, (-1, -1): 0, (-1, -0.5): 6, (-1, 0.0): 5, (-1, "auto"): 10}


def write_sweep(
    folder: Path, *, backbone="dinov2_vits14", normalize=(False,), scored=True, label=None, **settings
):
    """A sweep folder with scores; what is below `settings` goes into sweep.json."""
    folder.mkdir(parents=True)
    weights = {"source": "hub", "name": "w", "sha256": "0" * 64}
    made = {"backbone": backbone, "weights": weights, "precision": "fp32", **settings}
    record = {"settings": made, "images": 30, "sessions": []}
    (folder / "sweep.json").write_text(json.dumps(record))
    scores = tuple(
        SettingScore(
            Protocol(layer=layer, bias=bias, normalize=one), 9 if (layer, bias) == (-2, -0.5) else 3, found
        )
        for one in normalize
        for (layer, bias), found in FOUND.items()
    )
    scores = SweepScores(folder, label or backbone, "voc07", "trainval", 10, 20, 1, 0, 1 / 3, 0, scores)
    if scored:
        write_scores(scores)
    return scores


def write_artifacts(folder: Path, *labels: str, layer=1, **changed) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    norms = [
        {
            "layer": index,
            "percentiles": {"1": 2.0, "25": 4.0, "50": 10.0, "75": 20.0, "98": 50.0, "99": 60.0},
            "largest": 100.0 * (index + 1),
            "cutoffs": {"sigma": 80.0, "fixed": 1500.0, "reference": None},
        }
        for index in range(3)
    ]
    probe = {"position_top1": 0.25, "position_distance": 3.5, "pixel_l2": 12.25, "tested_on": 1234}
    cosines = {"mean": 0.125, "count": 4, "counts": [0, 0, 1, 3]}
    outliers = {
        "rule": "sigma", "layer": layer, "cutoff": 80.0, "share": 0.02, "images_with_any": 7,
        "neighbour_cosine": {"outliers": cosines, "rest": None},
        "seeds": {"share": 0.5, "share_by_chance": 0.01},
        "probes": {"outliers": probe, "rest": None},
    }  # fmt: skip
    histogram = {"first_edge": 1.0, "ratio": 10.0, "counts": [[1, 1, 0], [1, 3, 0], [4, 0, 0]]}
    rows = [
        {"label": label, "images": 9, "patches": 4, "layers": norms, "outliers": outliers,
         "norm_histograms": histogram, **changed}
        for label in labels
    ]  # fmt: skip
    content = {"about": {"reference": labels[0] if labels else ""}, "backbones": rows}
    (folder / "artifacts.json").write_text(json.dumps(content))
    return folder / "artifacts.json"


def page_of(tmp_path: Path) -> str:
    return report(tmp_path / "results", tmp_path / "out").page.read_text("utf-8")


def rows_of(text: str, table: str) -> list[list[str]]:
    """The cells of a table, by its label."""
    (body,) = re.findall(rf'aria-label="{re.escape(table)}">.*?<tbody>(.*?)</tbody>', text, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.strip().splitlines()]


# --- plots --------------------------------------------------------------------------------------------


def test_axes_have_round_ticks():
    assert [said for _, said in linear_axis(-1, 0).ticks] == ["-1", "-0.8", "-0.6", "-0.4", "-0.2", "0"]
    assert [said for _, said in linear_axis(0, 40).ticks] == ["0", "10", "20", "30", "40"]
    assert [said for _, said in linear_axis(0, 0).ticks] == ["-0.4", "-0.2", "0", "0.2", "0.4"]
    assert [said for _, said in log_axis(0.5, 2000).ticks] == ["1", "10", "100", "1,000"]
    assert [said for _, said in log_axis(3, 60).ticks] == ["5", "10", "20", "50"]
    assert len(log_axis(14, 42).ticks) >= 3 and log_axis(3, 3).low < 3 < log_axis(3, 3).high


def test_values_stand_at_their_share_of_an_axis():
    axis = linear_axis(-1, 0, end=0.8)
    assert [axis.share(value) for value in (-1, -0.5, 0, 9, -9)] == pytest.approx([0, 0.4, 0.8, 0.8, 0])
    axis = log_axis(1, 100)
    assert [axis.share(value) for value in (1, 10, 100, 0)] == pytest.approx([0, 0.5, 1, 0])


def test_a_plot_draws_points_where_they_are():
    plot = Plot(Axis(0, 2, ((1, "<one>"),), end=0.8), Axis(0, 50, ((25, "25"),)), "x & y", 'a "label"')
    assert 'points="0.00,100.00 40.00,50.00 80.00,0.00"' in plot.line([(0, 0), (1, 25), (2, 50)], "plain")
    assert 'points="0.00,100.00 0.00,50.00 40.00,50.00 40.00,0.00 80.00,0.00 80.00,100.00"' in plot.steps(
        [0, 1, 2], [25, 50], "counts"
    )
    assert f'x="40.00%" y="{HEIGHT / 2:.1f}"' in plot.mark((1, 25), "<g/>", "a<b")
    assert 'x="92.00%"' in plot.mark((None, 25), "<g/>", "") and "a&lt;b" in plot.mark((1, 25), "", "a<b")
    drawn = plot.svg([], [], beyond="auto")
    assert "&lt;one&gt;" in drawn and 'aria-label="a &quot;label&quot;"' in drawn and "x &amp; y" in drawn
    assert ">auto</text>" in drawn


# --- sweeps -------------------------------------------------------------------------------------------


def test_scores_that_were_written_are_read_again(tmp_path):
    scores = write_sweep(tmp_path / "sweep", normalize=(False, True))
    assert read_scores(tmp_path / "sweep") == scores


def test_curves_stand_where_their_numbers_are(tmp_path):
    write_sweep(tmp_path / "results" / "sweep")
    text = page_of(tmp_path)
    (figure,) = re.findall(
        r'<figure class="chart"><figcaption>dinov2_vits14 on voc07.*?</figure>', text, re.DOTALL
    )
    assert "dinov2_vits14 on voc07 trainval: k, raw</figcaption>" in figure
    lines = re.findall(r'<polyline class="line plain" stroke="([^"]+)" points="([^"]+)"', figure)
    assert [points for _, points in lines] == [  # 20, 40, 10 and 0, 30, 25 of 50 percent
        "0.00,60.00 43.00,20.00 86.00,80.00",
        "0.00,100.00 43.00,40.00 86.00,50.00",
    ]
    assert len({colour for colour, _ in lines}) == 2
    marks = re.findall(r'class="mark" x="([\d.]+)%" y="([\d.]+)"><g><title>(.*?)</title>', figure)
    assert marks == [
        ("95.00", "0.0", "dinov2_vits14, layer -1: 50.0"),
        ("43.00", "34.0", "chosen: dinov2_vits14, layer -2, bias -0.5: 40.0"),
        ("95.00", "0.0", "best in hindsight: dinov2_vits14, layer -1, bias auto: 50.0"),
    ]
    assert "chosen on other images" in text and "</svg>best in hindsight</li>" in text


def test_all_values_and_the_choice_are_in_tables(tmp_path):
    write_sweep(tmp_path / "results" / "sweep")
    text = page_of(tmp_path)
    assert rows_of(text, "CorLoc over bias, dinov2_vits14 on voc07 trainval: k, raw") == [
        ["-1", "20.0", "0.0"],
        ["-0.5", "40.0", "30.0"],
        ["0", "10.0", "25.0"],
        ["auto", "-", "50.0"],
    ]
    assert [row[2:5] for row in rows_of(text, "Sweeps")] == [
        ["chosen on 10 other images", "k of layer -2, raw, bias -0.5", "40.0"],
        ["best in hindsight", "k of layer -1, raw, bias auto", "50.0"],
        ["LOST as published", "k of layer -1, raw, bias 0", "25.0"],
    ]


def test_models_with_and_without_registers_share_a_panel(tmp_path):
    added = {"test_time_registers": {"count": 1}}
    results = tmp_path / "results"
    write_sweep(results / "1", normalize=(False, True))
    write_sweep(results / "2", backbone="dinov2_vits14_reg", normalize=(False, True))
    write_sweep(results / "3", label="dinov2_vits14 (1 test-time register)", **added)
    write_sweep(results / "4", label="again")  # of the same kind: in a panel of its own
    write_sweep(results / "5", backbone="dinov2_vits14_reg", precision="bf16", label="bf16")
    write_sweep(results / "6", backbone="tiny")
    text = page_of(tmp_path)
    figures = re.findall(
        r"<figure class=\"chart\"><figcaption>(.*?)</figcaption>(.*?)</figure>", text, re.DOTALL
    )
    kinds = [(title, re.findall(r'polyline class="line ([\w-]+)"', figure)[::2]) for title, figure in figures]
    assert kinds == [
        ("dinov2_vits14 on voc07 trainval: k, raw", ["without", "with", "test-time"]),
        ("dinov2_vits14 on voc07 trainval: k, normalised", ["without", "with"]),
        ("again on voc07 trainval: k, raw", ["plain"]),
        ("bf16 on voc07 trainval: k, raw", ["plain"]),
        ("tiny on voc07 trainval: k, raw", ["plain"]),
    ]
    for said in ("without registers", "with registers", "test-time register"):
        assert f"</svg>{said}</li>" in text


def test_random_weights_are_said_in_the_title(tmp_path):
    weights = {"source": "random", "name": "", "sha256": None}
    for name in ("dinov2_vits14", "dinov2_vits14_reg"):
        label = f"{name} (RANDOM WEIGHTS)"
        write_sweep(tmp_path / "results" / name, backbone=name, weights=weights, label=label)
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
    assert len(rows_of(text, "Sweeps")) == 3 and "No runs: sweeps and artifacts alone" in text


def test_a_sweep_that_is_incomplete_is_shown_and_said_to_be(tmp_path):
    scores = write_sweep(tmp_path / "results" / "part")
    write_scores(replace(scores, not_done=1234))
    assert "part is incomplete: 1,234 images are not done and left out" in page_of(tmp_path)


def test_runs_stand_beside_sweeps_and_artifacts(tmp_path, make_coco):
    results = two_runs(make_coco, tmp_path)
    write_sweep(results / "sweep")
    write_artifacts(results / "artifacts", "dinov2_vits14")
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
    (error,) = load_extras(tmp_path).errors
    assert str(error) == str(caught.value)


def test_a_sweep_of_unknown_settings_is_one_line(tmp_path):
    write_sweep(tmp_path / "sweep", weights=None)
    (error,) = load_extras(tmp_path).errors
    assert "does not hold the settings of a sweep" in str(error)


# --- artifacts ----------------------------------------------------------------------------------------


def test_artifacts_are_told_in_tables(tmp_path):
    write_artifacts(tmp_path / "results", "dinov2_<b>", "with registers")
    text = page_of(tmp_path)
    first, second = rows_of(text, "Outliers")
    assert first == [
        "dinov2_&lt;b&gt;", "1", "80 (mean + 3 sigma)", "2.00 %", "7 of 9", "50.00 %", "1.00 %", "0.12", "-",
    ]  # fmt: skip
    assert second[0] == "with registers"
    assert [row[1:] for row in rows_of(text, "Linear probes")][:2] == [
        ["outliers", "25.00 %", "3.50", "12.25", "1,234"],
        ["other patches", "-", "-", "-", "-"],
    ]
    assert "The reference is dinov2_&lt;b&gt;." in text


def test_artifacts_are_drawn_where_their_numbers_are(tmp_path):
    write_artifacts(tmp_path / "results", "one")
    text = page_of(tmp_path)
    norms = log_axis(2, 330)

    def at(norm):
        return f"{100 - 100 * norms.share(norm):.2f}"

    assert f'class="line median" points="0.00,{at(10)} 50.00,{at(10)} 100.00,{at(10)}"' in text
    assert f'class="line largest" points="0.00,{at(100)} 50.00,{at(200)} 100.00,{at(300)}"' in text
    area = " ".join(f"{x},{at(y)}" for x, y in (("0.00", 4), ("50.00", 4), ("100.00", 4)))
    assert f'class="area inner" points="{area} 100.00,{at(20)} 50.00,{at(20)} 0.00,{at(20)}"' in text
    assert '<line class="at-layer" x1="50.00%"' in text
    # 25 % of the norms are from 1 to 10 and 75 % from 10 to 100; percent from 10 to 100
    assert (
        'class="area counts" points="0.00,100.00 0.00,60.21 50.00,60.21 50.00,12.49 100.00,12.49 100.' in text
    )
    assert 'class="cutoff sigma" x1="95.15%"' in text and 'class="cutoff fixed"' not in text  # too far away
    assert 'class="area of-outliers"' in text and 'class="area of-rest"' not in text
    assert "cut-off: mean + 3 sigma" in text and "cut-off: fixed" not in text


def test_each_file_of_artifacts_has_its_heading(tmp_path):
    write_artifacts(tmp_path / "results" / "a & b", "one")
    write_artifacts(tmp_path / "results" / "c", "two")
    assert re.findall("<h3>(.*?)</h3>", page_of(tmp_path)) == ["a &amp; b", "c"]


@pytest.mark.parametrize(
    "changed",
    [
        {"label": None, "layers": []},
        {"patches": 0},
        {"images": "<b>many"},
        {"norm_histograms": {"first_edge": 1.0, "ratio": 10.0, "counts": [[0], [0], [0]]}},
        {"outliers": {"layer": 1}},
        {"patches": float("nan")},
    ],
)
def test_artifacts_of_another_form_are_one_line_and_do_not_hide_the_rest(tmp_path, changed):
    results = tmp_path / "results"
    write_artifacts(results / "bad", "one", **changed)
    write_artifacts(results / "good", "two")
    result = CliRunner().invoke(main, ["report", str(results), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "bad/artifacts.json does not hold artifacts: " in line
    text = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert len(rows_of(text, "Outliers")) == 1 and "Left out:" in text


def test_files_without_any_backbone_leave_nothing_to_show(tmp_path):
    write_artifacts(tmp_path / "results")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and not (tmp_path / "out").exists()


def test_the_command_tells_what_the_page_shows(tmp_path):
    for name in ("a", "b"):
        write_sweep(tmp_path / "sweeps" / name)
    write_artifacts(tmp_path / "sweeps", "tiny")
    page = tmp_path / "out" / "index.html"
    result = CliRunner().invoke(main, ["report", str(tmp_path / "sweeps"), "--out", str(page.parent)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 sweeps, 1 artifact measurement: open {page}\n"
