"""`lost-reg draw`: the pictures and maps of a finished run are those of a run that made them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lost_reg.runs.map_files import read_maps

FAST = ("--workers", 0)


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "lost", "--max-objects", 2, "--masks"),
        ("--layer=-2,-1", "--max-side", 64),
        ("--method", "maskcut", "--weights", "random"),
    ],
    ids=str,
)
def test_what_is_drawn_afterwards_is_what_the_run_would_have_drawn(lost_reg, photos, tmp_path, options):
    run, out = ("run", photos, *options, *FAST, "--out"), tmp_path / "out"
    assert lost_reg(*run, tmp_path / "whole", "--save-maps", "--visualize").exit_code == 0
    assert lost_reg(*run, out).exit_code == 0
    result = lost_reg("draw", out, *FAST)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 pictures in {out / 'pictures'}\n2 files of maps in {out / 'maps'}\n"
    for name in ("a.jpg", "sub/B.PNG.jpg"):
        assert (out / "pictures" / name).read_bytes() == (tmp_path / "whole/pictures" / name).read_bytes()
    for name in ("a.jpg.npz", "sub/B.PNG.npz"):
        ours, theirs = read_maps(out / "maps" / name), read_maps(tmp_path / "whole/maps" / name)
        assert ours.values.keys() == theirs.values.keys()
        for key, values in ours.values.items():
            assert np.allclose(values, theirs.values[key], atol=1e-2 * np.abs(values).max())
        assert np.array_equal(ours.mask, theirs.mask)
    (out / "pictures" / "a.jpg").unlink()
    again = lost_reg("draw", out, *FAST, "--only", "pictures").stdout
    assert again == f"1 picture in {out / 'pictures'}, 1 was there before\n"


def test_images_that_are_gone_are_named(lost_reg, photos, tmp_path):
    lost_reg("run", photos, *FAST, "--out", tmp_path / "out")
    (photos / "a.jpg").unlink()
    result = lost_reg("draw", tmp_path / "out", *FAST)
    assert (
        result.exit_code == 0
        and result.stderr.count("1 of 2 images could not be used: a.jpg (no file on this machine)") == 2
    )


def test_runs_of_others_are_drawn_from_images_that_are_named(lost_reg, refused, photos, tmp_path):
    out = tmp_path / "out"
    lost_reg("run", photos, *FAST, "--out", out)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "root": "/"}))
    assert "name their folder with --image-root" in refused("draw", out, *FAST)
    assert not (out / "pictures").exists() and not (out / "maps").exists()
    assert lost_reg("draw", out, *FAST, "--image-root", photos).exit_code == 0


def test_what_cannot_be_drawn_is_one_line(lost_reg, refused, photos, tmp_path):
    out = tmp_path / "out"
    lost_reg("run", photos, *FAST, "--out", out)
    assert "no run in" in refused("draw", photos)
    assert "is not the file that" in refused("draw", out, "--only", "maps", "--weights", changed(tmp_path))
    record = json.loads((out / "run.json").read_text())
    record["settings"]["method"] = "head"
    (out / "run.json").write_text(json.dumps(record))
    line = refused("draw", out, "--only", "maps", "--image-root", photos)
    assert "cannot be made afterwards, because the method head" in line and "--save-maps" in line


def changed(folder):
    """A copy of the weights of `tiny`, in which one number is another."""
    from safetensors.torch import load_file, save_file

    from lost_reg.backbones.loading import load_backbone

    state = load_file(load_backbone("tiny").weights.path)
    next(iter(state.values())).view(-1)[0] += 1
    save_file(state, folder / "changed.safetensors")
    return folder / "changed.safetensors"
