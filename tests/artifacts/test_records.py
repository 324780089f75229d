"""artifacts.json: what was written is read again, and anything else is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from artifact_cases import backbone_artifacts, write_artifacts_file
from helpers import refusal

from lost_reg.artifacts.records import ProbeScores, read_artifacts
from lost_reg.artifacts.tables import outlier_rows, percent, probe_rows, summary_table, tables_text


def test_what_was_written_is_read_again(tmp_path):
    artifacts = read_artifacts(write_artifacts_file(tmp_path, "one", "two"))
    assert artifacts.backbones == [backbone_artifacts("one"), backbone_artifacts("two")]
    assert artifacts.about.reference == "one" and artifacts.backbones[0].outlier_layer.largest == 200


def changed(path: Path, *keys, value) -> Path:
    """The file with another value at a place in its first backbone."""
    content = json.loads(path.read_text())
    place = content["backbones"][0]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))
    return path


def test_a_file_without_ties_can_be_read(tmp_path):
    """As versions wrote it that counted one seed per image."""
    path = write_artifacts_file(tmp_path, "one")
    seeds = {"images": 9, "on_outliers": 4, "share": 0.5, "share_by_chance": 0.01}
    (row,) = read_artifacts(changed(path, "outliers", "seeds", value=seeds)).backbones
    assert row.outliers.seeds.ties is None and row.outliers.seeds.on_outliers == 4
    assert outlier_rows([row])[0]["images that tie"] == "-"


def test_a_file_without_intervals_can_be_read(tmp_path):
    """As versions wrote it that gave the means alone."""
    path = write_artifacts_file(tmp_path, "one")
    names = ("learned_from", "tested_on", "position_top1", "position_distance", "pixel_l2")
    probe = dict(zip(names, (50, 24, 0.0417, 3.5, 12.25)))
    (row,) = read_artifacts(changed(path, "outliers", "probes", "outliers", value=probe)).backbones
    assert list(probe_rows([row])[0].values())[2:] == ["4.17 %", "3.50", "12.2", "50", "24"]


def test_a_probe_of_too_few_patches_is_no_number():
    """Not 0.00 % or 4.17 %, which are what a few patches happen to give."""
    row, reason = backbone_artifacts("one"), "too few patches (11 of 770)"
    probe = ProbeScores(11, 24, tested_images=12, too_few=reason)
    row = replace(row, outliers=replace(row.outliers, probes={"outliers": probe, "rest": None}))
    assert list(probe_rows([row])[0].values())[2:] == [reason, "-", "-", "11", "24"]
    assert (
        tables_text([row])
        .splitlines()[-1]
        .startswith("Too few: in brackets, how many there are, of how many")
    )
    assert "Too few" not in tables_text([backbone_artifacts("one")])


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("label",), None, "label"),
        (("layers",), [], "layers"),
        (("patches",), 0, "patches"),
        (("patches",), float("nan"), "NaN is not a finite number"),
        (("images",), "<b>many", "images"),
        (("layers", 0, "layer"), 1, "layers that are not 0 to 2"),
        (("layers", 2, "largest"), 1e40, "largest"),
        (("layers", 1, "percentiles"), {"50": 1.0}, "percentiles"),
        (("layers", 1, "cutoffs", "mine"), 1.0, "mine"),
        (("norm_histograms", "counts"), [[0, 0]] * 3, "an empty histogram"),
        (("norm_histograms", "counts"), [[1], [1, 2], [3]], "of the same bins"),
        (("norm_histograms", "counts"), [[1]], "a histogram for each layer"),
        (("norm_histograms", "ratio"), 1e30, "too large"),
        (("norm_histograms", "ratio"), 1.0, "ratio"),
        (("outliers",), {"layer": 1}, "outliers"),
        (("outliers", "layer"), 3, "layers that are not 0 to 2"),
        (("outliers", "rule"), "mine", "rule"),
        (("outliers", "probes"), {}, "outliers and rest"),
        (("outliers", "neighbour_cosine", "outliers", "counts"), [], "counts"),
    ],
    ids=str,
)
def test_anything_else_is_refused(keys, value, reason, tmp_path):
    path = changed(write_artifacts_file(tmp_path, "one"), *keys, value=value)
    text = refusal(read_artifacts, path)
    assert text.startswith(f"{path} does not hold artifacts: ") and reason in text


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"about": 1}'])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "artifacts.json"
    path.write_text(content)
    assert "does not hold artifacts" in refusal(read_artifacts, path)
    assert "cannot read" in refusal(read_artifacts, tmp_path)


def test_tables_say_what_was_measured():
    rows = [backbone_artifacts("one"), backbone_artifacts("two")]
    header, _, first, _ = summary_table(rows).splitlines()
    assert "above mean + 3 sigma  above 1500  above reference" in header
    assert " ".join(first.split()) == "one 1 2.00 % 0.00 % - 50.0 % 1.00 % 3 of 9 (33.3 %) 0.12 -"
    assert outlier_rows(rows)[0]["cut-off"] == "80 (mean + 3 sigma)"
    probes = [list(row.values()) for row in probe_rows(rows)]
    assert len(probes) == 4 and probes[1] == ["one", "other patches", "-", "-", "-", "-", "-"]
    assert percent(None) == "-" and percent(0.12345) == "12.3 %"
