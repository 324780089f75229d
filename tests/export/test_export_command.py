"""The command `lost-reg export`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from export_cases import BOXES, prediction
from helpers import names, write_predictions


def test_the_command_says_what_it_wrote(lost_reg, tmp_path, photos):
    root, found = photos
    strip = prediction("strip.jpg", (0, 0, 128, 8), size_hw=(96, 128), grid_hw=(6, 8))
    run = write_predictions(tmp_path / "run", [*found, strip], ["bad.jpg"], root=root)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "images": 9}))
    options = ("--max-area", 0.3, "--images", "copy", "--crops", tmp_path / "crops")
    result = lost_reg("export", run, "--to", "voc", "-o", tmp_path / "voc", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "11 boxes of 6 images; implausible among them: 0 whole image, 0 single patch, 1 border strip",
        "left out: 1 image that the run could not use, 2 images that the run has not reached",
        f"written: {tmp_path / 'voc'}, {tmp_path / 'crops'}",
    ]
    linked, crops = result.stderr.splitlines()
    assert linked.startswith(
        "Warning: 3 of 6 images are not there as files: gone.jpg (no file of that name), shard"
    )
    assert crops.startswith("Warning: 3 of 6 images gave no crops: gone.jpg (no file of that name), shard")
    result = lost_reg(
        "export", run, "--to", "csv", "-o", tmp_path / "x.csv", "--drop-implausible", "--min-area", 0.1
    )
    assert result.stdout.splitlines() == [
        "5 boxes of 5 images; implausible among them: 0 whole image, 0 single patch, 0 border strip",
        "dropped: 6 boxes (5 area below 0.1, 1 border strip)",
        "left out: 1 image without a box, 1 image that the run could not use, "
        "2 images that the run has not reached",
        f"written: {tmp_path / 'x.csv'}",
    ]


def test_every_filter_reaches_the_library(lost_reg, tmp_path):
    run = write_predictions(tmp_path / "run", [prediction(name, box) for name, box in BOXES.items()])
    for number, (option, value, dropped) in enumerate((
        ("--drop-implausible", None, "1 whole image"), ("--min-area", 0.05, "2 area below 0.05"),
        ("--max-area", 0.5, "1 area above 0.5"), ("--max-degree", 0, None), ("--min-score", 0.6, None),
        ("--max-borders", 3, "1 borders above 3"),
    )):  # fmt: skip
        arguments = [option] if value is None else [option, value]
        result = lost_reg("export", run, "--to", "csv", "-o", tmp_path / f"{number}.csv", *arguments)
        if dropped:
            assert dropped in result.stdout
        else:
            assert "no box of" in result.stderr and result.exit_code == 1


@pytest.mark.parametrize(
    "arguments, exit_code, said",
    [
        ((), 2, "--to, or a folder with --crops"),
        (("--to", "coco"), 2, "--out"),
        (("--out", "x.json"), 2, "--to"),
        (("--to", "coco", "--out", "x.json", "--images", "copy"), 2, "yolo, yolo-seg, voc, fiftyone"),
        (("--to", "coco", "--out", "x.json", "--val", "0.2"), 2, "for the formats yolo, yolo-seg"),
        (("--to", "yolo", "--out", "x", "--seed", "1"), 2, "--seed needs --val"),
        (("--to", "yolo", "--out", "x", "--images", "none", "--val", "1"), 1, "expected a share --val above"),
        (("--to", "yolo", "--out", "x", "--images", "none", "--val", "0.5"), 1, "give another --seed or"),
        (("--crops", "c", "--images", "link"), 2, "yolo, yolo-seg, voc"),
        (("--to", "tfrecord", "--out", "x"), 2, "tfrecord"),
        (("--to", "csv", "--out", "x.csv", "--max-borders", "5"), 2, "--max-borders"),
        (("--to", "csv", "--out", "x.csv", "--min-area", "30"), 1, "--min-area"),
        (("--to", "csv", "--out", "x.csv", "--min-area", "nan"), 1, "--min-area"),
        (("--to", "csv", "--out", "x.txt"), 1, ".csv"),
    ],
)
def test_refusals_are_one_line(lost_reg, tmp_path, monkeypatch, arguments, exit_code, said):
    monkeypatch.chdir(tmp_path)
    write_predictions(tmp_path / "run", [prediction("a.jpg", (0, 0, 9, 9))])
    result = lost_reg("export", "run", *arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == exit_code and line.startswith("Error: ") and said in line
    assert names(tmp_path) == ["run", "run/errors.jsonl", "run/predictions.jsonl", "run/run.json"]


def test_folders_without_a_run(lost_reg, tmp_path):
    result = lost_reg("export", tmp_path / "nowhere", "--to", "csv", "--out", tmp_path / "x.csv")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1 and "no such folder" in line


def test_hostile_names_stay_on_one_line(lost_reg, tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("a\nError: \x1b[31m\udcff.jpg", (0, 0, 9, 9))])
    shown = lost_reg("export", run, "--to", "csv", "--out", tmp_path / "c\nd.csv")
    assert len(shown.stdout.splitlines()) == 2 and shown.stderr == ""
    refused = lost_reg("export", run, "--crops", tmp_path / "c\nd")
    assert refused.stdout == "" and len(refused.stderr.splitlines()) == 1
    assert "\x1b" not in shown.output + refused.output


def test_torch_is_not_imported(tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("a.jpg", (0, 0, 9, 9))])
    code = (
        "import sys\n"
        "from lost_reg.cli.app import main\n"
        f"try: main(['export', {str(run)!r}, '--to', 'coco', '--out', {str(tmp_path / 'x.json')!r}])\n"
        "finally: print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
