"""Plain text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def shown_names(names: Iterable[str], most: int = 3, of: int | None = None) -> str:
    """A few names for a message, such as 'a.jpg, b.jpg and 4 more'; `of`: how many there are, if more."""
    names = list(names)
    left = (of or len(names)) - min(most, len(names))
    return ", ".join(names[:most]) + (f" and {left:,} more" if left else "")


def counted(number: int, what: str) -> str:
    """A number of things, such as "1 run" and "2 runs"."""
    return f"{number:,} {what if number == 1 else what + 's'}"


def first_sentence(error: Exception) -> str:
    """What an error of another library says, without the advice that follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
