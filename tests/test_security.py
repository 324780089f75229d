"""Attacks that the tests of the parts do not make: on paths, the terminal, and processes side by side.

Beside these: pickles in weights (test_weights), LOST's predictions (test_prediction_files) and maps
(test_map_files); archives (test_archives, test_inputs); downloads (test_downloads, test_acquire); the page
(test_report, test_report_page); image files (test_images, test_fuzz).
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import refusal, without_notes, write_run

import lost_reg
from lost_reg.cli.app import main
from lost_reg.datasets.voc import read_voc_truth
from lost_reg.files import path_within
from lost_reg.report import pictures
from lost_reg.runs.folder import read_run

# What a file may be called where it matters: each of it has harmed some program.
NAMES = [
    "escape\x1b]0;owned\x07\x1b[2J\x1b[31m.jpg",
    "two\nError: lines.jpg",
    "carriage\rreturn\tand\x08\x7f.jpg",
    "right to left \u202egpj.exe.jpg",
    "zero\u200bwidth\u2028\u0085.jpg",
    "<img src=x onerror=alert(1)>&amp;'\".jpg",
    os.fsdecode(b"caf\xe9 \xff\xfe.jpg"),
    "-rf --out=x.jpg",
    "=HYPERLINK(1).jpg",
    "%s {0} $HOME `id` $(id) *.jpg",
    "[bold red]markup.jpg",
    "x..jpg.jpg",
    "日本語 " * 10 + ".jpg",
    "a" * 250 + ".jpg",  # no room in its name for what is added to it
]


def invoke(*arguments) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def is_harmless(text: str) -> bool:
    """Whether a terminal shows a text as it is, in the lines it has, whatever its encoding."""
    return all(char.isprintable() or char == "\n" for char in text) and bool(text.encode() or True)


# --- names of files ----------------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path, save_scene):
    """A folder of images of hostile names, in a folder of such a name."""
    folder = tmp_path / "photos" / NAMES[0].removesuffix(".jpg")
    for number, name in enumerate(NAMES):
        image = save_scene(tmp_path / "scene.jpg", seed=number)
        folder.mkdir(parents=True, exist_ok=True)
        image.rename(folder / name)
    return folder


def test_hostile_names_come_back_and_stay_inside(named, tmp_path):
    out = tmp_path / "out"
    result = invoke("run", named, "--out", out, "--save-maps", "--visualize", "--workers", 1)
    assert result.exit_code == 0 and is_harmless(result.output)
    found = read_run(out)
    assert set(found.predictions) == set(NAMES) and not found.failures
    for kind in ("maps", "pictures"):
        assert len([path for path in (out / kind).rglob("*") if path.is_file()]) == len(NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    assert len(list(named.iterdir())) == len(NAMES)
    again = invoke("run", named, "--out", out, "--resume", "--workers", 0)
    assert f"all {len(NAMES)} images were done before, by spread" in again.stdout


def test_hostile_names_are_shown_on_one_line_where_all_fails(named, tmp_path):
    for path in named.iterdir():
        path.write_bytes(b"no image")
    result = invoke("run", named, "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 1 and len(without_notes(result)) == 1 and is_harmless(result.output)
    assert set(read_run(tmp_path / "out").failures) == set(NAMES)


def test_a_report_of_hostile_names_has_nothing_but_text_of_them(named, tmp_path):
    invoke("run", named, "--out", tmp_path / "out", "--save-maps", "--workers", 0)
    result = invoke("report", tmp_path / "out", "--out", tmp_path / "report")
    assert result.exit_code == 0 and is_harmless(result.output)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert is_harmless(page) and "<img src=x" not in page and "\\u003cimg src=x onerror" in page
    assert f"{len(NAMES)} with maps" in result.output


def test_a_file_that_could_not_be_read_is_not_tried_by_a_report(tmp_path, save_scene, monkeypatch):
    """In a run it may have crashed its decoder, which is a process of its own; a report has none."""
    save_scene(tmp_path / "photos" / "good.jpg")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    invoke("run", tmp_path / "photos", "--out", tmp_path / "out", "--workers", 0)
    tried, read = [], pictures.read_image
    monkeypatch.setattr(
        pictures, "read_image", lambda path, **how: tried.append(path.name) or read(path, **how)
    )
    assert invoke("report", tmp_path / "out", "--out", tmp_path / "report").exit_code == 0
    assert tried == ["good.jpg"]


def test_the_run_folder_of_a_hostile_name_is_shown_escaped(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.jpg")
    for name in NAMES[:7]:
        result = invoke("run", tmp_path / "photos", "--out", tmp_path / name, "--workers", 0)
        assert result.exit_code == 0 and is_harmless(result.output)
        assert is_harmless(invoke("run", tmp_path / "photos", "--out", tmp_path / name).output)


@pytest.mark.parametrize("options", [[], ["--csv"], ["--json"]])
def test_tables_of_a_hostile_run_are_text(tmp_path, make_voc, options):
    mine = make_voc(tmp_path / "mine\x1b[31m", {"a": [("thing\u202e\n", 33, 17, 96, 64)]})
    for name in ("one", "two\nlines\x1b[2J"):
        hostile = {"backbone": "dino\x1b]0;owned\x07\n\u202e", "dataset": str(mine), "split": "all\r"}
        write_run(tmp_path / "runs" / name, None, {"a.jpg": (32, 16, 96, 64)}, **hostile)
    runs = tmp_path / "runs"
    for command in (["corloc", runs], ["compare", runs / "one", runs / "two\nlines\x1b[2J"]):
        result = invoke(*command, *options)
        assert result.exit_code == 0 and is_harmless(result.output), result.output


# --- names that lead elsewhere ------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path, save_scene):
    return save_scene(tmp_path / "private" / "photo.jpg", seed=9)


def test_names_in_annotations_write_nothing_outside_of_the_run_folder(tmp_path, make_coco, victim):
    """Nor do they read anything there. Found by this test: maps were once written over the images."""
    path = make_coco(tmp_path / "data", {"a.jpg": [(0, 0, 50, 50, 0)]})
    content = json.loads(path.read_text())
    for name in ("../../private/photo.jpg", str(victim), "sub/../../../private/photo.jpg"):
        content["images"].append(
            {"id": len(content["images"]) + 1, "file_name": name, "height": 96, "width": 128}
        )
    path.write_text(json.dumps(content))
    (tmp_path / "data" / "images" / "sub").mkdir()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    out = tmp_path / "out" / "run"
    arguments = ("run", "--dataset", path, "--out", out, "--save-maps", "--visualize", "--workers", 0)
    result = invoke(*arguments)
    assert result.exit_code == 1 and "1 of 4 images found in" in result.stderr
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == before.keys()
    del content["images"][2:]  # of the others, one name ends in a file of that folder
    path.write_text(json.dumps(content))
    inside = victim.parents[1] / "data" / "images" / "photo.jpg"
    inside.write_bytes((tmp_path / "data" / "images" / "a.jpg").read_bytes())
    before |= {file: file.read_bytes() for file in (path, inside)}
    result = invoke(*arguments)
    assert result.exit_code == 0 and set(read_run(out).predictions) == {"a.jpg", "photo.jpg"}
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert all(file.is_relative_to(out) for file in after.keys() - before.keys())
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a.jpg", "a.jpg"),
        ("b/a.jpg", "b/a.jpg"),
        ("../a.jpg", "%2E%2E/a.jpg"),
        ("b/../../a.jpg", "b/%2E%2E/%2E%2E/a.jpg"),
        ("/etc/a.jpg", "etc/a.jpg"),
        ("//etc//a.jpg", "etc/a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("...", "..."),
    ],
)
def test_paths_stay_within_their_folder(tmp_path, name, expected):
    assert path_within(tmp_path, name) == tmp_path / expected


def test_names_too_long_for_what_is_added_are_shortened_and_stay_different(tmp_path):
    paths = {path_within(tmp_path, f"{'é' * 120}{number}.jpg") for number in range(10)}
    assert len(paths) == 10 and all(len(path.name.encode()) < 200 for path in paths)
    assert {path.suffix for path in paths} == {".jpg"}


# --- files from others --------------------------------------------------------------------------------


FORBIDDEN = (
    "eval", "exec", "os.system", "os.popen", "marshal", "shelve", "yaml",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load",
)  # fmt: skip


def test_nothing_in_the_package_executes_what_it_reads():
    """No pickle of others, no eval, no shell, no processes but those that decode and download."""
    allowed = {
        "subprocess": {"decoder_process.py", "hub.py"},
        **{name: set() for name in FORBIDDEN},
        # of export, to write some; and what a command and its own actors send each other, as Ray itself does
        "pickle": {"lost_pickle.py", "inputs.py", "workers.py"},
        "pickle.loads": {"inputs.py"},
    }
    loads = []
    for path in Path(lost_reg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = _called_or_imported(node)
            assert path.name in allowed.get(name, {path.name}), f"{path.name} uses {name}"
            if name == "np.load":
                loads += [(keyword.arg, ast.unparse(keyword.value)) for keyword in node.keywords]
    assert set(loads) == {("allow_pickle", "False")}


def _called_or_imported(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func)
    if isinstance(node, ast.ImportFrom):
        return node.module
    return node.names[0].name if isinstance(node, ast.Import) else None


@pytest.mark.parametrize("file", ["run.json", "predictions.jsonl", "errors.jsonl"])
def test_json_that_is_nested_too_deep_is_one_line(tmp_path, file):
    write_run(tmp_path / "run", None, {"a.jpg": (0, 0, 9, 9)})
    (tmp_path / "run" / file).write_text("[" * 200_000 + "\n")
    assert "recursion depth exceeded" in refusal(read_run, tmp_path / "run")


def test_annotations_that_expand_without_end_are_refused(tmp_path):
    """A billion laughs: entities of entities."""
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    laughs = "<annotation><size><height>&a11;</height></size></annotation>"
    text = f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]>{laughs}'
    (tmp_path / "a.xml").write_text(text)
    assert "it defines entities" in refusal(read_voc_truth, tmp_path / "a.xml", "a.jpg")


def test_annotations_read_no_other_file(tmp_path):
    (tmp_path / "secret").write_text("7")
    text = f'<!DOCTYPE x [<!ENTITY a SYSTEM "file://{tmp_path}/secret">]>'
    text += "<annotation><size><height>&a;</height><width>7</width></size></annotation>"
    (tmp_path / "a.xml").write_text(text)
    assert "it defines entities" in refusal(read_voc_truth, tmp_path / "a.xml", "a.jpg")


# --- downloads, by several processes ------------------------------------------------------------------


class _Slow(BaseHTTPRequestHandler):
    body = bytes(range(256)) * 2000

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[:1000])
        self.wfile.flush()
        self.server.all_started.wait(30)
        self.server.seen_early = self.server.seen_early or self.server.destination.exists()
        self.wfile.write(self.body[1000:])

    def log_message(self, *_) -> None:
        pass


def test_two_processes_that_download_a_file_do_it_once_and_place_it_whole(tmp_path):
    code = (
        "import sys; from pathlib import Path; from lost_reg.datasets.downloads import Checksum, fetch\n"
        "print('started', flush=True)\n"
        "fetch(sys.argv[1], Path(sys.argv[2]), Checksum('sha256', sys.argv[3], 10**6))\n"
        "assert Path(sys.argv[2]).stat().st_size == 512_000"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        server.requests, server.seen_early = 0, False
        server.all_started, server.destination = threading.Event(), tmp_path / "file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/file"
        checksum = hashlib.sha256(_Slow.body).hexdigest()
        command = [sys.executable, "-c", code, address, str(server.destination), checksum]
        environment = {**os.environ, "no_proxy": "127.0.0.1"}
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(3)]
        for process in processes:
            process.stdout.readline()
        server.all_started.set()
        codes = [process.wait(60) for process in processes]
        server.shutdown()
        thread.join()
    for process in processes:
        process.stdout.close()
    assert codes == [0, 0, 0] and server.requests == 1 and not server.seen_early
    assert server.destination.read_bytes() == _Slow.body
