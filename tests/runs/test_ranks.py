"""Several processes on one run: each image once, one folder in the end, and no loss where a rank dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from helpers import prediction, refusal
from run_cases import SETTINGS

import lost_reg
from lost_reg.cli.app import main
from lost_reg.images.sources import ALL
from lost_reg.runs import writer as writing
from lost_reg.runs.folder import read_run
from lost_reg.runs.ranks import ALONE, Ranks, ranks_of_environment
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Failure, Prediction

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(lost_reg.__path__[0]), "OMP_NUM_THREADS": "1"}
HANG_GUARD = 600  # seconds, after which a test fails that would not end; far more than a busy machine needs
RECORD = {"images": 9}


def found(name: str) -> Prediction:
    return prediction(name, (32, 16, 96, 64))


class Together(Ranks):
    """Ranks of one process, which need not wait for each other."""

    def wait(self) -> None:
        pass


def writer(folder: Path, rank: int, count: int = 3, **options) -> RunWriter:
    return RunWriter(folder, SETTINGS, RECORD, ranks=Together(rank, count), **options)


# --- what is written -------------------------------------------------------------------------------


def test_parts_are_read_before_they_are_joined_and_after(tmp_path):
    with writer(tmp_path, 0) as first, writer(tmp_path, 1) as second, writer(tmp_path, 2) as third:
        first.write(found("a"))
        second.write(found("b"))
        second.write(Failure("x", "damaged"))
        third.write(found("c"))
        before = read_run(tmp_path)
        first.join()
    after = read_run(tmp_path)
    assert after.predictions == before.predictions == {name: found(name) for name in "abc"}
    assert after.failures == before.failures == {"x": Failure("x", "damaged")}
    assert not list(tmp_path.glob("*.rank*"))
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 3


def test_what_a_dead_rank_did_is_taken_up_by_any_number_of_ranks(tmp_path):
    with writer(tmp_path, 0) as first, writer(tmp_path, 2) as third:
        first.write(found("a"))
        third.write(found("c"))
    with (tmp_path / "predictions.rank2.jsonl").open("ab") as file:
        file.write(b'{"image": "half')  # it was killed over this
    with writer(tmp_path, 0, 2, resume=True) as first, writer(tmp_path, 1, 2, resume=True) as second:
        assert [name for name in "abc" if name in first.done] == ["a", "c"]
        assert [name for name in "abc" if name in second.done] == ["a", "c"]
        first.write(found("d"))
        second.write(found("b"))
        first.join()
    assert set(read_run(tmp_path).predictions) == {"a", "b", "c", "d"}
    assert not list(tmp_path.glob("*.rank*"))


def test_a_join_that_was_cut_short_adds_nothing_twice(tmp_path, monkeypatch):
    with writer(tmp_path, 0) as first, writer(tmp_path, 1) as second:
        first.write(found("a"))
        second.write(found("b"))
        monkeypatch.setattr(Path, "unlink", lambda self: os._exit)  # killed before the part is deleted
        first.join()
        monkeypatch.undo()
        assert (tmp_path / "predictions.rank1.jsonl").exists()
        first.join()
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == ["a", "b"]


def test_a_part_that_cannot_be_joined_is_kept(tmp_path, monkeypatch):
    with writer(tmp_path, 0) as first, writer(tmp_path, 1) as second:
        second.write(found("b"))

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writing, "_add_lines", full)
        assert "No space left" in refusal(first.join)
    assert set(read_run(tmp_path).predictions) == {"b"}


def test_only_the_first_rank_keeps_the_record_and_the_lock(tmp_path):
    with writer(tmp_path, 0) as first:
        record = (tmp_path / "run.json").read_bytes()
        with writer(tmp_path, 1) as second:
            assert second.record == {} and first.record["settings"] == SETTINGS
            assert (tmp_path / "run.json").read_bytes() == record
        assert "another process" in refusal(writer, tmp_path, 0, resume=True)


# --- who is who ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, ALONE),
        ({"WORLD_SIZE": "4"}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Ranks(3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
    ],
)
def test_torchrun_says_who_is_who(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks_of_environment() == expected


@pytest.mark.parametrize("rank, count", [("4", "4"), ("-1", "4"), ("one", "4"), ("0", "0")])
def test_variables_that_make_no_sense_are_refused(monkeypatch, rank, count):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    assert f"RANK={rank}" in refusal(ranks_of_environment)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_shares_of_all_ranks_are_all_images_each_once(count):
    shares = [list(Ranks(rank, count).share.of(range(11))) for rank in range(count)]
    assert sorted(image for share in shares for image in share) == list(range(11))
    assert ALONE.share == ALL and list(ALONE.share.of("abc")) == ["a", "b", "c"]


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [Ranks(9 + local, 16, local).device("auto") for local in (0, 3, 5)] == [
        "cuda:0",
        "cuda:3",
        "cuda:1",
    ]
    assert (Ranks(1, 2, 1).device("cpu"), ALONE.device("auto")) == ("cpu", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Ranks(1, 2, 1).device("auto") == "auto"


# --- with torchrun ---------------------------------------------------------------------------------


# A run whose ranks do not go on after five images.
STALLING = """
import time
from lost_reg.cli.app import main
from lost_reg.runs.sessions import Session

def add(self, outcome, add=Session.add):
    add(self, outcome)
    if self.done == 5:
        time.sleep(3600)

Session.add = add
main()
"""


def torchrun(count: int, *args) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += map(str, args)
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=-1, stderr=subprocess.STDOUT, text=True)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def test_three_ranks_one_of_them_killed_then_two(tmp_path, save_scene):
    for number in range(30):
        save_scene(tmp_path / f"photos/{number:03}.png", seed=number)
    (tmp_path / "photos/broken.png").write_text("no image")
    args = ["run", tmp_path / "photos", "--batch-size", "1", "--workers", "1", "--weights", "random"]
    alone = CliRunner().invoke(main, [*map(str, args), "--out", str(tmp_path / "alone")])
    assert alone.exit_code == 0
    out = tmp_path / "run"

    (tmp_path / "stalling.py").write_text(STALLING)
    killed = torchrun(3, tmp_path / "stalling.py", *args, "--out", out)
    part = out / "predictions.rank1.jsonl"
    while killed.poll() is None and len(lines_of(part)) < 5:
        time.sleep(0.005)
    (rank_1,) = [
        one for one in psutil.Process(killed.pid).children(recursive=True)
        if one.environ().get("RANK") == "1" and str(tmp_path / "stalling.py") in one.cmdline()
    ]  # fmt: skip
    rank_1.kill()
    killed.communicate(timeout=HANG_GUARD)
    assert killed.returncode
    done = {line for file in out.glob("predictions*.jsonl") for line in lines_of(file) if line.endswith("\n")}
    assert 5 <= len(done) <= 15

    resumed = torchrun(2, "-m", "lost_reg", *args, "--out", out, "--resume")
    said, _ = resumed.communicate(timeout=HANG_GUARD)
    assert resumed.returncode == 0, said
    assert said.count("Warning: tiny runs with random weights") == 1
    assert f"{30 - len(done)} images in" in said and f"{len(done)} were done before" in said
    assert sorted(lines_of(out / "predictions.jsonl")) == sorted(
        lines_of(tmp_path / "alone/predictions.jsonl")
    )
    assert done <= set(lines_of(out / "predictions.jsonl"))
    assert list(read_run(out).failures) == ["broken.png"]
    assert not list(out.glob("*.rank*"))
    session = read_run(out).record["sessions"][-1]
    assert (session["ranks"], session["images"], session["failed"]) == (2, 30 - len(done), 1)
