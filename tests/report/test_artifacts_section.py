"""The artifacts of a report: what the tables say, where things are drawn, and what is refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from artifact_cases import backbone_artifacts, write_artifacts_file
from click.testing import CliRunner
from report_cases import (
    charts_of,
    drawn,
    keys_of,
    page_of,
    report,
    rows_of,
    ticks_of,
    write_sweep,
)

from lost_reg.artifacts.records import (
    About,
    Artifacts,
    ControlScore,
    CorLocChange,
    Discovery,
    ProbeScores,
    read_artifacts,
    write_artifacts,
)
from lost_reg.cli.app import main


def test_artifacts_are_told_in_tables(tmp_path):
    write_artifacts_file(tmp_path / "results", "dinov2_<b>", "with registers")
    text = page_of(tmp_path)
    first, second = rows_of(text, "Outliers")
    assert first == [
        "dinov2_&lt;b&gt;", "1", "80 (mean + 3 sigma)", "2.00 %", "7 of 9", "50.0 %", "1.00 %",
        "3 of 9 (33.3 %)", "0.12", "-",
    ]  # fmt: skip
    assert second[0] == "with registers"
    assert [row[1:] for row in rows_of(text, "Linear probes of position and pixels, with 95 % intervals")][
        :2
    ] == [
        [
            "outliers",
            "25.0 % (20.0 to 30.0)",
            "3.50 (3.00 to 4.00)",
            "12.2 (12.0 to 12.5)",
            "50",
            "1,234",
        ],
        ["other patches", "-", "-", "-", "-", "-"],
    ]
    assert "The reference is dinov2_&lt;b&gt;." in text


def test_what_is_too_few_is_told_below_the_probes(tmp_path):
    row = backbone_artifacts("one")
    about = About("one", -2, 1500.0, "sigma")
    for probe, told in ((ProbeScores(11, 24, too_few="too few patches (11 of 770)"), True), (None, False)):
        probes = {"outliers": probe, "rest": None}
        one = replace(row, outliers=replace(row.outliers, probes=probes))
        write_artifacts(tmp_path / "results", Artifacts(about, [one]))
        assert ("<li>Too few: in brackets, how many there are" in page_of(tmp_path)) == told


def test_artifacts_are_drawn_where_their_numbers_are(tmp_path):
    write_artifacts_file(tmp_path / "results", "one")
    layers, norms, neighbours = charts_of(page_of(tmp_path))
    ticks = ticks_of(layers, "y")

    def log_place(chart, value, axis="y"):
        """Where a value stands on a logarithmic axis, by two of its ticks."""
        at = {
            float(text.replace(",", "")): place
            for text, place in ticks_of(chart, axis).items()
            if text[0].isdigit()
        }
        low, high = min(at), max(at)
        share = math.log(value / low) / math.log(high / low)
        return at[low] + share * (at[high] - at[low])

    assert {"10", "100"} <= set(ticks)
    for title, values in (("median", [10, 10, 10]), ("largest", [100, 200, 300])):
        (line,) = drawn(layers, title)
        assert [y for _, y in line] == [pytest.approx(log_place(layers, value), abs=0.05) for value in values]
        assert [x for x, _ in line] == pytest.approx(
            [ticks_of(layers, "x")[str(layer)] for layer in range(3)], abs=0.1
        )
    for title, values in (("98 % of patches", (60, 2)), ("50 % of patches", (20, 4))):
        (area,) = drawn(layers, title)
        places = sorted({round(y, 1) for _, y in area})
        assert places == pytest.approx([log_place(layers, value) for value in values], abs=0.1)
    (at,) = drawn(layers, "layer of the outliers")
    assert at[0][0] == pytest.approx(ticks_of(layers, "x")["1"], abs=0.1)
    # 25 % of the norms are from 1 to 10 and 75 % from 10 to 100; percent from 10 to 100
    (patches,) = drawn(norms, "patches")
    heights = [y for _, y in patches]
    assert heights[1:5] == pytest.approx([log_place(norms, share) for share in (25, 25, 75, 75)], abs=0.1)
    (cutoff,) = drawn(norms, "mean + 3 sigma: 80")
    assert cutoff[0][0] == pytest.approx(log_place(norms, 80, "x"), abs=0.1)
    assert not any("fixed" in key for key in keys_of(norms))  # it is too far away
    assert len(drawn(neighbours, "outliers")) == 1 and drawn(neighbours, "other patches") == []


def test_what_is_drawn_is_told_to_those_who_cannot_see_it(tmp_path):
    write_artifacts_file(tmp_path / "results", "one")
    assert [chart.get("aria-label") for chart in charts_of(page_of(tmp_path))] == [
        "Norms of patch tokens of one by layer; after layer 1 their median is 10, their 98th percentile 50 "
        "and the largest 200",
        "Distribution of norms of one after layer 1; cut-offs: mean + 3 sigma: 80",
        "Cosine of patches to their four neighbours in one; means: outliers 0.12",
    ]


def test_each_file_of_artifacts_has_its_heading(tmp_path):
    write_artifacts_file(tmp_path / "results" / "a & b", "one")
    write_artifacts_file(tmp_path / "results" / "c", "two")
    assert re.findall("<h3>(.*?)</h3>", page_of(tmp_path)) == ["a &amp; b", "c"]


def test_artifacts_of_another_form_are_one_line_and_do_not_hide_the_rest(tmp_path):
    results = tmp_path / "results"
    bad = write_artifacts_file(results / "bad", "one")
    write_artifacts_file(results / "good", "two")
    bad.write_text(bad.read_text().replace('"images": 9', '"images": "<b>many"'))
    result = CliRunner().invoke(main, ["report", str(results), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "bad/artifacts.json does not hold artifacts: " in line
    text = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert len(rows_of(text, "Outliers")) == 1 and "Left out:" in text


def test_files_without_any_backbone_leave_nothing_to_show(tmp_path):
    file = write_artifacts_file(tmp_path / "results", "one")
    file.write_text(json.dumps({**json.loads(file.read_text()), "backbones": []}))
    result = CliRunner().invoke(main, ["report", str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and not (tmp_path / "out").exists()


def test_the_command_tells_what_the_page_shows(tmp_path):
    for name in ("a", "b"):
        write_sweep(tmp_path / "sweeps" / name)
    write_artifacts_file(tmp_path / "sweeps", "tiny")
    page = tmp_path / "out" / "index.html"
    result = CliRunner().invoke(main, ["report", str(tmp_path / "sweeps"), "--out", str(page.parent)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 sweeps, 1 artifact measurement: open {page}\n"


@pytest.mark.parametrize("models, note", [(5, "3 of 5 models are not"), (3, "1 of 3 models is not"), (2, "")])
def test_artifacts_that_were_interrupted_are_told(tmp_path, models, note):
    path = write_artifacts_file(tmp_path / "results", "one", "two")
    artifacts = read_artifacts(path)
    write_artifacts(path.parent, replace(artifacts, about=replace(artifacts.about, models=models)))
    page = report(tmp_path / "results", tmp_path / "out").page.read_text()
    assert ("did not come to its end" in page) == bool(note) and note in page


def write_series(folder, **about):
    """Two checkpoints, the later one first, as the reference; with CorLoc and a control."""
    change = CorLocChange(75.0, 1, 3, 25.0, (-12.5, 62.5), 0.625)
    adjusted = replace(change, p_holm=0.9375)
    control = ControlScore(
        "mean", "outliers", 5, 4, 0.5, 0.25, 0.4, 0.9876, (0.98, 0.995), adjusted, adjusted
    )
    rest = replace(
        control, group="rest", corloc=change, from_rest=None, class_cosine=None, class_cosine_interval=None
    )
    discovery = Discovery(8, 4, 50.0, (21.5, 78.5), 0, 37.5, 12.5)
    first, second = (
        replace(backbone_artifacts(f"one (ckpt-{step}.pth)"), step=step, discovery=found, controls=controls)
        for step, found, controls in (
            (20, discovery, [control, rest]),
            (5, replace(discovery, found=2, corloc=25.0, interval=(7.1, 59.1)), []),
        )
    )
    about = About("one at step 20", -2, 1500.0, "sigma", steps="epoch", **about)
    return write_artifacts(folder, Artifacts(about, [first, second]))


def test_a_series_is_told_by_its_steps(tmp_path):
    write_series(tmp_path / "results", dataset="/photos/voc", lost="normalized")
    text = page_of(tmp_path)
    rows = rows_of(text, "Outliers")
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("one (ckpt-5.pth)", "5", "25.0 (7.1 to 59.1)"),
        ("one (ckpt-20.pth)", "20", "50.0 (21.5 to 78.5)"),
    ]
    assert "is that of LOST on normalised keys with automatic bias on voc." in text
    assert [row[2:] for row in rows_of(text, "Controls")] == [
        ["untouched", "-", "-", "40.0 %", "-", "50.0", "-", "-"],
        [
            "outliers replaced by the mean", "5 in 4 images", "50.0 %", "25.0 %",
            "0.9876 (0.9800 to 0.9950)", "75.0", "+25.0 (-12.5 to +62.5), p 0.62, Holm 0.94",
            "+25.0 (-12.5 to +62.5), p 0.62, Holm 0.94",
        ],
        [
            "other patches replaced by the mean", "5 in 4 images", "50.0 %", "25.0 %", "-", "75.0",
            "+25.0 (-12.5 to +62.5), p 0.62", "-",
        ],
    ]  # fmt: skip


def test_a_series_is_drawn_along_its_steps(tmp_path):
    write_series(tmp_path / "results")
    text = page_of(tmp_path)
    assert "Along training: one" in text
    norms, shares, corloc, *alone = charts_of(text)
    assert len(alone) == 3 and "step 20" in alone[0].get("aria-label")  # of the last checkpoint only
    assert shares.get("aria-label").endswith("in percent by mean + 3 sigma: 2.00, 2.00")
    assert corloc.get("aria-label") == "CorLoc of LOST by step of training: 25.0, 50.0"
    (line,) = drawn(corloc, "LOST")
    ticks = ticks_of(corloc, "x")
    low, high = sorted(int(text) for text in ticks if text.isdigit())[:2]
    places = [
        ticks[str(low)] + (step - low) / (high - low) * (ticks[str(high)] - ticks[str(low)])
        for step in (5, 20)
    ]
    assert [x for x, _ in line] == pytest.approx(places, abs=0.2)
    rise = (line[0][1] - line[1][1]) / (ticks_of(corloc, "y")["0"] - line[0][1])
    assert rise == pytest.approx(1, abs=0.02)  # from 25 to 50
    assert len(drawn(norms, "median")) == 1 and drawn(shares, "above 98th percentile of the reference") == []


def test_models_of_several_sizes_are_drawn_by_size(tmp_path):
    rows = [
        replace(backbone_artifacts(name), parameters=number)
        for name, number in (("large", 300_000_000), ("small", 22_000_000))
    ]
    about = About("large", -2, 1500.0, "sigma")
    write_artifacts(tmp_path / "results", Artifacts(about, rows))
    text = page_of(tmp_path)
    assert "By size of the model" in text
    norms, _, *alone = charts_of(text)
    assert len(alone) == 6  # without ground truth, no CorLoc; each model has charts of its own
    below = "".join(norms.itertext())
    assert below.index("small") < below.index("large") and "22.0 M" in below and "300.0 M" in below
    write_artifacts(tmp_path / "results", Artifacts(about, [replace(one, parameters=7) for one in rows]))
    assert "By size of the model" not in page_of(tmp_path)
