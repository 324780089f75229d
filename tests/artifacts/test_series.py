"""A series of checkpoints: which files, in which order, and what is refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import refusal
from safetensors.torch import load_file, save_file

from lost_reg.artifacts.series import Model, find_series
from lost_reg.backbones.checkpoint_files import recorded_numbers
from lost_reg.backbones.loading import load_backbone

NOTHING = {"weight": torch.zeros(2)}


@pytest.fixture(scope="module")
def state():
    return load_file(load_backbone("tiny", device="cpu").weights.path)


def saved(path: Path, **numbers) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"teacher": NOTHING, **numbers}, path)
    return path


def steps_of(series):
    return [(Path(one.weights).name, one.step) for one in series.models]


def test_steps_are_numbers_in_names_and_not_their_order_as_texts(tmp_path):
    for step in (2, 10, 1):
        saved(tmp_path / f"vits14-ckpt-{step:03}.pth")
    series = find_series("tiny", [f"{tmp_path}/*.pth"])
    assert series.steps == "file name"
    assert steps_of(series) == [(f"vits14-ckpt-{step:03}.pth", step) for step in (1, 2, 10)]
    assert {one.name for one in series.models} == {"tiny"}


@pytest.mark.parametrize(
    "names, steps",
    [
        (["training_124/teacher.pth", "training_1249/teacher.pth"], [124, 1249]),  # as DINOv2 writes them
        (["ckpt-5-vits14.pth", "ckpt-20-vits14.pth"], [5, 20]),  # the last number in which they differ
        (["a1/ckpt-7.pth", "a2/ckpt-7.pth"], [1, 2]),
        (["0099.pth", "0100.pth", "1.pth"], [1, 99, 100]),
    ],
)
def test_the_number_that_tells_them_apart(names, steps, tmp_path):
    for name in names:
        saved(tmp_path / name)
    series = find_series("tiny", [f"{tmp_path}/**/*.pth"])
    assert [one.step for one in series.models] == steps


def test_what_checkpoints_record_comes_before_their_names(tmp_path):
    saved(tmp_path / "1.pth", iteration=300, epoch=2)
    saved(tmp_path / "2.pth", iteration=100, epoch=1)
    series = find_series("tiny", [f"{tmp_path}/*.pth"])
    assert series.steps == "iteration" and steps_of(series) == [("2.pth", 100), ("1.pth", 300)]
    saved(tmp_path / "3.pth", epoch=9)  # not all record the iteration
    series = find_series("tiny", [f"{tmp_path}/*.pth"])
    assert series.steps == "epoch" and [one.step for one in series.models] == [1, 2, 9]
    saved(tmp_path / "4.pth", epoch=9)  # two of one epoch
    series = find_series("tiny", [f"{tmp_path}/*.pth"])
    assert series.steps == "file name" and [one.step for one in series.models] == [1, 2, 3, 4]


@pytest.mark.parametrize("old", [True, False])
def test_numbers_that_a_file_records(old, tmp_path):
    path = tmp_path / "a.pth"
    content = {"epoch": 3, "loss": 0.5, "name": "x", "on": True, "inner": {"step": 4}, "model": NOTHING, 5: 6}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    assert recorded_numbers(path) == {"epoch": 3}
    safe = tmp_path / "a.safetensors"
    save_file(NOTHING, safe, metadata={"step": "12", "format": "pt", "far": "9" * 16, "minus": "-1"})
    assert recorded_numbers(safe) == {"step": 12}
    save_file(NOTHING, safe)
    assert recorded_numbers(safe) == {}
    torch.save([1, 2], path)
    assert recorded_numbers(path) == {}


def test_a_folder_of_transformers_and_a_file_named_twice_count_once(tmp_path):
    for step in (500, 1000):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file(NOTHING, folder / "model.safetensors")
    series = find_series("tiny", [f"{tmp_path}/checkpoint-*", f"{tmp_path}/checkpoint-500"])
    assert steps_of(series) == [("checkpoint-500", 500), ("checkpoint-1000", 1000)]
    assert series.find(f"{tmp_path}/x/../checkpoint-500") == series.models[0]
    assert series.find("tiny") is None


def test_what_is_no_series_is_refused(tmp_path):
    assert "no file matches 'nope/ckpt-*.pth'" in refusal(find_series, "tiny", ["nope/ckpt-*.pth"])
    saved(tmp_path / "one.pth")
    assert "only" in refusal(find_series, "tiny", [f"{tmp_path}/one.pth"])
    for name in ("ckpt-100-loss0.35.pth", "ckpt-200-loss0.21.pth", "ckpt-1000-loss0.19.pth"):
        saved(tmp_path / "losses" / name)
    text = refusal(find_series, "tiny", [f"{tmp_path}/losses/*.pth"])
    assert "several differ, and in different orders" in text
    saved(tmp_path / "two.pth", epoch=3)
    text = refusal(find_series, "tiny", [f"{tmp_path}/*.pth"])
    assert "the steps of 2 checkpoints such as" in text and "one of iteration, global_step" in text
    (tmp_path / "three.pth").write_bytes((tmp_path / "one.pth").read_bytes()[:-30])
    text = refusal(find_series, "tiny", [f"{tmp_path}/*.pth"])
    assert "cannot read weights from" in text and "three.pth" in text and "damaged" in text


def test_a_checkpoint_of_another_architecture_is_named_without_reading_its_values(state, tmp_path):
    good = tmp_path / "good.safetensors"
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}, good)
    Model("tiny", str(good)).check()  # its values would be refused
    shallow = tmp_path / "ckpt-3.safetensors"
    save_file({name: tensor for name, tensor in state.items() if not name.startswith("blocks.5.")}, shallow)
    text = refusal(Model("tiny", str(shallow)).check)
    assert f"'{shallow}' does not fit tiny: 5 blocks" in text
    wide = {name: torch.cat([tensor, tensor], dim=-1) for name, tensor in state.items()}
    save_file(wide, shallow)
    assert "should be" in refusal(Model("tiny", str(shallow)).check)
