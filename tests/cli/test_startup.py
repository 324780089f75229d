"""`lost-reg` as a program: what it imports, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MODELS = {"torch", "timm", "torchvision"}
HEAVY = (*MODELS, "numpy", "cv2", "PIL", "rich", "matplotlib", "scipy", "huggingface_hub")


def after(*calls: list[str], folder=None) -> tuple[list[str], str]:
    """What heavy modules a new process has imported after commands, and what they printed."""
    code = (
        "import sys, json\n"
        "from lost_reg.cli.app import main\n"
        f"for arguments in {calls!r}:\n"
        "    try: main(list(arguments))\n"
        "    except SystemExit: pass\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert "Traceback" not in result.stderr, result.stderr
    *printed, imported = result.stdout.splitlines()
    return json.loads(imported), "\n".join(printed) + result.stderr


def test_help_of_all_commands_imports_nothing_heavy():
    from lost_reg.cli.app import main

    imported, printed = after(["--help"], ["--version"], *([name, "--help"] for name in main.commands))
    assert imported == []
    assert printed.count("Usage: ") == 1 + len(main.commands) and "lost-reg, version" in printed


def test_a_group_without_a_command_prints_its_help():
    imported, printed = after(["train"])
    assert imported == [] and printed.startswith("Usage: ") and "\n  detector " in printed


def test_lists_and_bad_input_import_no_torch(tmp_path):
    calls = (
        ["methods"],
        ["datasets"],
        ["run", "nowhere"],
        ["run", "x", "--backbone", "dnio"],
        ["run", "x", "--facet", "x"],
        ["run", "x", "--nonsense"],
        ["run", "--dataset", "voc08"],
        ["run", "x", "--weights", "nope.pth"],
        ["sweep", "-d", "voc08"],
        ["corloc", "nowhere"],
        ["score", "nowhere"],
        ["compare", "a", "b"],
        ["export", "nowhere", "--to", "csv", "--out", "a.csv"],
    )
    imported, printed = after(*calls, folder=tmp_path)
    assert not MODELS & {*imported} and printed.count("Error: ") == len(calls) - 2


def test_scores_comparisons_and_reports_import_no_torch(lost_reg, voc, tmp_path):
    results = str(tmp_path / "results")
    runs = [f"{results}/a", f"{results}/b"]
    for run, facet in zip(runs, "kq"):
        lost_reg("run", "-d", "voc07", "--data-root", voc, "--facet", facet, "--out", run)
    calls = (
        ["corloc", results],
        ["score", results],
        ["compare", *runs],
        ["report", results, "--out", str(tmp_path / "report")],
        ["export", runs[0], "--to", "coco", "--out", str(tmp_path / "boxes.json")],
    )
    imported, printed = after(*calls)
    assert not MODELS & {*imported} and "Error: " not in printed
    assert (tmp_path / "report" / "index.html").exists() and (tmp_path / "boxes.json").exists()


def test_a_run_imports_no_compiler_and_keeps_its_imports_from_the_garbage_collector(photos, tmp_path):
    code = (
        "import gc, sys\n"
        "from lost_reg.cli.app import main\n"
        f"try: main(['run', {str(photos)!r}, '--out', {str(tmp_path / 'run')!r}])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "assert 'timm' in sys.modules and 'torch._dynamo' not in sys.modules\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 2


def test_python_m_ends_with_an_exit_code_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "lost_reg", "run", "nowhere"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "Error: no such file or folder: 'nowhere'\n"


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    """`lost-reg ... | head -1`"""
    command = f"{sys.executable} -m lost_reg backbones | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr == "" and result.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--nonsense"]], ids=str)
def test_usage_errors_name_the_help(lost_reg, arguments):
    result = lost_reg(*arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith("Error: No such ") and "--help`)" in line


def test_the_public_names_are_no_modules():
    code = (
        "from lost_reg import *\n"
        "import lost_reg, types\n"
        "assert not [n for n in lost_reg.__all__ if isinstance(globals()[n], types.ModuleType)]"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
