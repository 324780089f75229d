"""`lost-reg run --refine`, and what is made of its masks."""

from __future__ import annotations

import json

from run_cases import lines_of


def test_refined_masks_from_run_to_export(lost_reg, photos, tmp_path):
    out = tmp_path / "out"
    assert lost_reg("run", photos, "--refine", "bilateral", "--visualize", "--out", out).exit_code == 0
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["masks"] is True and settings["refine"] == "bilateral"
    assert sorted(one["objects"][0]["mask"]["size_hw"] for one in lines_of(out)) == [[80, 70], [96, 128]]
    assert "other settings (masks, refine)" in lost_reg("run", photos, "--resume", "--out", out).stderr
    for to, name in (("coco", "x.json"), ("yolo-seg", "yolo"), ("png", "png")):
        result = lost_reg("export", out, "--to", to, "--out", tmp_path / name)
        assert result.exit_code == 0 and result.stdout.startswith("2 boxes of 2 images"), result.stderr
    assert lost_reg("report", out, "--out", tmp_path / "report").exit_code == 0


def test_it_is_off_by_default(lost_reg, photos, tmp_path):
    lost_reg("run", photos, "--out", tmp_path / "out")
    assert not {"masks", "refine"} & json.loads((tmp_path / "out/run.json").read_text())["settings"].keys()
    assert all("mask" not in one["objects"][0] for one in lines_of(tmp_path / "out"))
