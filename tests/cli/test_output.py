"""How the command line words the library's messages: one line, safe for a terminal, with its own options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import lost_reg
from lost_reg.cli.app import main
from lost_reg.cli.output import as_options
from lost_reg.errors import LostRegError, one_line

PYTHON_ONLY = {"`preprocessing`", "`on_error`"}  # parameters that no command has
LIBRARY = [
    path
    for path in sorted(Path(lost_reg.__file__).parent.rglob("*.py"))
    if "cli" not in path.relative_to(Path(lost_reg.__file__).parent).parts
]


def test_one_line_escapes_what_a_terminal_cannot_show():
    assert one_line("a\nb\x1b[0m\udcff 日本") == "a\\nb\\x1b[0m\\udcff 日本"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("scale it down with `max_side`", "scale it down with --max-side"),
        ("choose another `out`, or `resume`", "choose another --out, or --resume"),
        ("`lost-reg run` with `save_maps`", "`lost-reg run` with --save-maps"),
        ("`k_patches` of 3 and `nonsense`", "--k-patches of 3 and `nonsense`"),
        ("`min_area` or `tune_fraction`", "--min-area or --tune-fraction"),  # of other commands
        ("no parameter: `", "no parameter: `"),
    ],
)  # fmt: skip
def test_parameters_become_options(text, shown):
    assert as_options(text) == text  # nobody types options outside of a command
    with click.Context(main):
        assert as_options(text) == shown


def test_errors_and_warnings_are_shown_with_options(lost_reg, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise LostRegError("too\nlarge: use `max_side`")

    monkeypatch.setattr("lost_reg.images.sources.list_images", fail)
    result = lost_reg("run", tmp_path)
    assert result.exit_code == 1 and result.stderr == "Error: too\\nlarge: use --max-side\n"


def test_other_errors_are_one_line_too(lost_reg, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr("lost_reg.images.sources.list_images", fail)
    result = lost_reg("run", tmp_path)
    assert (result.exit_code, result.stderr) == (1, "Error: No space left on device: '/some/file'\n")


# --- the library's own messages ----------------------------------------------------------------------


def strings_of(path: Path) -> Iterator[str]:
    """The texts in a module, docstrings left out; what is filled in later is {}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            inside.add(body[0].value)
        if isinstance(node, ast.JoinedStr):
            inside |= set(node.values)
            yield "".join(one.value if isinstance(one, ast.Constant) else "{}" for one in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_the_library_names_parameters_and_not_options(path):
    """What is written like a parameter is one of a command, so that the command line can word it."""
    for text in strings_of(path):
        text = re.sub(r"`lost-reg [^`]*`", "", text)  # whole commands
        assert not re.search(r"(?<![\w-])--[a-z]", text), text
        with click.Context(main):
            parameters = set(re.findall(r"`[a-z_]+`", text)) - PYTHON_ONLY
            assert [one for one in parameters if as_options(one) == one] == [], text
