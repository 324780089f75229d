"""learned_classes.py on a few scenes: found and true boxes are clustered and scored."""

from __future__ import annotations

import json
import sys

import learned_classes
import methods
import pytest


def call(script, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        script.main()


def test_boxes_of_scenes_are_clustered_and_scored(tmp_path, capsys):
    call(methods, "scenes", tmp_path, "--count", 6)
    content = json.loads((tmp_path / "scenes.json").read_text())
    kinds = {one["id"]: one["name"] for one in content["categories"]}
    assert sorted(kinds.values()) == ["creature", "lump", "machine", "vessel"]
    assert len({one["category_id"] for one in content["annotations"]}) > 1
    call(learned_classes, tmp_path / "out", "--dataset", tmp_path / "scenes.json", "--k", 2, 3)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[:3] for row in rows[1:]] == [
        [f"| {name}", "tiny", k] for name in ("found", "true") for k in "23"
    ]
    objects = len(content["annotations"])
    assert [row[3] for row in rows[3:]] == [f"{objects} of {objects}"] * 2
