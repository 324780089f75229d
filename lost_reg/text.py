"""Text: decoding what a user gives; tables, CSV, counts and short lists of names."""

from __future__ import annotations

import codecs
import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lost_reg.errors import one_line

_FOR_ONE = {"are": "is", "have": "has", "were": "was"}


def text_of(content: bytes, encoding: str = "utf-8", *, errors: str = "strict") -> str:
    """The text of a user's file: UTF-16 if it starts with its mark, else UTF-8, with or without a mark.

    Args:
        encoding: what the content itself declares in place of UTF-8, as XML does.
        errors: as in `bytes.decode`; "surrogateescape" for lists of file names, which need not be UTF-8.

    Raises:
        ValueError: an unknown encoding, or bytes that are not text in it.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(encoding, errors)
    except UnicodeError:
        raise ValueError(f"it is not {encoding.upper()} text") from None
    except LookupError:
        raise ValueError(f"its encoding {encoding[:40]!r} is unknown") from None


def text_table(rows: Sequence[dict[str, str]], *, width: int | None = None, drop: Sequence[str] = ()) -> str:
    """Rows with the same keys as a table: padded columns, numbers right-aligned, words left-aligned.

    Args:
        width: in characters; columns are left out until the table fits, and a last line names them.
        drop: the columns that may be left out, the first first.
    """
    lines = [[one_line(cell) for cell in line] for line in (rows[0], *(row.values() for row in rows))]
    columns = {title: _column(title, cells) for title, *cells in zip(*lines)}
    shown = dict(columns)

    def fits() -> bool:
        return width is None or sum(len(column[0]) + 2 for column in shown.values()) - 2 <= width

    dropped = []
    for title in (name for name in drop if name in columns):
        if fits():
            break
        dropped.append(title)
        del shown[title]
    for title in dropped[::-1]:  # a wide one can have made room for narrow ones that went before it
        shown[title] = columns[title]
        if not fits():
            del shown[title]
    missing = [title for title in columns if title not in shown]
    table = [
        "  ".join(line).rstrip() for line in zip(*(columns[title] for title in columns if title in shown))
    ]
    return "\n".join([*table, *([f"Left out to fit the width: {', '.join(missing)}"] if missing else [])])


def table_width() -> int:
    """How wide a table may be: as the terminal, but at least 80 characters."""
    return max(80, shutil.get_terminal_size((80, 24)).columns)


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, with as many of those above as tell all apart."""
    parts = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len({*names}) == len({*parts}):
            return names
    return [str(path) for path in paths]


def _column(title: str, cells: Sequence[str]) -> list[str]:
    """The title, a line of dashes and the cells, padded to one width."""
    width = max(map(len, (title, *cells)))
    is_numeric = all(cell.lstrip("+-<")[:1].isdigit() for cell in cells if cell)
    pad = str.rjust if is_numeric else str.ljust
    return [pad(cell, width) for cell in (title, "-" * width, *cells)]


def csv_text(rows: Sequence[dict[str, Any]], header: Iterable[str] | None = None) -> str:
    """Rows with the same keys as CSV, each on one line below a header; without rows, give the `header`."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, fieldnames=list(header or rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: one_line(value) if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    )
    return lines.getvalue().rstrip("\n")


def shown_names(names: Iterable[str], most: int = 3, of: int | None = None) -> str:
    """A few names for a message, such as 'a.jpg, b.jpg and 4 more'; `of`: the total, if more."""
    names = list(names)
    left = (of or len(names)) - min(most, len(names))
    return ", ".join(names[:most]) + (f" and {left:,} more" if left else "")


def counted(number: int, what: str) -> str:
    """A number of things, such as "1 run" and "2 runs", "1 box" and "2 boxes"."""
    plural = what + ("es" if what.endswith(("s", "x")) else "s")
    return f"{number:,} {what if number == 1 else plural}"


def agreeing(number: int, verb: str) -> str:
    """The form of a verb for a number of things: "is" for 1, and "are" for 2."""
    return _FOR_ONE[verb] if number == 1 else verb


def first_sentence(error: Exception) -> str:
    """What an error of another library says, without the advice that follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
