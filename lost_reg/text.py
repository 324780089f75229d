"""Text: decoding what a user gives; tables, CSV, counts and short lists of names."""

from __future__ import annotations

import codecs
import csv
import io
import math
import shutil
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lost_reg.errors import one_line

RANDOM_WEIGHTS = "RANDOM WEIGHTS"  # in the label of a backbone; no table cuts it
_LEAST = 16  # columns of the terminal for a word in a narrow table
_CUTS = 1 / 2, 1 / 4, 3 / 4, 0, 1  # where a word may be cut: the share of what is kept that is its start
_WITHOUT_WIDTH = {"Mn", "Me", "Cf"}  # categories of marks on the character before, and of invisible ones
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


def text_table(
    rows: Sequence[dict[str, str]],
    *,
    width: int | None = None,
    drop: Sequence[str] = (),
    shorten: Sequence[str] = (),
    fold: str = "",
) -> str:
    """Rows with the same keys as a table: padded columns, numbers right-aligned, words left-aligned.

    Args:
        width: as shown in a terminal, see `display_width`. In a wider table, words are shortened; if that is
            not enough, columns are left out until it fits, and a last line names them.
        drop: the columns that may be left out, the first first.
        shorten: the columns whose words may lose their middle, down to `_LEAST`. Different words stay
            different, and RANDOM_WEIGHTS whole, if need be by another cut or in a wider column.
        fold: a column of words that may go on in further lines.
    """
    rows = [{one_line(title): one_line(cell) for title, cell in row.items()} for row in rows]
    full = {title: max(map(display_width, (title, *(row[title] for row in rows)))) for title in rows[0]}
    words = {title: [row[title] for row in rows] for title in rows[0]}
    least = {title: _least(words[title], title, full[title]) for title in shorten if title in full}
    if fold:
        least[fold] = max(map(display_width, (fold, *(word for row in rows for word in row[fold].split()))))
    shown = _fitting(full, least, width, drop)
    sizes = _sizes({title: full[title] for title in shown}, least, width)
    lines = [{title: row[title] for title in shown} for row in rows]
    for title in (name for name in shorten if name in shown):
        for line, word in zip(lines, _shortened(words[title], sizes[title])):
            line[title] = word
    if fold in shown:
        lines = [line for row in lines for line in _folded(row, fold, sizes[fold])]
    columns = [_column(title, [line[title] for line in lines]) for title in shown]
    table = ["  ".join(line).rstrip() for line in zip(*columns)]
    missing = [title for title in full if title not in shown]
    return "\n".join([*table, *([f"Left out to fit the width: {', '.join(missing)}"] if missing else [])])


def _fitting(
    full: Mapping[str, int], least: Mapping[str, int], width: int | None, drop: Sequence[str]
) -> list[str]:
    """The columns that fit a width, without those of `drop` that do not. least: sizes of what can shrink."""
    shown = set(full)

    def fits(least: Mapping[str, int]) -> bool:
        sizes = (min(full[title], least.get(title, full[title])) for title in shown)
        return width is None or sum(sizes) + 2 * (len(shown) - 1) <= width

    dropped = []
    for title in (name for name in drop if name in full):
        if fits(least):
            break
        dropped.append(title)
        shown.remove(title)
    for title in dropped[::-1]:  # a wide one can have made room for narrow ones that went before it
        shown.add(title)
        if not fits({}):  # which nothing is shortened for
            shown.remove(title)
    return [title for title in full if title in shown]


def _sizes(full: Mapping[str, int], least: Mapping[str, int], width: int | None) -> dict[str, int]:
    """The sizes of columns: those that can shrink do as far as needed, and share the room."""
    if width is None:
        return dict(full)
    sizes = {title: min(size, least.get(title, size)) for title, size in full.items()}
    for _ in range(width - sum(sizes.values()) - 2 * (len(sizes) - 1)):
        if short := [title for title in sizes if sizes[title] < full[title]]:
            sizes[min(short, key=sizes.__getitem__)] += 1
    return sizes


def _least(words: Sequence[str], title: str, full: int) -> int:
    """The least size, from that of the title and `_LEAST`, in which words stay clear."""
    sizes = range(min(full, max(_LEAST, display_width(title))), full)
    return sizes.start + bisect_left(sizes, True, key=lambda size: _clear(_shortened(words, size), words))


def _shortened(words: Sequence[str], size: int) -> list[str]:
    """Words in a size, cut at the first place of `_CUTS` where they stay clear, if any."""
    cuts = [[_without_middle(word, size, share) for word in words] for share in _CUTS]
    return next((cut for cut in cuts if _clear(cut, words)), cuts[0])


def _clear(cut: Sequence[str], words: Sequence[str]) -> bool:
    """Whether different words stay different, and RANDOM_WEIGHTS whole, after the start of a name."""
    marked = [short for short, word in zip(cut, words) if RANDOM_WEIGHTS in word]
    told = all(RANDOM_WEIGHTS in short and not short.startswith("…") for short in marked)
    return told and len({*cut}) == len({*words})


def _without_middle(text: str, size: int, share: float) -> str:
    """The text in a size, with an ellipsis in place of its middle if it is longer.

    share: that of its start in what is kept.
    """
    if _fitting_characters(text, size) == len(text):
        return text
    start = math.ceil((size - 1) * share)
    head = text[: _fitting_characters(text, start)]
    tail = text[len(text) - _fitting_characters(text[::-1], size - 1 - start) :]
    marks = "".join(one for one in tail if not display_width(one))
    return f"{head}…{tail.lstrip(marks)}"  # without marks of what is cut off


def _fitting_characters(text: str, size: int) -> int:
    """How many characters of a text fit in a size, from its start."""
    if text.isascii():
        return min(len(text), size)
    used = 0
    for count, character in enumerate(text):
        used += display_width(character)
        if used > size:
            return count
    return len(text)


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.category(one) in _WITHOUT_WIDTH for one in text)


def _folded(row: dict[str, str], title: str, size: int) -> list[dict[str, str]]:
    """A row as several, with one column in lines of a size."""
    lines = [""]
    for word in row[title].split():
        longer = f"{lines[-1]} {word}".lstrip()
        if display_width(longer) > size and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return [{**row, title: lines[0]}, *({**dict.fromkeys(row, ""), title: line} for line in lines[1:])]


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
    width = max(map(display_width, (title, *cells)))
    is_numeric = all(cell.lstrip("+-<")[:1].isdigit() for cell in cells if cell)
    padded = [(" " * (width - display_width(cell)), cell) for cell in (title, "-" * width, *cells)]
    return [f"{space}{cell}" if is_numeric else f"{cell}{space}" for space, cell in padded]


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


def type_of(value: object) -> str:
    """What a value is, for "but got ...": the name of its type, such as "bytes", but "None" for None."""
    return "None" if value is None else type(value).__name__


def first_sentence(error: Exception) -> str:
    """What an error of another library says, without the advice that follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
