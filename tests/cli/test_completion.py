"""Completion in the shell: names of commands, backbones, datasets, methods and presets."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from lost_reg.cli.app import main


def completed(before: str, typed: str) -> list[str]:
    """What click offers for the word `typed` after others."""
    shell = ShellComplete(main, {}, "lost-reg", "_COMPLETE")
    return [item.value for item in shell.get_completions(before.split(), typed)]


@pytest.mark.parametrize(
    ("before", "typed", "expected"),
    [
        ("", "co", ["compare", "corloc"]),
        ("run photos --resume --out x -b", "dinov2_vits", ["dinov2_vits14", "dinov2_vits14_reg"]),
        ("artifacts -b dino -b", "dinov3_vitb", ["dinov3_vitb16"]),
        ("run -d", "voc", ["voc07", "voc12"]),
        ("score results --dataset", "sam", ["samples"]),
        ("run --config x.toml --preset", "b", ["best"]),
        ("run --method", "tok", ["tokencut"]),
        ("run", "--overw", ["--overwrite"]),
        ("draw results --only", "m", ["maps"]),
        ("datasets --download", "coco", ["coco20k"]),
        ("backbones --download", "open", ["openclip"]),
    ],
)
def test_names_are_completed(before, typed, expected):
    assert completed(before, typed) == expected
