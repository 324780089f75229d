"""The wheel, built from an sdist, holds all that is needed, and works from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with an sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"  # built from a copy, so that nothing is left in the checkout
    tree.mkdir()
    shutil.copytree(ROOT / "lost_reg", tree / "lost_reg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", tree]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


def test_an_index_would_take_the_sdist_and_the_wheel(built):
    files = sorted(built.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert result.returncode == 0 and result.stdout.count("PASSED") == 2, result.stdout + result.stderr


def test_the_wheel_holds_lost_reg_alone_with_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lost_reg"}
    assert {"lost_reg/scoring/published.json", "lost_reg/backbones/bundled/tiny.safetensors"} <= set(names)
    folder = ROOT / "lost_reg" / "report" / "templates"
    templates = {f"lost_reg/report/templates/{path.name}" for path in folder.iterdir()}
    assert {"page.html", "page.css", "page.js"} <= {path.name for path in folder.iterdir()}
    assert templates <= set(names)
    samples = [name for name in names if name.startswith("lost_reg/datasets/samples/")]
    assert len(samples) == 33 and "lost_reg/datasets/samples/ImageSets/Main/trainval.txt" in samples


def test_the_wheel_holds_every_module(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lost_reg").rglob("*.py")}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert len(modules) > 90 and modules <= names and "lost_reg/py.typed" in names


def test_the_wheel_works_from_another_folder(wheel, tmp_path, save_scene):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    save_scene(tmp_path / "work" / "photos" / "a.jpg")
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def lost_reg(*arguments):
        code = f"import lost_reg; assert lost_reg.__file__.startswith({str(site)!r}); "
        code += "from lost_reg.cli.app import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "work", env=environment)

    result = lost_reg("run", "photos", "--backbone", "tiny", "--out", "results")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "work/results/predictions.jsonl").read_text().count("\n") == 1
    assert lost_reg("report", "results").stdout.startswith("1 run, 1 image")
    assert "<h1>" in (tmp_path / "work/report/index.html").read_text()
    lost_reg("run", "--dataset", "samples", "--backbone", "tiny", "--limit", "1", "--out", "samples")
    assert lost_reg("corloc", "samples", "--partial").returncode == 0
    assert "dinov2_vitl14_reg" in lost_reg("backbones").stdout
    assert lost_reg("corloc", "results").stderr.startswith(
        "Error: 1 run on your own images has no annotations"
    )
