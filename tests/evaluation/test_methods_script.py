"""methods.py on a few scenes: every setting runs and is scored, and the solver agrees with a dense one."""

from __future__ import annotations

import sys

import methods
import pytest


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    call("scenes", folder, "--count", 3)
    return folder / "scenes.json"


def call(*arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["methods.py", *map(str, arguments)])
        methods.main()


def test_every_setting_is_run_once_and_scored(scenes, tmp_path, capsys):
    call("run", tmp_path / "runs", "--dataset", scenes)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(methods.settings_to_try())
    assert all(row.count("|") == rows[0].count("|") and "mask IoU" in rows[0] for row in rows)
    written = {path: path.stat().st_mtime for path in (tmp_path / "runs").rglob("run.json")}
    call("run", tmp_path / "runs", "--dataset", scenes)
    assert {path: path.stat().st_mtime for path in (tmp_path / "runs").rglob("run.json")} == written


def test_the_solver_agrees_with_a_dense_one(scenes, capsys):
    call("solver", "--dataset", scenes)
    assert capsys.readouterr().out.count("| 3 of 3 |") == 5
