"""The README, docs/ and data/README say what is so: commands parse, Python runs, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from lost_reg.cli.app import main
from lost_reg.datasets import catalog as datasets

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"])
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
PYTHON_PAGES = [name for name, text in TEXTS.items() if "```python\n" in text]


def code_blocks(text: str, *languages: str) -> Iterator[str]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


def commands_of(text: str) -> Iterator[str]:
    """The shell commands of a page: lines after "$ " in console blocks, all lines of bash blocks."""
    for block in code_blocks(text, "console"):
        yield from re.findall(r"^\$ (.*)$", block, flags=re.MULTILINE)
    for block in code_blocks(text, "bash"):
        yield from block.replace("\\\n", " ").splitlines()


def arguments_of(command: str) -> list[str] | None:
    """What follows lost-reg in a command, up to a pipe or redirection; None if it does not call it."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|><;")
    lexer.whitespace_split = True
    words = list(lexer)
    for index, word in enumerate(words):
        if word == "lost-reg" or (word == "lost_reg" and words[index - 1] == "-m"):
            rest = words[index + 1 :]
            end = next((i for i, one in enumerate(rest) if set(one) <= set("|><;")), len(rest))
            return rest[:end]
    return None


def options_of(name: str) -> set[str]:
    """The long options of a command or of those of a group, switches and their opposites."""
    return _options(main.commands[name])


def _options(command: click.Command) -> set[str]:
    if isinstance(command, click.Group):
        return set().union(*map(_options, command.commands.values()))
    parameters = command.get_params(click.Context(command))
    options = {one for parameter in parameters for one in (*parameter.opts, *parameter.secondary_opts)}
    return {one for one in options if one.startswith("--")}


COMMANDS = sorted(
    {
        tuple(arguments)
        for text in TEXTS.values()
        for command in commands_of(text)
        if (arguments := arguments_of(command))
    }
)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_shown(name):
    assert any(command[0] == name for command in COMMANDS)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_a_line_in_the_readme(name):
    assert re.search(rf"^\|.*`(lost-reg )?{name}`.*\|$", TEXTS["README.md"], flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_parse(command):
    name, *arguments = command
    main.commands[name].make_context(name, list(arguments))  # raises on an unknown option or value


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_option_is_described(name):
    """By hand, beside the reference that is made from the commands."""
    assert options_of(name) <= set(re.findall(r"--[a-z-]+", "\n".join(TEXTS.values())))


def test_options_that_are_described_exist():
    """Those that stand in the first column of a table."""
    described = {
        option
        for text in TEXTS.values()
        for cell in re.findall(r"^\| (`--.*?) \|", text, flags=re.MULTILINE)
        for option in re.findall(r"--[a-z][a-z-]*", cell)
    }
    assert len(described) > 30 and described <= set().union(*map(options_of, main.commands))


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory):
    """Where the examples run: images, a damaged one among them, and a run of them exported."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("examples")
    random = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "photos/a.jpg", "photos/b.jpg"):
        pixels = random.integers(110, 130, (96, 128, 3), dtype=np.uint8)
        pixels[16:64, 32:96, 0] = random.integers(0, 256, (48, 64))
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "damaged.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    for command in ("run photos --workers 0 --out run", "export run --to coco --out photos.json"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, "-m", "lost_reg", *command.split()]
        subprocess.run(arguments, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs(page, example_folder, monkeypatch):
    """The blocks of a page in their order, each with what the ones before have defined."""
    monkeypatch.chdir(example_folder)
    names: dict = {}
    for block in code_blocks(TEXTS[page], "python"):
        if "import supervision" in block:
            pytest.importorskip("supervision")
        if "import fiftyone" in block:  # it opens an app; tests/export/test_fiftyone.py imports the folder
            continue
        if "import ray" in block:  # it needs a cluster: tests/ray/test_ray_runs.py runs it
            continue
        exec(block, names)


def test_the_page_on_python_shows_the_whole_api():
    import lost_reg

    shown = "\n".join(code_blocks(TEXTS["docs/python.md"], "python"))
    assert [name for name in lost_reg.__all__ if not re.search(rf"\b{name}\b", shown)] == []


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s:#]+)(?:#[^)]*)?\)", TEXTS[page])
    folder = (ROOT / page).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_site_is_built_without_warnings_or_network(tmp_path):
    """mkdocs in strict mode also checks the anchors of links."""
    pytest.importorskip("material")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "docs/python.html", "evaluation/results/speed.html"} <= pages.keys()
    assert all(f"lost-reg {name}" in pages["docs/cli-reference.html"] for name in main.commands)
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"?https?:|<link[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*https?:"
    )
    assert [name for name, text in pages.items() if loaded.search(text)] == []


def test_every_page_of_docs_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in TEXTS if name.startswith("docs/") and f": {name}\n" not in text] == []


def test_hooks_and_checks_run_the_same_tools():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checks = re.findall(
        r"^\t\$\(BIN\)/(.*)$", makefile.split("\ncheck:")[1].split("\n\n")[0], flags=re.MULTILINE
    )
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == checks
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert {"run": "make test"} in workflow["jobs"]["test"]["steps"]


def test_the_citation_is_of_this_version():
    import lost_reg

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lost_reg.__version__
    assert f"## {lost_reg.__version__} " in TEXTS["CHANGELOG.md"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_completion_script_is_made(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_LOST_REG_COMPLETE": "bash_source"}
    code = "from lost_reg.cli.app import main; main(prog_name='lost-reg')"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "_lost_reg_completion" in result.stdout and result.returncode == 0


@pytest.mark.parametrize("spec", datasets.SPECS, ids=lambda spec: spec.name)
def test_the_counts_of_the_data_readme(spec):
    row = next(line for line in TEXTS["data/README.md"].splitlines() if line.startswith(f"| {spec.name} "))
    assert f"{spec.images:,}" in row and spec.folder in row


def test_the_samples_are_as_many_as_the_table_says():
    samples = datasets.find_dataset("samples", ROOT / "data")
    assert samples.is_full and datasets.missing_images(samples) == []
    assert all(truth.boxes_xyxy for truth in samples.truths.values())


def test_what_the_promises_of_reliability_are_held_by_is_there():
    held_by = re.findall(r"(?:tests|evaluation)/[\w/]+\.(?:py|md)", TEXTS["docs/reliability.md"])
    assert len(set(held_by)) > 15 and [path for path in set(held_by) if not (ROOT / path).is_file()] == []
