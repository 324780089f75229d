"""Whatever standard streams and locale the program was started with, it does the same work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write_run

import lost_reg

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(lost_reg.__path__[0]), "OMP_NUM_THREADS": "1"}
UTF8 = {"LC_ALL": "C.UTF-8"}
# A locale in which the bytes of most names mean nothing, and all of Python's ways out of it closed.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STREAMS = {"0": "<", "1": ">", "2": ">"}

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="streams are closed, and names are bytes, on POSIX alone"
)


# lost-reg, with a library that writes to file descriptor 2, as those in C do.
NOISY = """
import os
from lost_reg.cli.app import main
from lost_reg.runs.sessions import Session

def add(self, outcome, add=Session.add):
    os.write(2, b"noise\\n")
    add(self, outcome)

Session.add = add
main()
"""


def lost_reg_in_shell(closed: str, *args: object, start=("-m", "lost_reg")) -> subprocess.CompletedProcess:
    """Run a command with some of its streams closed, such as "12"."""
    redirections = " ".join(f"{one}{STREAMS[one]}&-" for one in closed)
    command = [sys.executable, *start, *map(str, args)]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip


@pytest.mark.parametrize("closed", ["2", "012"])
def test_a_run_does_its_work_without_streams(tmp_path, save_scene, closed):
    save_scene(tmp_path / "photos/a.png")
    (tmp_path / "photos/b.png").write_text("no image")
    out = tmp_path / "run"
    args = ("run", tmp_path / "photos", "--out", out, "--workers", "1")
    ended = lost_reg_in_shell(closed, *args, start=("-c", NOISY))
    assert ended.returncode == 0, ended.stderr
    (line,) = (out / "predictions.jsonl").read_text().splitlines()  # nothing else was written into it
    assert json.loads(line)["image"] == "a.png"
    (line,) = (out / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == "b.png"
    assert (out / ".lock").read_bytes() == b""
    assert ("1 image in" in ended.stdout) == ("1" not in closed)
    assert ("1 of 2 images could not be used" in ended.stderr) == ("2" not in closed)


@pytest.mark.parametrize("closed", ["012"])
def test_other_commands_work_without_streams(tmp_path, make_coco, closed):
    annotations = make_coco(tmp_path / "data", {"a.jpg": [(32, 16, 64, 48, 0)]})
    run = write_run(tmp_path / "run", None, {"a.jpg": (32, 16, 96, 64)}, dataset=str(annotations))
    results = {}
    for name, args in {
        "datasets": ["datasets"],
        "corloc": ["corloc", run, "--dataset", annotations],
        "report": ["report", run, "--dataset", annotations, "--out", tmp_path / "page"],
        "error": ["corloc", tmp_path / "nowhere"],
    }.items():
        results[name] = lost_reg_in_shell(closed, *args)
    assert {name: ended.returncode for name, ended in results.items()} == {
        "datasets": 0, "corloc": 0, "report": 0, "error": 1,
    }, results  # fmt: skip
    assert (tmp_path / "page/index.html").is_file()
    assert (
        ("voc07" in results["datasets"].stdout)
        == ("CorLoc" in results["corloc"].stdout)
        == ("1" not in closed)
    )
    assert ("nowhere" in results["error"].stderr) == ("2" not in closed)


def lost_reg_in(locale: dict[str, str], *args: object) -> str:
    """Run a command in a locale; what it said, on both streams."""
    command = [sys.executable, "-m", "lost_reg", *map(str, args)]
    ended = subprocess.run(command, env={**ENVIRONMENT, **locale}, capture_output=True)
    assert b"Traceback" not in ended.stderr
    return (ended.stdout + ended.stderr).decode("utf-8", "surrogateescape")


@pytest.fixture
def named(tmp_path, save_scene) -> Path:
    """A folder of two images, with a name in UTF-8 and one in Latin-1, and a damaged one."""
    folder = tmp_path / "Ångström"
    for name in ("café.png", "latin.png"):
        save_scene(folder / name)
    (folder / "latin.png").rename(os.fsdecode(os.fsencode(folder) + b"/na\xefve.png"))
    (folder / "\u65e5.png").write_text("no image")
    return folder


def results_of(out: Path) -> tuple[list[str], list[str], dict]:
    lines, errors = (
        sorted((out / f"{name}.jsonl").read_text().splitlines()) for name in ("predictions", "errors")
    )
    record = json.loads((out / "run.json").read_text())
    return lines, errors, {key: record[key] for key in ("root", "settings", "images")}


def test_names_are_the_same_texts_in_every_locale(tmp_path, named):
    options = ("--workers", "1", "--max-side", "64", "--visualize")
    said = {}
    for out, locale in {"utf8": UTF8, "ascii": ASCII}.items():
        said[out] = lost_reg_in(locale, "run", named, "--out", tmp_path / out, *options)
    lines, errors, record = results_of(tmp_path / "utf8")
    assert (lines, errors, record) == results_of(tmp_path / "ascii")
    assert [json.loads(line)["image"] for line in lines] == ["café.png", "na\udcefve.png"]
    assert json.loads(errors[0])["image"] == "\u65e5.png" and record["root"].endswith("/Ångström")
    for one in said.values():
        assert "\u65e5.png (not an image" in one
    pictures = [sorted(os.listdir(os.fsencode(tmp_path / out / "pictures"))) for out in said]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2
    resumed = lost_reg_in(UTF8, "run", named, "--out", tmp_path / "ascii", *options, "--resume")
    assert "0 images in" in resumed and "2 were done before" in resumed  # the third is tried again


def test_lists_and_annotations_name_files_in_every_locale(tmp_path, named, make_coco):
    (tmp_path / "list").write_bytes(os.fsencode(named) + "/café.png\n".encode())
    annotations = make_coco(tmp_path / "data", {"Zürich.jpg": [(32, 16, 64, 48, 0)]})
    options = ("--workers", "1", "--max-side", "64")
    for what in (("--files-from", tmp_path / "list"), ("--dataset", annotations)):
        out = tmp_path / what[0]
        assert "1 image in" in lost_reg_in(ASCII, "run", *what, "--out", out, *options)
        (line,) = results_of(out)[0]
        assert json.loads(line)["image"] in ("café.png", "Zürich.jpg")


def test_what_the_terminal_cannot_show_is_escaped(tmp_path):
    said = lost_reg_in({**UTF8, "PYTHONIOENCODING": "latin-1"}, "corloc", tmp_path / "\u65e5é")
    assert said == f"Error: no such folder: '{tmp_path}/\\u65e5\udce9'\n"
