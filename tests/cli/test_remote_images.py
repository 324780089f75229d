"""Images at addresses on the command line: run, resumed by the folder alone, and what they cannot have."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def address(tmp_path, save_scene):
    for name in ("a.jpg", "b/c.png"):
        save_scene(tmp_path / "photos" / name)
    return f"file://{tmp_path}/photos"


def test_images_at_an_address_run_as_files_do(lost_reg, address, tmp_path):
    out, plain = tmp_path / "out", tmp_path / "plain"
    assert "1 image in" in lost_reg("run", address, "-b", "tiny", "--out", out, "--limit", 1).stdout
    record = json.loads((out / "run.json").read_text())
    assert record["root"] == address and record["settings"]["inputs"] == [address]
    resumed = lost_reg("run", "--resume", "--out", out)
    assert resumed.exit_code == 0 and "1 was done before" in resumed.stdout, resumed.output
    lost_reg("run", tmp_path / "photos", "-b", "tiny", "--out", plain)
    assert (out / "predictions.jsonl").read_bytes() == (plain / "predictions.jsonl").read_bytes()


def test_what_addresses_cannot_have_is_one_line(refused, address, tmp_path):
    assert "copy them here first" in refused(
        "run", address, "-b", "tiny", "--visualize", "--out", tmp_path / "out"
    )
    assert "nothing is at" in refused("run", f"{address}/none", "-b", "tiny", "--out", tmp_path / "out")
    assert "is a path" in refused(
        "run", address, tmp_path / "photos", "-b", "tiny", "--out", tmp_path / "out"
    )
    assert "another package" in refused("run", "adl://store/a", "-b", "tiny", "--out", tmp_path / "out")
