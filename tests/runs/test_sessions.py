"""Sessions of a run from end to end: what a later one keeps of an earlier one, and what it refuses."""

from __future__ import annotations

import json
import tarfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import without_notes
from PIL import Image

from lost_reg import LostRegError, Prediction, load_backbone
from lost_reg.cli.app import main
from lost_reg.images.sources import list_images
from lost_reg.runs.folder import read_run
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sessions import RunSummary, objects_summary
from lost_reg.runs.sources import source_of_files


def lost_reg(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def folders(tmp_path, save_scene, monkeypatch):
    for name in ("A/1.jpg", "A/2.jpg", "B/1.jpg"):
        save_scene(tmp_path / name, seed=len(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*names: str) -> Path:
    Path("list").write_text("".join(f"{name}\n" for name in names))
    return Path("list")


def test_a_list_whose_names_would_mean_other_files_is_not_resumed(folders):
    assert lost_reg("run", "--files-from", listed("A/1.jpg"), "--out", "out").exit_code == 0
    before = Path("out/run.json").read_bytes()
    for names in (["B/1.jpg"], ["A/1.jpg", "B/1.jpg"]):
        result = lost_reg("run", "--files-from", listed(*names), "--out", "out", "--resume")
        assert result.exit_code == 1 and str(folders / "A") in result.stderr
        assert Path("out/run.json").read_bytes() == before
    longer = listed("A/1.jpg", "A/2.jpg")
    result = lost_reg("run", "--files-from", longer, "--out", "out", "--resume")
    assert result.exit_code == 0 and set(read_run(Path("out")).predictions) == {"1.jpg", "2.jpg"}


def test_a_shard_that_is_mended_has_failed_no_more(folders):
    with tarfile.open("whole.tar", "w") as tar:
        tar.add("A", arcname=".")
    whole = Path("whole.tar").read_bytes()
    Path("m.tar").write_bytes(whole[:1500])
    result = lost_reg("run", "m.tar", "A/../whole.tar", "--out", "out")
    assert "m.tar" in read_run(Path("out")).failures and "1 of " in result.stderr
    Path("m.tar").write_bytes(whole)
    result = lost_reg("run", "m.tar", "A/../whole.tar", "--out", "out", "--resume")
    assert result.exit_code == 0 and without_notes(result) == []
    results = read_run(Path("out"))
    assert results.failures == {} and len(results.predictions) == 4
    assert [one.get("finished") for one in results.record["sessions"]] == [True, True]


def test_what_fails_again_stays_recorded_once(folders):
    Path("A/bad.jpg").write_text("no image")
    for more in ([], ["--resume"], ["--resume"]):
        assert "bad.jpg" in lost_reg("run", "A", "--out", "out", *more).stderr
    assert len(Path("out/errors.jsonl").read_text().splitlines()) == 1
    Path("A/3.jpg").write_bytes(Path("A/1.jpg").read_bytes())
    lost_reg("run", "A", "--out", "out", "--resume", "--limit", 1)  # which does not come to the bad one
    assert set(read_run(Path("out")).failures) == {"bad.jpg"}


def test_an_export_knows_whether_a_run_is_finished(folders):
    lost_reg("run", "--files-from", listed("A/1.jpg", "A/1.jpg"), "--out", "twice")
    assert "not done" not in lost_reg("export", "twice", "--to", "csv", "--out", "a.csv").output
    with tarfile.open("a.tar", "w") as tar:
        tar.add("A", arcname=".")
    lost_reg("run", "a.tar", "--out", "shards", "--limit", 1)
    assert "not finished" in lost_reg("export", "shards", "--to", "csv", "--out", "b.csv").stderr
    lost_reg("run", "a.tar", "--out", "shards", "--resume")
    assert lost_reg("export", "shards", "--to", "csv", "--out", "c.csv").stderr == ""


def test_an_image_wider_than_jpeg_can_hold_has_a_picture_and_a_crop(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 70_000, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in/wide.png")
    (tmp_path / "in/wide.png").rename(tmp_path / "in/wide.jpg")
    result = lost_reg("run", tmp_path / "in", "--out", tmp_path / "out", "--visualize")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "out/pictures/wide.jpg") as picture:
        assert picture.width == 65_000
    assert lost_reg("export", tmp_path / "out", "--crops", tmp_path / "crops").exit_code == 0
    assert [path.suffix for path in (tmp_path / "crops").iterdir() if path.suffix != ".csv"] == [".png"]
    assert json.loads((tmp_path / "out/predictions.jsonl").read_text())["size_hw"] == [16, 70_000]


def test_the_line_on_objects_names_images_in_which_nothing_was_found(tmp_path):
    def line(**counts):
        return objects_summary(RunSummary(tmp_path, 3, 0, (), 0, 1.0, {}, **counts))

    assert line(objects=7) == "7 objects found in 3 images"
    assert line(objects=1, empty=2) == "1 object found in 3 images; nothing in 2 images"


class FakeEngine:
    """Finds nothing in the first image, then raises an error; `at_close` is what is recorded at its end."""

    def __init__(self, error: BaseException | None):
        self.error, self.facts, self.parquet = error, {"engine": "fake"}, None

    def check(self, images, limit):
        """All is well."""

    def outcomes(self, todo, job, backbone):
        (name, _), *_ = todo
        yield Prediction(name, (16, 16), (1, 1), ())
        if self.error:
            raise self.error

    def close(self):
        self.at_close = json.loads(Path("out/run.json").read_text())["sessions"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), LostRegError("no cluster")])
def test_a_session_is_recorded_before_its_engine_is_closed(folders, error):
    """Closing can outlast the second and a half that a stopped command has."""
    engine = FakeEngine(error)
    source = source_of_files(list_images(["A"]), ["A"])
    with pytest.raises(type(error)) if error else nullcontext():
        run(source, load_backbone("tiny"), Path("out"), options=RunOptions(engine=engine))
    (session,) = engine.at_close
    assert (session["engine"], session["images"]) == ("fake", 1)
    assert ("finished" in session) == (error is None)
