"""`lost-reg probe --task segmentation` and `--task depth` on small folders."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from dense_cases import write_depth, write_segmentation

from lost_reg.cli.app import main


def probe(folder, out, *options):
    arguments = ["probe", str(folder), "-b", "tiny", "--out", str(out), "--workers", "0", "--steps", "2"]
    return CliRunner().invoke(main, [*arguments, *options])


@pytest.mark.parametrize(
    "task, write, measure", [("segmentation", write_segmentation, "mIoU"), ("depth", write_depth, "RMSE")]
)
def test_a_folder_is_probed_once(task, write, measure, tmp_path):
    folder, out = write(tmp_path / "data", train=2, test=2), tmp_path / "out"
    result = probe(folder, out, "--task", task, "--limit", "1")
    assert result.exit_code == 0, result.output
    assert f"patches  linear      {measure}" in result.stdout
    record = json.loads((out / "probe.json").read_text())
    assert (record["scores"][0]["train"], record["scores"][0]["test"]) == (1, 1)
    again = probe(folder, out, "--task", task)
    assert again.exit_code == 1 and "exists already: choose another --out" in again.stderr
    assert probe(folder, out, "--task", task, "--overwrite").exit_code == 0
    assert json.loads((out / "probe.json").read_text())["scores"][0]["test"] == 2
    printed = probe(folder, tmp_path / "other", "--task", task, "--limit", "1", "--json")
    assert json.loads(printed.stdout)["scores"] == [{**record["scores"][0], "published": None}]


def test_views_are_recorded(tmp_path):
    folder, out = write_segmentation(tmp_path / "data", train=2, test=1), tmp_path / "out"
    result = probe(folder, out, "--task", "segmentation", "--views", "3")
    assert result.exit_code == 0, result.output
    record = json.loads((out / "probe.json").read_text())
    assert record["settings"]["views"] == 3 and record["scores"][0]["train"] == 2


def test_bad_input_is_one_line(tmp_path):
    folder = write_segmentation(tmp_path / "data", train=2, test=1)
    cases = (
        (("--task", "depth"), "it has no train/depths, val/depths"),
        (("--task", "segmentation", "--cache-gib", "0.000001"), "--cache-gib"),
        (("--task", "segmentation", "--tokens", "cls"), "--tokens belongs to --task classes"),
        (("--task", "segmentation", "--learning-rate", "0"), "a --learning-rate above 0"),
        (("--task", "segmentation", "--views", "0"), "--views"),
        (
            ("--task", "segmentation", "--views", "1000000000000"),
            "--views of at most 1,000, but got",
        ),
        (("--task", "segmentation", "--views", "2", "--cache-gib", "0.000001"), "in 2 views each, take"),
    )
    for number, (options, text) in enumerate(cases):
        result = probe(folder, tmp_path / f"out{number}", *options)
        assert result.exit_code in (1, 2) and text in result.stderr, result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("more", [("--depth-scale", "1e-9"), ("--max-depth", "0.5"), ("--cache-gib", "1e-7")])
def test_a_probe_stays_if_the_new_one_cannot_be_made(more, tmp_path):
    folder, out = write_depth(tmp_path / "data", train=2, test=2), tmp_path / "out"
    assert probe(folder, out, "--task", "depth").exit_code == 0
    before = [(out / name).read_bytes() for name in ("probe.json", "outcomes.npz")]
    result = probe(folder, out, "--task", "depth", *more, "--overwrite")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert [(out / name).read_bytes() for name in ("probe.json", "outcomes.npz")] == before
