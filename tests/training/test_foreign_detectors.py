"""Detector folders of others: what they name is not read, and nothing in them is executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from detector_cases import SIDE, boxes_of, run_on_scenes, small, write_run
from helpers import found_object, refusal
from safetensors.torch import load_file, save_file

from lost_reg.backbones.loading import load_backbone
from lost_reg.cli.app import main
from lost_reg.runs.folder import RUN_FILE
from lost_reg.training.checkpoints import CHECKPOINT_FILE, read_checkpoint
from lost_reg.training.detector_data import read_training_set
from lost_reg.training.detector_folder import (
    DETECTOR_FILE,
    load_detector,
)
from lost_reg.training.detector_training import TrainingOptions, train_detector

CPU = torch.device("cpu")
FOREIGN = (
    "was made by somebody else, on another machine or by an earlier version, so its weights are not read"
)


class Stop(Exception):
    pass


@pytest.fixture
def weights(tmp_path):
    """The weights of `tiny` in a file of the user's."""
    bundled = load_backbone("tiny", device="cpu").weights.path
    path = tmp_path / "mine.safetensors"
    path.write_bytes(Path(bundled).read_bytes())
    return path


@pytest.fixture
def run(tmp_path, save_scene, weights):
    """A run by weights in a file."""
    objects = {}
    for number, box in enumerate(boxes_of(2)):
        save_scene(tmp_path / "photos" / f"{number}.png", (SIDE, SIDE), box, seed=number)
        objects[f"{number}.png"] = [found_object(box)]
    recorded = load_backbone("tiny", weights=str(weights), device="cpu").weights.recorded()
    assert recorded["source"] == "file"
    return write_run(tmp_path / "run", tmp_path / "photos", objects, weights=(recorded, str(weights)))


@pytest.fixture
def detector(tmp_path, run):
    train_detector(read_training_set(run), tmp_path / "detector", small(steps=1), TrainingOptions())
    return tmp_path / "detector"


def changed(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_the_weights_that_a_detector_names_are_read_only_from_ones_own(detector, weights, tmp_path):
    assert load_detector(detector, CPU).vit is not None
    other = tmp_path / "secret.safetensors"
    weights.rename(other)  # the same weights, so that only the rule is in the way
    changed(detector / DETECTOR_FILE, lambda record: record["vit"].update(weights_file=str(other)))
    assert refusal(load_detector, detector, CPU) == f"{detector} {FOREIGN}: name them with `weights`"
    assert load_detector(detector, CPU, str(other)).vit is not None
    changed(detector / DETECTOR_FILE, lambda record: record["vit"]["weights"].update(source="hub"))
    changed(detector / DETECTOR_FILE, lambda record: record["vit"]["weights"].update(name=str(other)))
    assert FOREIGN in refusal(load_detector, detector, CPU)


def test_a_detector_without_a_seal_is_another_users(detector):
    changed(detector / DETECTOR_FILE, lambda record: record.pop("seal"))
    assert FOREIGN in refusal(load_detector, detector, CPU)


def test_the_command_takes_the_weights_of_the_vit(detector, weights, tmp_path):
    changed(detector / DETECTOR_FILE, lambda record: record.pop("seal"))
    command = ["run", str(tmp_path / "photos"), "--method", "detector", "--detector", str(detector)]
    command += ["--out", str(tmp_path / "out"), "--workers", "0"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1 and "name them with --weights" in refused.stderr
    result = CliRunner().invoke(main, [*command, "--weights", str(weights)])
    assert result.exit_code == 0, result.stderr


def test_a_training_reads_no_weights_that_a_foreign_run_names(run, weights, tmp_path):
    changed(run / RUN_FILE, lambda record: record.pop("seal"))
    photos = str(tmp_path / "photos")
    command = ["train", "detector", str(run), "--image-root", photos, "--out", str(tmp_path / "detector")]
    command += ["--steps", "1", "--channels", "8", "--min-size", str(SIDE), "--max-size", str(SIDE)]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1 and "its weights are not read: name them with --weights" in refused.stderr
    result = CliRunner().invoke(main, [*command, "--weights", str(weights)])
    assert result.exit_code == 0, result.stderr


def test_weights_for_a_detector_without_a_file_of_its_own_are_refused(save_scene, weights, tmp_path):
    data = read_training_set(run_on_scenes(tmp_path, save_scene))
    train_detector(data, tmp_path / "resnet", small(steps=1, backbone="resnet18"), TrainingOptions())
    assert "leave it out" in refusal(load_detector, tmp_path / "resnet", CPU, str(weights))


# --- what they hold ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record["config"].update(channels=10**9), "'channels' of at most 4,096"),
        (lambda record: record["config"].update(max_size=10**9), "'max_size' of at most 16,384"),
        (lambda record: record["config"].update(min_sizes=[10**9]), "'min_size' of at most 16,384"),
        (lambda record: record["config"].update(proposals=[10**9, 1]), "'proposals' of at most 100,000"),
        (lambda record: record.update(classes=["a"] * 100_001), "not the record of a detector"),
        (lambda record: record.update(vit={}), "not the record of a detector"),
        (lambda record: record["vit"].update(weights=[]), "not the record of a detector"),
    ],
)
def test_a_record_that_asks_for_the_impossible_is_one_line(detector, change, reason):
    changed(detector / DETECTOR_FILE, change)
    assert reason in refusal(load_detector, detector, CPU)


@pytest.fixture
def stopped(run, tmp_path):
    """A training that was stopped after its first step; continues it."""

    def stop(done, total):
        if done == 2:
            raise Stop

    def train(progress=lambda done, total: None):
        options = TrainingOptions(resume=True, save_every=1)
        train_detector(read_training_set(run), tmp_path / "stopped", small(steps=3), options, progress)

    with pytest.raises(Stop):
        train(stop)
    return train


def test_a_pickle_of_an_earlier_version_is_not_opened(stopped, tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "stopped" / "checkpoint.pt").write_bytes(pickle.dumps(Attack()))
    assert "checkpoint.pt was made by an earlier version: delete it to begin again" in refusal(stopped)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("state", "change", "reason"),
    [
        (None, lambda tensors: {}, "is damaged"),
        ("[]", lambda tensors: {}, "is damaged"),
        ('{"step": -1, "scaler": {}}', lambda tensors: {}, "is damaged"),
        ('{"step": 1, "scaler": {}}', lambda tensors: {"momentum.0": torch.zeros(2)}, "not of this training"),
        (
            '{"step": 1, "scaler": {}}',
            lambda tensors: {"momentum.-1": tensors["momentum.0"].clone()},
            "not of this",
        ),
        ('{"step": 1, "scaler": {}}', lambda tensors: {"momentum.a": torch.zeros(2)}, "not of this training"),
        ('{"step": 1, "scaler": {}}', lambda tensors: {"model.a": torch.zeros(2)}, "not of this training"),
    ],
)
def test_a_hostile_state_of_a_training_is_one_line(stopped, tmp_path, state, change, reason):
    path = tmp_path / "stopped" / CHECKPOINT_FILE
    assert read_checkpoint(tmp_path / "stopped").step == 2
    tensors = load_file(path)
    save_file(tensors | change(tensors), path, {"state": state} if state else None)
    assert reason in refusal(stopped)


def test_a_training_without_momentum_is_continued(run, tmp_path):
    config, out = small(steps=2, momentum=0.0), tmp_path / "plain"

    def stop(done, total):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        train_detector(read_training_set(run), out, config, TrainingOptions(save_every=1), stop)
    assert read_checkpoint(out).step == 1
    train_detector(read_training_set(run), out, config, TrainingOptions(resume=True))
    assert load_detector(out, CPU).vit is not None
