"""Without Ray, one line says how to get it; options of the engine need the engine."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from lost_reg.cli.app import main


@pytest.fixture
def photos(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.jpg")
    return tmp_path / "photos"


def test_without_ray_one_line_says_how_to_get_it(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["run", str(photos), "-b", "tiny", "--engine", "ray", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert result.stderr == "Error: --engine ray needs Ray: pip install 'lost-reg[ray]'\n"


def test_processes_of_torchrun_are_sent_to_ray(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = ["run", str(photos), "-b", "tiny", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2 and "use --engine ray" in result.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--address", "auto"), ("--actors", "2")])
def test_options_of_the_engine_need_it(photos, tmp_path, option):
    result = CliRunner().invoke(main, ["run", str(photos), "-b", "tiny", *option])
    assert result.exit_code == 2 and "options of --engine ray" in result.stderr
