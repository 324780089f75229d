"""What docs/export.md says is so."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_cases import export

from lost_reg.cli.app import main
from lost_reg.export.boxes import COLUMNS


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)


DOCS = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_three_lines_of_the_docs(tmp_path, upright, monkeypatch, capsys):
    pytest.importorskip("supervision")
    root, found = upright
    export(tmp_path, found, "coco", root=root)
    (tmp_path / "out.json").rename(tmp_path / "photos.json")
    monkeypatch.chdir(tmp_path)
    block = python_blocks()[0]
    assert len(block.split("\n\n")) == 2 and len(block.splitlines()) == 4  # three, and an empty one
    content: dict = {}
    exec(block, content)
    assert content["path"] == str(root / "B.JPEG") and content["image"].shape == (96, 128, 3)
    np.testing.assert_allclose(
        content["detections"].xyxy, [box.box_xyxy for box in found[1].objects], atol=1e-5
    )
    assert capsys.readouterr().out.count("[[") == 2


def test_confidence_survives_the_way_through_supervision(tmp_path, upright, monkeypatch, capsys):
    pytest.importorskip("supervision")
    root, found = upright
    scored = [
        replace(one, objects=tuple(replace(box, score=score) for box, score in zip(one.objects, scores)))
        for one, scores in zip(found, ((0.9, 0.125), (0.75, 0.5)))
    ]
    export(tmp_path, scored, "coco", root=root)
    (tmp_path / "out.json").rename(tmp_path / "photos.json")
    monkeypatch.chdir(tmp_path)
    content: dict = {}
    for block in python_blocks()[:2]:
        exec(block, content)
    read = {Path(path).name: one for path, one in content["dataset"].annotations.items()}
    for one in scored:
        assert read[one.image].confidence.tolist() == [box.score for box in one.objects]
        np.testing.assert_allclose(read[one.image].xyxy, [box.box_xyxy for box in one.objects], atol=1e-5)


def test_the_commands_of_the_docs_parse():
    commands = re.findall(r"^\$ lost-reg (.*)$", DOCS, flags=re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        name, *arguments = shlex.split(command)
        main.commands[name].make_context(name, arguments)


def test_every_option_and_column_is_described():
    options = {
        option for one in main.commands["export"].params for option in one.opts if option.startswith("--")
    }
    assert options - {"--quiet"} <= set(re.findall(r"--[a-z-]+", DOCS))  # which every command has
    assert {f"`{column}`" for column in COLUMNS} <= set(re.findall(r"`[a-z]+`", DOCS))
