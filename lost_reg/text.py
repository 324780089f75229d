"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

from lost_reg.errors import one_line


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; numbers to the right, words to the left."""
    header, *rows = ([one_line(cell) for cell in row] for row in (header, *rows))
    columns = list(zip(header, *rows))
    widths = [max(len(cell) for cell in column) for column in columns]
    numeric = [all(_starts_a_number(cell) for cell in column[1:] if cell) for column in columns]
    lines = [_line(row, widths, numeric) for row in (header, ["-" * width for width in widths], *rows)]
    return "\n".join(lines)


def _starts_a_number(cell: str) -> bool:
    return cell.lstrip("+-<")[:1].isdigit()


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric)
    )
    return "  ".join(padded).rstrip()
