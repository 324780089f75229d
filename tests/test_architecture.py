"""The limits that keep the package easy to walk through, and the order of its rooms: docs/architecture.md."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lost_reg"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, PARAMETERS, MODULES_BESIDE_THE_ROOMS = 400, 60, 7, 14
LINES_OF_THE_README, COLUMNS = 150, 110
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, line: int = 0) -> str:
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def functions() -> Iterator[tuple[str, Function]]:
    """Every function with its place, but for those that are decorated as a command of click."""
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, Function) and not is_command(node):
                yield f"{place(path, node.lineno)} {node.name}", node


def is_command(function: Function) -> bool:
    names = (ast.unparse(decorator).split("(")[0] for decorator in function.decorator_list)
    return any(name.split(".")[-1] in ("command", "group") for name in names)


def refuse(offenders: list[str], rule: str) -> None:
    assert not offenders, f"{rule}, but:\n" + "\n".join(offenders)


def test_files_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    offenders = [f"{place(path)}: {lines}" for path, lines in lengths.items() if lines > LINES_OF_A_FILE]
    refuse(offenders, f"a file has at most {LINES_OF_A_FILE} lines")


def test_functions_are_short():
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    offenders = [f"{name}: {lines}" for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION]
    refuse(offenders, f"a function has at most {LINES_OF_A_FUNCTION} lines")


def test_functions_have_few_parameters():
    counts = {name: count_parameters(node.args) for name, node in functions()}
    offenders = [f"{name}: {count}" for name, count in counts.items() if count > PARAMETERS]
    refuse(
        offenders, f"a function has at most {PARAMETERS} parameters; dataclasses of options carry the rest"
    )


def count_parameters(arguments: ast.arguments) -> int:
    """How many parameters a caller has to know: all but self, *args and **options."""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_few_modules_lie_beside_the_rooms():
    modules = [path.name for path in PACKAGE.glob("*.py")]
    assert len(modules) <= MODULES_BESIDE_THE_ROOMS, modules


def test_every_room_says_what_it_is():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert len(rooms) >= 10
    refuse([place(path) for path in rooms if not ast.get_docstring(tree_of(path))], "a room has a docstring")


def test_tests_mirror_the_rooms():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert rooms <= folders <= {*rooms, "evaluation"}


def test_the_diagram_of_imports_is_of_now(monkeypatch):
    pytest.importorskip("grimp")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import import_diagram

    page = import_diagram.PAGE.read_text(encoding="utf-8")
    assert import_diagram.with_diagram(page) == page, "`make diagram` brings docs/architecture.md up to date"
    counts = import_diagram.count_imports()
    order = {room: index for index, room in enumerate(import_diagram.ROOMS)}
    assert set(order) == {"ground", *(path.parent.name for path in PACKAGE.glob("*/__init__.py"))}
    refuse(
        [
            f"{importer} imports {imported}"
            for importer, imported in counts
            if order[importer] < order[imported]
        ],
        "a room imports only those before it",
    )


# --- words -------------------------------------------------------------------------------------------

_OPTION = re.compile(r"(?:(?<=[\s(;:,])|^)--[a-z][a-z-]+")
_COMMAND_IN_BACKTICKS = re.compile(r"`[^`]* [^`]*`")


def test_messages_of_the_library_do_not_name_options():
    """The command line turns parameters in backticks into options; commands in backticks stay as they are."""
    offenders = [
        f"{place(path, line)}: {text}"
        for path in FILES
        if "cli" not in path.relative_to(PACKAGE).parts
        for line, text in texts(tree_of(path))
        if _OPTION.search(_COMMAND_IN_BACKTICKS.sub("", text))
    ]
    refuse(offenders, "texts of the library name `parameters`, not --options")


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The strings of a module with their lines, f-strings as one, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, *Function.__args__)
    known = {  # docstrings, and the parts of f-strings
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
    }
    known |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            values = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            yield node.lineno, "".join(map(str, values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known:
            yield node.lineno, node.value


# --- Markdown ----------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LINES_OF_THE_README


def test_lines_of_markdown_are_short():
    """But for what cannot be broken: code blocks, rows of tables, and lines of a single word or link."""
    offenders = [
        f"{place(path, number)}: {len(line)}"
        for path in MARKDOWN
        for number, line in prose_lines(path)
        if len(line) > COLUMNS and " " in re.sub(r"^[-*>\d. ]*", "", line)
    ]
    refuse(offenders, f"a line of Markdown has at most {COLUMNS} columns")


def prose_lines(path: Path) -> Iterator[tuple[int, str]]:
    in_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.startswith("|"):
            yield number, line
