"""The README and data/README say what is so: their commands parse, their Python runs, their counts hold."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lost_reg.cli.app import main
from lost_reg.datasets import catalog as datasets

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA_README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^(?:\$ |    )(lost-reg [^\n#]*?) *(?:#.*)?$", README, flags=re.MULTILINE)))


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_is_described(name):
    assert any(command.split()[1] == name for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_parse(command):
    name, *arguments = shlex.split(command.replace("...", ""))[1:]
    main.commands[name].make_context(name, arguments)  # raises on an unknown option or value


def test_every_option_of_run_is_described():
    options = {option for parameter in main.commands["run"].params for option in parameter.opts}
    described = set(re.findall(r"--[a-z-]+", README))
    assert {option for option in options if option.startswith("--")} <= described


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, save_scene):
    save_scene(tmp_path / "a.jpg")
    save_scene(tmp_path / "b.jpg", seed=1)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("spec", datasets.SPECS, ids=lambda spec: spec.name)
def test_the_counts_of_the_data_readme(spec):
    row = next(line for line in DATA_README.splitlines() if line.startswith(f"| {spec.name} "))
    assert f"{spec.images:,}" in row and spec.folder in row


def test_the_samples_are_as_many_as_the_table_says():
    samples = datasets.find_dataset("samples", ROOT / "data")
    assert samples.is_full and datasets.missing_images(samples) == []
    assert all(truth.boxes_xyxy for truth in samples.truths.values())


def test_what_the_promises_of_reliability_are_held_by_is_there():
    held_by = re.findall(r"(?:tests|evaluation)/[\w/]+\.(?:py|md)", RELIABILITY)
    assert len(set(held_by)) > 15 and [path for path in set(held_by) if not (ROOT / path).is_file()] == []
