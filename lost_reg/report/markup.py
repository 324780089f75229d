"""Pieces of markup that the sections of a report share: texts, tables and notes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from lost_reg.errors import one_line


def text(value: str) -> str:
    """A text from outside, as markup that shows it."""
    return escape(one_line(value))


def table(
    label: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Collection[str] = (),
    kind: str = "",
) -> str:
    """A table that scrolls by itself where it is too wide; the first cell of each row is its heading.

    Args:
        label: what it is called for those who cannot see it.
        rows: cells, as markup, in the order of the columns.
        numeric: the columns that are aligned to the right.
        kind: its class.
    """
    marks = [' class="number"' if column in numeric else "" for column in columns]
    head = "".join(f'<th scope="col"{mark}>{text(column)}</th>' for column, mark in zip(columns, marks))
    body = "\n".join(_row(cells, marks) for cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">'
        f"<table{f' class={kind}' if kind else ''}>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _row(cells: Sequence[str], marks: Sequence[str]) -> str:
    first, *rest = cells
    columns = "".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks[1:], rest))
    return f'<tr><th scope="row"{marks[0]}>{first}</th>{columns}</tr>'


def notes(lines: Sequence[str]) -> str:
    """A list of notes, of texts from outside, or nothing."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""
