"""Without Ray, one line says how to get it; options of the engine need the engine."""

from __future__ import annotations

import sys
import tarfile

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


@pytest.mark.parametrize("options, reason", [
    (["--address", "127.0.0.1:1"], "no cluster of Ray answers"),
    (["--write-parquet", "file"], "cannot write Parquet files at"),
])  # fmt: skip
def test_what_can_be_known_before_leaves_no_run_folder(photos, tmp_path, monkeypatch, options, reason):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'lost-reg[ray]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    given = ["run", str(photos), "-b", "tiny", "--engine", "ray", *options, "--out", "out"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 1 and reason in result.stderr and not (tmp_path / "out").exists()


def test_shards_on_ray_have_no_limit(tmp_path, photos):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'lost-reg[ray]'")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(photos / "a.jpg", "a.jpg")
    given = ["run", str(tmp_path / "a.tar"), "-b", "tiny", "--engine", "ray", "--limit", "1"]
    result = CliRunner().invoke(main, [*given, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "name fewer shards" in result.stderr and not (tmp_path / "out").exists()
