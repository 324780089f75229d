"""`lost-reg compare`: as text, as JSON and as CSV, and what it cannot compare."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from run_cases import lines_of


@pytest.fixture
def runs(lost_reg, voc, tmp_path):
    for name, weights in (("random", ("--weights", "random")), ("tiny", ())):
        lost_reg("run", "-d", "voc07", "--data-root", voc, *weights, "--out", tmp_path / "results" / name)
    return tmp_path / "results/random", tmp_path / "results/tiny"


def test_text(lost_reg, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = lost_reg("compare", *runs)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("A: tiny (RANDOM WEIGHTS), ") and lines[1].startswith("B: tiny, ")
    assert lines[2].startswith("voc07 trainval: 2 images; left out: 1 without any box")
    assert any(re.match(r"weights.source +random +bundled$", line) for line in lines)
    assert any(line.startswith("all images  ") for line in lines)
    assert any("points of CorLoc (95 %" in line for line in lines)
    header = next(line for line in lines if line.startswith("over  "))
    assert len(header) <= 80 and header.endswith("p  p (Holm)")


def test_json_and_corloc_agree(lost_reg, runs):
    content = json.loads(lost_reg("compare", *runs, "--json").stdout)
    rows = json.loads(lost_reg("corloc", runs[0].parent, "--json").stdout)
    assert [content["total"]["corloc_a"], content["total"]["corloc_b"]] == [row["corloc"] for row in rows]
    assert {one["setting"] for one in content["differences"]} == {
        *("weights.source", "weights.name", "weights.sha256")
    }


def test_csv_of_the_table_or_of_the_images(lost_reg, runs):
    rows = lost_reg("compare", *runs, "--csv").stdout.splitlines()
    assert rows[0].startswith("kind,name,images,both,") and rows[1].startswith("all images,,2,")
    content = json.loads(lost_reg("compare", *runs, "--json").stdout)
    images = lost_reg("compare", *runs, "--csv", "--images").stdout.splitlines()
    assert len(images) == 1 + len(content["only_a"]) + len(content["only_b"])


def test_images_lists_all(lost_reg, runs):
    file = runs[0] / "predictions.jsonl"
    rows = lines_of(runs[0])
    for row in rows:
        row["objects"][0]["box_xyxy"] = [0, 0, 1, 1]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    rows = lines_of(runs[1])
    for row in rows:
        row["objects"][0]["box_xyxy"] = [32, 16, 96, 64]
    (runs[1] / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lines = lost_reg("compare", *runs, "--images").stdout.splitlines()
    assert lines[-3:] == ["Found by B alone: 2", "  000001.jpg", "  000003.jpg"]


def test_partial_and_no_hard(lost_reg, refused, voc, runs, tmp_path):
    lost_reg("run", "-d", "voc07", "--data-root", voc, "--limit", 1, "--out", tmp_path / "part")
    assert "covers 1 of the 3 images" in refused("compare", runs[0], tmp_path / "part")
    result = lost_reg("compare", runs[0], tmp_path / "part", "--partial", "--no-hard")
    assert "voc07 trainval no_hard: 1 image; left out: 0 without any box, 2 not done" in result.stdout


def test_bad_input_is_one_line(refused, runs, tmp_path):
    assert "holds 2 runs" in refused("compare", runs[0].parent, runs[1])
    assert "no such" in refused("compare", runs[0], tmp_path / "nowhere")
    assert "Missing argument 'B'" in refused("compare", runs[0], exit_code=2)
    assert "--json and --csv" in refused("compare", *runs, "--json", "--csv", exit_code=2)
    assert "voc12 is not there" in refused("compare", *runs, "-d", "voc12", "--data-root", tmp_path)
    (tmp_path / "empty.pkl").write_bytes(b"")
    assert "neither a LOST pickle" in refused("compare", runs[0], tmp_path / "empty.pkl")


def test_torch_is_not_imported(runs):
    code = (
        "import sys\n"
        "from lost_reg.cli.app import main\n"
        f"try: main(['compare', {str(runs[0])!r}, {str(runs[1])!r}])\n"
        "finally: print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
