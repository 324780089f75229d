"""`lost-reg train detector` and `lost-reg run --method detector`: from images to scored boxes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from detector_cases import run_on_scenes, write_run

from lost_reg.discovery.methods import describe_setting
from lost_reg.runs.folder import read_run
from lost_reg.training.detector_folder import read_detector_record

SMALL = ("--batch-size", 2, "--min-size", 64, "--max-size", 64, "--channels", 8, "--steps", 3)


@pytest.fixture
def run(tmp_path, save_scene):
    return run_on_scenes(tmp_path, save_scene, labels=("b", "a"))


@pytest.fixture
def detector(lost_reg, run, tmp_path):
    """A detector of two classes, hardly trained."""
    result = lost_reg("train", "detector", run, "--out", tmp_path / "detector", "--classes", *SMALL)
    assert result.exit_code == 0, result.output
    assert "4 boxes of 4 images, 2 classes" in result.stderr and "3 steps" in result.stdout
    return tmp_path / "detector"


def test_everything_reads_the_run_of_a_detector(lost_reg, detector, tmp_path, make_coco):
    photos, found = tmp_path / "photos", tmp_path / "results" / "found"
    (photos / "broken.png").write_bytes(b"nothing")
    arguments = (
        "--method", "detector", "--detector", detector, "--max-objects", 3, "--out", found, "--workers", 1,
        "--visualize",
    )  # fmt: skip
    first = lost_reg("run", photos, *arguments, "--limit", 2)
    assert first.exit_code == 0 and "2 images" in first.stdout, first.output
    rest = lost_reg("run", photos, *arguments, "--resume")
    assert rest.exit_code == 0 and "1 of 3 images could not be used" in rest.stderr, rest.output
    results = read_run(found)
    assert len(results.predictions) == 4 and list(results.failures) == ["broken.png"]
    assert results.settings["method"] == "detector" and results.settings["backbone"] == "tiny"
    assert {one.label for image in results.predictions.values() for one in image.objects} <= {"a", "b"}
    assert len(list((found / "pictures").iterdir())) == 4
    assert describe_setting(results.settings).startswith("detector ")

    names = [*(f"{number}.png" for number in range(4)), "broken.png"]
    truth = make_coco(tmp_path / "truth", {name: [(8, 8, 32, 32, 0)] for name in names})
    for command in ("corloc", "score"):
        (row,) = json.loads(lost_reg(command, found, "--dataset", truth, "--json").stdout)
        assert row["images"] == 5 and row["unusable"] == 1 and "detector" in row["backbone"]
    other = lost_reg(
        "run", photos, "--method", "lost", "--out", tmp_path / "results" / "lost", "--workers", 0
    )
    assert other.exit_code == 0
    for arguments in (
        ("compare", found, tmp_path / "results" / "lost", "--dataset", truth),
        ("report", tmp_path / "results", "--out", tmp_path / "report.html"),
        ("export", found, "--to", "coco", "--out", tmp_path / "found.json"),
    ):
        result = lost_reg(*arguments)
        assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "found.json").read_text())["images"]


def test_options_that_do_not_apply_are_refused(lost_reg, refused, detector, run, tmp_path):
    photos, out = tmp_path / "photos", ("--out", tmp_path / "found")
    applied = ("run", photos, *out, "--method", "detector")
    assert "needs --detector" in refused(*applied, exit_code=2)
    assert "needs --method detector" in refused("run", photos, *out, "--detector", detector, exit_code=2)
    for option in (("--facet", "q"), ("--backbone", "dino"), ("--masks",), ("--preset", "best")):
        assert f"{option[0]} does not apply" in refused(*applied, "--detector", detector, *option)
    assert "no detector in" in refused(*applied, "--detector", photos)
    assert not (tmp_path / "found").exists()
    train = ("train", "detector", run, "--out", tmp_path / "other")
    assert "it is not a weight file" in refused(*train, "--weights", photos / "0.png")
    assert "--min-size" in refused(*train, "--min-size", "big")
    assert "weights" in refused(*train, "--backbone", "resnet18", "--weights", photos / "0.png")
    again = ("train", "detector", run, "--out", detector, *SMALL[:-1], 1)
    assert "--resume continues it, --overwrite starts it anew" in refused(*again)
    (detector / "mine.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in detector.iterdir()}
    torch.save({"model": {"nothing.weight": torch.zeros(2)}}, tmp_path / "unfit.pth")
    for more in (
        ("--weights", photos / "0.png"),
        ("--weights", tmp_path / "unfit.pth"),
        ("--backbone", "resnet18", "--weights", tmp_path / "unfit.pth"),
    ):
        refused(*again, *more, "--overwrite")
        assert {path.name: path.read_bytes() for path in detector.iterdir()} == before
    assert lost_reg(*again, "--overwrite").exit_code == 0
    assert read_detector_record(detector)["config"]["steps"] == 1
    assert len((detector / "log.csv").read_text().splitlines()) == 2 and (detector / "mine.txt").is_file()


def test_a_run_that_cannot_be_trained_on_is_one_line(refused, lost_reg, tmp_path, save_scene):
    run = run_on_scenes(tmp_path, save_scene)
    train = ("train", "detector", run, "--out", tmp_path / "detector", *SMALL)
    assert "`lost-reg cluster` gives them" in refused(*train, "--classes")
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert "--image-root names the folder" in refused(*train)
    assert not (tmp_path / "detector").exists()
    assert lost_reg(*train, "--image-root", tmp_path / "moved").exit_code == 0
    empty = write_run(tmp_path / "empty", tmp_path / "moved", {"0.png": []})
    assert "no boxes" in refused("train", "detector", empty, "--out", tmp_path / "other")


def test_a_stopped_training_says_how_to_continue(run, tmp_path):
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "lost_reg", "train", "detector", run, "--out", out, *SMALL[:-1], 5000]
    process = subprocess.Popen([str(one) for one in command], stderr=subprocess.PIPE, text=True)
    while not (out / "log.csv").exists() or len((out / "log.csv").read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=600)[1]
    assert process.returncode == 143
    assert "Interrupted: stopped after" in text and "from the last checkpoint, or from the start" in text
