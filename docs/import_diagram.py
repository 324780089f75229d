"""Draws which room of lost_reg imports which, into docs/architecture.md: `make diagram`.

A number counts the pairs of modules that import each other across two rooms. That all numbers stand below
the diagonal is what "imports go one way" means.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grimp

PAGE = Path(__file__).parent / "architecture.md"
ROOMS = (
    "ground", "masks", "discovery", "images", "backbones", "datasets", "runs", "scoring", "export",
    "artifacts", "training", "probing", "report", "notebook", "ray", "explore", "cli",
)  # fmt: skip
BEGIN, END = "<!-- made by `make diagram` -->\n", "<!-- end of the diagram -->"


def room_of(module: str) -> str:
    """The room of a module such as "lost_reg.runs.folder"; the modules beside the rooms are the ground."""
    room = module.split(".")[1]
    return room if room in ROOMS else "ground"


def count_imports() -> Counter[tuple[str, str]]:
    """How many imports there are from modules of one room to modules of another."""
    graph = grimp.build_graph("lost_reg", cache_dir=None)
    modules = graph.modules - {"lost_reg", "lost_reg.__main__"}  # which join the rooms, and are in none
    counts: Counter[tuple[str, str]] = Counter()
    for module in modules:
        for imported in graph.find_modules_directly_imported_by(module) & modules:
            counts[room_of(module), room_of(imported)] += 1
    return counts


def diagram() -> str:
    """The rooms from top to bottom in the order of the layers, as a table of plain text."""
    counts = count_imports()
    width = max(map(len, ROOMS))
    header = " ".join([f"{'':{width}}", *(f"{room:>{len(room)}}" for room in ROOMS[:-1])])
    lines = [header]
    for index, room in enumerate(ROOMS):
        cells = []
        for column, imported in enumerate(ROOMS[:-1]):
            count = counts[room, imported]
            text = "." if column == index else str(count) if count else ""
            cells.append(f"{text:>{len(imported)}}")
        lines.append(" ".join([f"{room:{width}}", *cells]).rstrip())
    total = sum(count for (importer, imported), count in counts.items() if importer != imported)
    return "\n".join([*lines, "", f"{total} imports between rooms"])


def with_diagram(page: str) -> str:
    """The page with the diagram of now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n```text\n{diagram()}\n```\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_diagram(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
