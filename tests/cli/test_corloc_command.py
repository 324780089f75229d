"""`lost-reg corloc`: the table of runs, and what it cannot score."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from lost_reg.text import display_width


@pytest.fixture
def run_folder(lost_reg, voc, tmp_path):
    lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "results/one")
    return tmp_path / "results"


def test_table(lost_reg, run_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = lost_reg("corloc", run_folder)
    assert result.exit_code == 0, result.output
    header, _, row, counts = result.stdout.splitlines()
    assert re.split(r"  +", header) == [
        *("run", "backbone", "dataset", "images", "found", "CorLoc", "95 % interval"),
        *("centred box", "whole image", "published"),
    ]
    assert row.split()[:5] == ["one", "tiny", "voc07", "trainval", "2"] and "no comparable number" in row
    assert "0 undecodable" in counts and "1 without any box" in counts and "0 not done" in counts


def test_a_table_fits_80_columns(lost_reg, run_folder, voc, monkeypatch):
    """Columns are dropped by priority, and named; a preset is named, not spelt out."""
    monkeypatch.setenv("COLUMNS", "40")  # of a very narrow terminal, too
    data = ("--dataset", "voc07", "--data-root", voc)
    lost_reg("run", *data, "--preset", "best", "--refine", "bilateral", "--out", run_folder / "two")
    header, _, one, two, missing, *_ = lost_reg("corloc", run_folder).stdout.splitlines()
    assert re.split(r"  +", header)[:3] == ["run", "backbone", "dataset"] and "CorLoc" in header
    assert all(display_width(line) <= 80 for line in (header, one, two))
    assert header.split()[-2:] == ["centred", "box"] and one.startswith("one  tiny  ")
    assert re.search(r"tiny \(pre.*….*bilateral\) ", two)  # its middle is left out, not the column
    assert missing.startswith("Left out to fit the width: ") and missing.endswith("published")
    header, _, row, *_ = lost_reg("score", run_folder / "two").stdout.splitlines()
    assert len(header) <= 80 and "box AP" in header and len(row) <= 80


def test_json_and_csv_agree(lost_reg, run_folder):
    (row,) = json.loads(lost_reg("corloc", run_folder, "--json").stdout)
    names, values = lost_reg("corloc", run_folder, "--csv").stdout.splitlines()
    from_csv = dict(zip(names.split(","), values.split(",")))
    assert {key: str(value if value is not None else "") for key, value in row.items()} == from_csv


def test_an_incomplete_run_needs_partial(lost_reg, refused, voc, tmp_path):
    lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--limit", 1, "--out", tmp_path / "out")
    assert "1 of the 3 images" in refused("corloc", tmp_path / "out")
    assert "2 not done" in lost_reg("corloc", tmp_path / "out", "--partial").stdout


def test_photos_that_exif_turned_are_said(lost_reg, voc, tmp_path):
    folder = voc / "VOCdevkit/VOC2007/JPEGImages"
    picture = Image.open(folder / "000001.jpg")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "000001.jpg", exif=exif)
    lost_reg("run", folder, "--out", tmp_path / "out")
    result = lost_reg("corloc", tmp_path / "out", "--dataset", "voc07", "--data-root", voc)
    assert "the size of 1 image differs from the annotated one" in result.stdout


def test_no_hard_is_said(lost_reg, run_folder):
    assert "trainval no_hard" in lost_reg("corloc", run_folder, "--no-hard").stdout


def test_a_file_needs_a_dataset(refused, tmp_path):
    detection = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    (tmp_path / "detections.json").write_text(json.dumps([detection]))
    assert "--dataset" in refused("corloc", tmp_path / "detections.json")


def test_results_folder_without_runs(refused, tmp_path):
    assert "no runs in" in refused("corloc", tmp_path)
    assert "no such" in refused("corloc", tmp_path / "nowhere")


def test_malformed_results_line(lost_reg, refused, voc, tmp_path):
    lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
    file = tmp_path / "out/predictions.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:20]
    file.write_text("\n".join(lines) + "\n")
    line = refused("corloc", tmp_path / "out")
    assert "line 2" in line and str(file) in line


def test_ground_truth_missing_for_an_image(lost_reg, refused, voc, tmp_path):
    lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
    (voc / "VOCdevkit/VOC2007/Annotations/000003.xml").unlink()
    line = refused("corloc", tmp_path / "out")
    assert "has no annotation (000003.jpg): --unannotated leave-out scores the others" in line


@pytest.mark.parametrize("command", ["corloc", "score"])
def test_runs_on_own_images_are_noted_beside_those_that_are_scored(
    command, lost_reg, refused, run_folder, photos, tmp_path
):
    own = [run_folder / "own", run_folder / "sub" / "own"]
    for out in own:
        lost_reg("run", photos, "--method", "lost", "--out", out)
    result = lost_reg(command, run_folder)
    assert result.exit_code == 0 and "tiny" in result.stdout
    line = f"2 runs on your own images have no annotations: {own[0]}, {own[1]}"
    assert f"Note: {line}\n" in result.stderr and "Error" not in result.stderr
    (run_folder / "one" / "predictions.jsonl").write_text("damaged\n")
    assert lost_reg(command, run_folder).exit_code == 1
    (run_folder / "one" / "run.json").unlink()
    assert refused(command, run_folder) == f"Error: {line}: name their ground truth with --dataset"
