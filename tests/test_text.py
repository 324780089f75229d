"""Text that users give, and tables, CSV and counts in plain text."""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st

import lost_reg
from lost_reg.files import read_text
from lost_reg.text import (
    agreeing,
    counted,
    csv_text,
    display_width,
    first_sentence,
    short_names,
    shown_names,
    text_of,
    text_table,
)


def table(header, rows) -> list[str]:
    return text_table([dict(zip(header, row)) for row in rows]).splitlines()


def test_columns_are_dropped_by_priority_until_a_table_fits():
    rows = [{"name": "a", "count": "1", "about": "x" * 10, "score": "2.5"}]
    drop = ("count", "about", "score")
    assert text_table(rows, width=None, drop=drop) == text_table(rows)
    width = len(text_table(rows).splitlines()[1])
    assert text_table(rows, width=width, drop=drop) == text_table(rows)
    *table, note = text_table(rows, width=width - 1, drop=drop).splitlines()
    assert table[0].split() == ["name", "about", "score"] and note == "Left out to fit the width: count"
    *table, note = text_table(rows, width=15, drop=("count", "score", "about")).splitlines()
    assert table[0].split() == ["name", "score"] and note.endswith(": count, about")  # "score" fits again
    *table, note = text_table(rows, width=1, drop=drop).splitlines()
    assert table[0] == "name" and note.endswith("count, about, score")


def test_short_names_tell_paths_apart(tmp_path):
    assert short_names([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert short_names([Path("a/x"), Path("b/x"), Path("c")])[:2] == ["a/x", "b/x"]
    assert short_names([Path("a/x")] * 2) == ["x", "x"] and short_names([]) == []


def test_columns_of_the_table_are_aligned():
    rows = [("a", "1", "x"), ("long name", "12,345", "no number"), ("b", "7", "")]
    assert table(("word", "count", "note"), rows) == [
        "word        count  note",
        "---------  ------  ---------",
        "a               1  x",
        "long name  12,345  no number",
        "b               7",
    ]


def test_signed_numbers_and_bounds_are_numbers_in_a_table():
    rows = [("+12.5", "<0.0001", "-"), ("-3.0", "", "-x"), ("0", "1.0", "")]
    assert table(("change", "p", "note"), rows)[2:] == [
        " +12.5  <0.0001  -",
        "  -3.0           -x",
        "     0      1.0",
    ]


def test_a_table_shows_control_characters_as_escapes():
    assert table(("a\x1b",), [("two\nlines",)]) == ["a\\x1b", "-" * 10, "two\\nlines"]


def test_csv_quotes_what_needs_it_and_keeps_a_row_on_its_line():
    text = csv_text([{"path": 'a, "b"', "share": 0.5, "none": None}, {"path": "two\nlines"}])
    assert not text.endswith("\n") and len(text.split("\n")) == 3
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"path": 'a, "b"', "share": "0.5", "none": ""},
        {"path": "two\\nlines", "share": "", "none": ""},
    ]
    assert csv_text([], ("image", "found_by")) == "image,found_by"


def test_names_and_numbers_in_words():
    assert shown_names(["a", "b"]) == "a, b" and shown_names("abcde") == "a, b, c and 2 more"
    assert shown_names(["a"], 1, of=1_001) == "a and 1,000 more"
    assert (counted(1, "run"), counted(2_000, "run"), counted(0, "run")) == ("1 run", "2,000 runs", "0 runs")
    assert (counted(2, "class"), counted(3, "box")) == ("2 classes", "3 boxes")
    assert [agreeing(number, "are") for number in (0, 1, 2)] == ["are", "is", "are"]
    assert (agreeing(1, "were"), agreeing(1, "have")) == ("was", "has")


def test_the_first_sentence_of_an_error():
    assert first_sentence(ValueError("It broke. Try again.\nMore")) == "It broke"
    assert first_sentence(KeyError()) == "KeyError"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_is_utf_8_or_has_a_mark(tmp_path, encoding):
    text = "caf\u00e9, \u72ac\n"
    marked = f"\ufeff{text}" if encoding[-2:] in ("le", "be") else text
    (tmp_path / "names").write_bytes(marked.encode(encoding))
    assert read_text(tmp_path / "names") == text


def test_what_is_no_text_is_one_line(tmp_path):
    (tmp_path / "names").write_bytes(b"caf\xe9")
    named = repr(str(tmp_path / "names"))
    assert refusal(read_text, tmp_path / "names") == f"cannot read {named}: it is not UTF-8 text"
    assert read_text(tmp_path / "names", errors="surrogateescape") == "caf\udce9"
    (tmp_path / "names").write_bytes(b"\xff\xfea")
    assert refusal(read_text, tmp_path / "names", "the list") == (
        f"cannot read the list {named}: it is not UTF-16 text"
    )
    assert "No such file" in refusal(read_text, tmp_path / "nowhere")
    assert text_of("\u72ac".encode("gb2312"), "gb2312") == "\u72ac"
    with pytest.raises(ValueError, match="its encoding 'klingon' is unknown"):
        text_of(b"a", "klingon")


PLURALS = re.compile(
    r" (boxes|classes|clusters|crops|files|folders|groups|heads|images|labels|masks|neurons|objects|pictures|"
    r"ranks|registers|settings|shards)\b(?!/)"
)


def numbers_before_plurals(source: str) -> Iterator[str]:
    """The values in f-strings that stand before a plural, but for constants and quoted names."""
    for text in ast.walk(ast.parse(source)):
        if isinstance(text, ast.JoinedStr):
            for value, after in zip(text.values, text.values[1:]):
                if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                    continue
                is_name = value.conversion != -1 or ast.unparse(value.value).startswith("str(")
                is_constant = isinstance(value.value, ast.Name) and value.value.id.isupper()
                if PLURALS.match(after.value) and not is_name and not is_constant:
                    yield f"{{{ast.unparse(value.value)}}}{after.value}"


def test_counts_in_messages_agree_with_their_nouns():
    """`counted` says "1 image"."""
    example = 'f"{len(a):,} images of {n} runs, {MOST} images, {str(b)!r} files"'
    assert list(numbers_before_plurals(example)) == ["{len(a)} images of "]
    found = {
        f"{path.name}: {one}"
        for path in Path(lost_reg.__path__[0]).rglob("*.py")
        for one in numbers_before_plurals(path.read_text(encoding="utf-8"))
    }
    assert not found


def test_words_lose_their_middle_before_columns_are_left_out():
    rows = [{"name": "n" * 15 + "m" * 15, "label": "a" * 10 + "z" * 10, "count": "7", "score": "2.5"}]
    shown = {"shorten": ("name", "label"), "drop": ("count", "score")}
    whole = text_table(rows)
    width = len(whole.splitlines()[1])
    assert text_table(rows, width=width, **shown) == text_table(rows, **shown) == whole
    for narrower in range(1, 15):  # 30 and 20 characters become 16 each
        table = text_table(rows, width=width - narrower, **shown).splitlines()
        assert len(table) == 3 and len(table[1]) == width - narrower
        assert set(table[0].split()) == {"name", "label", "count", "score"}
        assert table[2].startswith("nnn") and "zzz  " in table[2]
    assert text_table(rows, width=46, **shown).splitlines()[2:] == [
        "nnnnnnnnn…mmmmmmmmm  aaaaaaaaa…zzzzzzzz    2.5", "Left out to fit the width: count",
    ]  # fmt: skip


def test_different_names_stay_different():
    names = [f"voc07-dino_vits8-lost-{one}-bias_auto-448" for one in ("key", "query")]
    rows = [{"run": name, "CorLoc": "2.5", "about": "x" * 50} for name in names]
    shown = {"shorten": ("run",), "drop": ("about",)}
    for width in range(1, 110):
        table, _, left_out = text_table(rows, width=width, **shown).partition("\nLeft out")
        cells = [line.split()[0] for line in table.splitlines()[2:]]
        assert len({*cells}) == 2 and (left_out or max(map(len, table.splitlines())) <= width), width
    # the last 15 characters agree, and so do the first 22: of 17 columns, all but one go to the end
    assert cells_of(text_table(rows, width=25, **shown)) == ["…ey-bias_auto-448", "…ry-bias_auto-448"]
    assert cells_of(text_table(rows, width=60, **shown)) == names  # there is room, once "about" is gone
    rows[1]["run"] = rows[0]["run"]
    assert cells_of(text_table(rows, width=24, **shown)) == ["voc07-di…uto-448"] * 2


def test_random_weights_are_never_cut():
    notes = "RANDOM WEIGHTS, bf16, 2 test-time registers at 10 neurons"
    for label, least in (
        ("tiny (RANDOM WEIGHTS)", "tiny (RANDOM WEIGHTS)"),
        ("dinov2_vits14 (RANDOM WEIGHTS)", "dinov…RANDOM WEIGHTS)"),
        (f"dino_vits16 ({notes})", "dino_vits16 (RANDOM WEIGHTS…"),
    ):
        rows = [{"backbone": label, "CorLoc": "2.5"}, {"backbone": "tiny", "CorLoc": "7.5"}]
        for width in range(1, 100):
            line = text_table(rows, width=width, shorten=("backbone",)).splitlines()[2]
            assert "RANDOM WEIGHTS" in line, (label, width)
        narrow = text_table(rows, width=1, shorten=("backbone",)).splitlines()[2]
        assert narrow.split("  ")[0] == least


def cells_of(table: str) -> list[str]:
    """The words of the first column."""
    return [line.split()[0] for line in table.splitlines()[2:4]]


LENGTHS = st.integers(0, 30)
MIDDLES = st.lists(st.text("ab\u72ac\u0301", max_size=3), min_size=1, max_size=4)


@given(middles=MIDDLES, before=LENGTHS, after=LENGTHS, width=st.integers(1, 60))
def test_words_that_agree_at_both_ends_are_cut_to_one_size_and_stay_different(middles, before, after, width):
    words = ["a" + "b" * before + middle + "\u72ac" * after for middle in middles]
    rows = [{"run": word, "n": "1"} for word in words]
    lines = text_table(rows, width=width, shorten=("run",)).splitlines()
    cells = [line.removesuffix("  1").rstrip() for line in lines[2:]]
    assert len({*cells}) == len({*words})
    assert {display_width(line) for line in lines} == {display_width(lines[1])}
    if len({*words}) == 1:
        assert display_width(lines[1]) <= max(width, 16 + len("  n"))


def test_wide_characters_take_two_columns_and_combining_ones_none():
    assert display_width("\u72ac\uff21a") == 5 and display_width("e\u0301\u200d") == 1
    assert table(("name", "count"), [("\u72ac\u72ac\u72ac", "1"), ("e\u0301", "20")]) == [
        "name    count",
        "------  -----",
        "\u72ac\u72ac\u72ac      1",
        "e\u0301          20",
    ]
    rows = [{"name": "\u72ac" * 15 + "m" * 9, "about": "\u72ac\u72ac \u72ac\u72ac a"}]
    lines = text_table(rows, width=24, shorten=("name",), fold="about").splitlines()
    assert lines[2:] == ["\u72ac" * 4 + "\u2026mmmmmmm  \u72ac\u72ac", " " * 18 + "\u72ac\u72ac a"]


def test_a_column_of_words_is_folded():
    rows = [{"name": "a", "about": "one two threefour"}, {"name": "b", "about": ""}]
    assert text_table(rows, width=14, fold="about").splitlines() == [
        "name  about", "----  ---------", "a     one two", "      threefour", "b",
    ]  # fmt: skip
    assert len(text_table(rows, fold="about").splitlines()) == 4
