"""Training a detector: it learns, it is deterministic, and it can be killed and continued."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_cases import SIDE, boxes_of, run_on_scenes, small
from helpers import refusal
from safetensors.torch import load_file

from lost_reg.boxes import iou
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.runs.batches import outcomes_of
from lost_reg.runs.options import LoaderOptions
from lost_reg.training import detector_training
from lost_reg.training.checkpoints import read_checkpoint
from lost_reg.training.detector_data import Steps, read_training_set
from lost_reg.training.detector_folder import load_detector
from lost_reg.training.detector_run import Detection, _prediction, load_detector_model
from lost_reg.training.detector_training import TrainingOptions, train_detector
from lost_reg.training.ranks import Ranks
from lost_reg.types import FoundObject, Prediction

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path, save_scene):
    return read_training_set(run_on_scenes(tmp_path, save_scene))


def train(data, out, *, resume=False, progress=lambda done, total: None, save_every=2, **changes):
    """Train a small detector; the tensors of its weights."""
    options = TrainingOptions(resume=resume, save_every=save_every)
    train_detector(data, out, small(**changes), options, progress)
    return load_file(out / "model.safetensors")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def detect(named, model, size, most=100):
    job = Detection(LoaderOptions(workers=0), Path(), Path(), most)
    return outcomes_of(named, job, model, BatchSize(size))


def losses(out):
    return [{**row, "images_per_second": ""} for row in csv.DictReader((out / "log.csv").open())]


def test_a_detector_finds_what_it_was_trained_on(data, tmp_path):
    train(data, tmp_path / "detector", steps=40, channels=16, lr=0.4, milestones=(0.9,), warmup=5)
    model = load_detector_model(tmp_path / "detector", device="cpu")
    named = [(f"{number}.png", data.folder.root / f"{number}.png") for number in range(4)]
    found = {one.image: one for one in detect(named, model, 4)}
    for number, box in enumerate(boxes_of(4)):
        best = found[f"{number}.png"].objects[0]
        assert iou(best.box_xyxy, [box])[0] > 0.6 and best.score > 0.8 and best.label is None
    rows = losses(tmp_path / "detector")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 3
    assert (tmp_path / "detector" / "loss.svg").read_text().startswith("<?xml")


def test_a_training_depends_on_its_seed_alone(data, tmp_path):
    first = train(data, tmp_path / "first")
    torch.manual_seed(99)
    assert same(first, train(data, tmp_path / "again"))
    assert not same(first, train(data, tmp_path / "other", seed=1))
    assert losses(tmp_path / "first") == losses(tmp_path / "again")


class Stop(Exception):
    pass


def stop_at(step):
    def progress(done, total):
        if done == step:
            raise Stop

    return progress


@pytest.mark.parametrize("step", [1, 3])  # before the first checkpoint, and after it
def test_a_resumed_training_ends_at_the_same_weights(data, tmp_path, step):
    whole = train(data, tmp_path / "whole")
    with pytest.raises(Stop):
        train(data, tmp_path / "stopped", progress=stop_at(step))
    assert "not finished" in refusal(load_detector, tmp_path / "stopped", CPU)
    assert "`resume` continues it" in refusal(train, data, tmp_path / "stopped")
    assert same(whole, train(data, tmp_path / "stopped", resume=True))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert not (tmp_path / "stopped" / "checkpoint.safetensors").exists()


KILLED = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
from detector_cases import small
from lost_reg.training.detector_data import read_training_set
from lost_reg.training.detector_training import TrainingOptions, train_detector
from lost_reg.types import FoundObject, Prediction
data = read_training_set(Path({run!r}))
print("started", flush=True)
train_detector(data, Path({out!r}), small(steps=2000), TrainingOptions(save_every=1))
"""


def test_kill_9_leaves_what_can_be_continued(data, tmp_path):
    out = tmp_path / "killed"
    code = KILLED.format(path=sys.path, run=str(tmp_path / "run"), out=str(out))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not (out / "checkpoint.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    done = read_checkpoint(out).step
    steps = done + 2
    record = json.loads((out / "detector.json").read_text())
    record["config"]["steps"] = steps  # as if it had been shorter: the learning rate is the same this early
    (out / "detector.json").write_text(json.dumps(record))
    assert same(train(data, out, resume=True, steps=steps), train(data, tmp_path / "whole", steps=steps))


def test_another_training_is_not_continued(data, tmp_path):
    train(data, tmp_path / "detector", steps=1)
    text = refusal(train, data, tmp_path / "detector", resume=True, steps=1, lr=0.5)
    assert "lr: 0.02, now 0.5" in text
    done = (tmp_path / "detector" / "model.safetensors").read_bytes()
    train(data, tmp_path / "detector", resume=True, steps=1)  # nothing to do
    assert (tmp_path / "detector" / "model.safetensors").read_bytes() == done
    assert "other files" in refusal(train, data, tmp_path)
    assert "is a file" in refusal(train, data, tmp_path / "run" / "run.json")


def test_damaged_files_are_one_line(data, tmp_path):
    train(data, tmp_path / "detector", steps=1)
    assert "no detector" in refusal(load_detector, tmp_path, CPU)
    (tmp_path / "detector" / "model.safetensors").write_bytes(b"nothing")
    assert "does not hold the weights" in refusal(load_detector, tmp_path / "detector", CPU)
    (tmp_path / "detector" / "detector.json").write_text("{}")
    assert "not the record of a detector" in refusal(load_detector, tmp_path / "detector", CPU)
    with pytest.raises(Stop):
        train(data, tmp_path / "stopped", progress=stop_at(3))
    (tmp_path / "stopped" / "checkpoint.safetensors").write_bytes(b"nothing")
    assert "is damaged" in refusal(train, data, tmp_path / "stopped", resume=True)


def test_a_full_disk_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    whole = train(data, tmp_path / "whole")
    write, checkpoints = Path.write_bytes, []

    def full(path, content):
        checkpoints.append(path)
        if len(checkpoints) > 1:
            write(path, b"a part")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert "No space left on device" in refusal(train, data, tmp_path / "full")
    assert (tmp_path / "full" / "checkpoint.safetensors").is_file()
    assert same(whole, train(data, tmp_path / "full", resume=True))


def test_mixed_precision_is_near(data, tmp_path):
    for precision in ("fp32", "bf16"):
        train_detector(data, tmp_path / precision, small(), TrainingOptions(precision=precision))
    near, exact = (float(losses(tmp_path / one)[0]["loss"]) for one in ("bf16", "fp32"))
    assert near == pytest.approx(exact, rel=0.02) and near != exact
    model = load_detector_model(tmp_path / "bf16", device="cpu", precision="bf16")
    (found,) = detect([("0.png", data.folder.root / "0.png")], model, 1)
    assert found.objects


def test_a_loss_that_is_not_finite_ends_the_training(data, tmp_path):
    text = refusal(train, data, tmp_path / "detector", lr=1e30, warmup=0, steps=20)
    assert "not finite" in text and "`overwrite` this training, or choose another `out`" in text


RANK = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
from detector_cases import small
from lost_reg.training.ranks import joined, ranks_of_environment
from lost_reg.training.detector_data import read_training_set
from lost_reg.training.detector_training import TrainingOptions, train_detector
from lost_reg.types import FoundObject, Prediction
ranks = ranks_of_environment()
with joined(ranks):
    data = read_training_set(Path({run!r}))
    train_detector(data, Path({out!r}), small(steps=2), TrainingOptions(ranks=ranks))
"""


def test_two_ranks_train_on_the_mean_of_their_gradients(data, tmp_path, free_port):
    out = tmp_path / "shared"
    code = RANK.format(path=sys.path, run=str(tmp_path / "run"), out=str(out))
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], env={**environment, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    shared = load_file(out / "model.safetensors")
    expected = _mean_of_gradients(data, tmp_path / "alone", small(steps=2))
    for name, value in shared.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def _mean_of_gradients(data, out, config):
    """The weights after training with each rank's share in turn, in this process."""
    training = detector_training._Training(data, out, config, TrainingOptions())
    model, optimizer = training._model.train(), training._optimizer
    for step in range(config.steps):
        optimizer.zero_grad()
        for rank in range(2):
            torch.manual_seed(detector_training._seed(config.seed, step, rank))
            images = Steps(data, config, Ranks(rank, 2))[step]
            pixels = [image.float() / 255 for image, _ in images]
            (sum(model(pixels, [target for _, target in images]).values()) / 2).backward()
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        optimizer.step()
    return model.state_dict()


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_images_of_any_size_are_detected_in_their_own_pixels(data, tmp_path, save_scene):
    train(data, tmp_path / "detector", steps=1)
    model = load_detector_model(tmp_path / "detector", device="cpu")
    model.detector.model.roi_heads.score_thresh = 0.0
    paths = [save_scene(tmp_path / name, size, (5, 5, 20, 20)) for name, size in SIZES.items()]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    named = [(path.name, path) for path in (*paths, broken)]
    found = {one.image: one for one in detect(named, model, 2, 3)}
    assert "not an image" in found.pop("broken.png").reason
    for name, (height, width) in SIZES.items():
        assert found[name].size_hw == (height, width) and 0 < len(found[name].objects) <= 3
        for one in found[name].objects:
            xmin, ymin, xmax, ymax = one.box_xyxy
            assert 0 <= xmin < xmax <= width and 0 <= ymin < ymax <= height
            row, column = one.seed
            assert row < found[name].grid_hw[0] and column < found[name].grid_hw[1]
        alone = list(detect([(name, tmp_path / name)], model, 1, 3))
        assert alone[0].objects[0].box_xyxy == pytest.approx(found[name].objects[0].box_xyxy, abs=1e-3)


SIZES = {"a.png": (SIDE, SIDE), "b.png": (40, 90), "c.png": (200, 30), "d.png": (40, 90)}


def test_boxes_are_mapped_to_the_original_by_hand(data, tmp_path):
    train(data, tmp_path / "detector", steps=1)
    model = load_detector_model(tmp_path / "detector", device="cpu")
    image = DecodedImage("a.png", np.zeros((200, 100, 3), np.uint8), (200, 100), (200, 100))
    found = {  # in an image of 64 x 32 pixels
        "boxes": torch.tensor([[8.0, 16, 24, 48]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([1]),
    }
    expected = FoundObject((25.0, 50.0, 75.0, 150.0), 0.5, (2, 1))
    assert _prediction(image, found, model) == Prediction("a.png", (200, 100), (4, 2), (expected,))
