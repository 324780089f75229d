"""JSON that is checked against a type: nothing is guessed, and what is wrong is one line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest

import lost_reg
from lost_reg.errors import LostRegError
from lost_reg.json_files import DEEPEST, MALFORMED, as_json, convert, parse_json, parse_record, reason_of
from lost_reg.types import FoundObject, Prediction


@dataclass(frozen=True)
class Thing:
    name: str
    layer: int | tuple[int, ...] = -1
    size_hw: tuple[int, int] = (1, 1)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "refused":
            raise LostRegError("expected another `name`")


def reason(text: str | bytes, kind: type = Thing) -> str:
    """The one line in which content is refused."""
    with pytest.raises(MALFORMED) as caught:
        parse_json(text, kind)
    line = reason_of(caught.value)
    assert line and line.isprintable()
    return line


PREDICTION = {"image": "a.jpg", "size_hw": [3, 4], "grid_hw": [1, 1], "objects": []}


def test_content_becomes_its_type():
    text = '{"name": "a", "layer": [-2, -1], "size_hw": [3, 4], "more": {"b": [1, null]}, "unknown": 1}'
    assert parse_json(text, Thing) == Thing("a", (-2, -1), (3, 4), {"b": [1, None]})
    assert parse_json(text.encode(), Thing) == convert(json.loads(text), Thing) == parse_json(text, Thing)
    assert parse_json('{"name": "a"}', Thing) == Thing("a")
    assert parse_json("[1, 2.5, null]", Any) == [1, 2.5, None]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_encodings(encoding):
    assert parse_json('{"name": "caf\u00e9"}'.encode(encoding), Thing) == Thing("caf\u00e9")
    assert reason('{"name": "caf\u00e9"}'.encode("latin-1")) == "it is not UTF-8 text"


def test_numbers_that_are_not_finite_can_be_kept():
    text = f"[NaN, -Infinity, 1e999, {'9' * 400}, {'9' * 5000}]"
    nan, low, beyond, digits, more = parse_json(text, list[Any], finite=False)
    assert nan != nan and (low, beyond, digits, more) == (-inf, inf, int("9" * 400), inf)
    assert "not a finite number" in reason(text, list[Any])


@pytest.mark.parametrize("number", [float("nan"), inf, -inf])
def test_what_is_written_has_finite_numbers_alone(number):
    assert as_json({"a": [1, 2.5, None]}) == '{"a": [1, 2.5, null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"a": [number]})


def test_all_json_is_written_by_one_function():
    """Elsewhere `json.dumps` is for messages alone: those of processes, and those to the user."""
    allowed = {
        "json_files.py",
        "images/decoder_process.py",
        "backbones/hub.py",
        "datasets/fields.py",
        "datasets/downloads.py",
    }
    root = Path(lost_reg.__file__).parent
    others = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\bjson\.dumps?\(|msgspec\.json\.encode", path.read_text(encoding="utf-8"))
    }
    assert others <= allowed


def test_records_are_not_nested_deeper_than_what_walks_through_them_can_go():
    deepest = '{"a": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"
    assert parse_record(deepest)["a"] is not None
    with pytest.raises(MALFORMED, match=f"more than {DEEPEST} times"):
        parse_record(deepest.replace("[]", "[[]]"))


def test_records_have_numbers_that_fit_a_float():
    assert parse_record('{"a": [{"b": 12345678901234567890}]}') == {"a": [{"b": 12345678901234567890}]}
    for digits in (400, 900, 1500, 5000):
        with pytest.raises(MALFORMED):
            parse_record(f'{{"a": [{{"b": {"9" * digits}}}], "name": "\\udce9"}}')
        with pytest.raises(MALFORMED):
            parse_record(f'{{"a": [{{"b": {"9" * digits}}}]}}')


def test_whole_numbers_stay_whole():
    box = parse_json('{"box_xyxy": [0, 1, 2.5, 3], "score": 1, "seed": [0, 0]}', FoundObject).box_xyxy
    assert [type(side) for side in box] == [int, int, float, int]


def test_names_that_are_not_utf_8_come_back():
    name = "caf\udce9.jpg"
    text = json.dumps({"name": name})
    assert parse_json(text, Thing).name == parse_json(text.encode(), Thing).name == name
    assert parse_json(text, dict[str, Any]) == {"name": name}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ('{"name": "a"} more', "Extra data"),
        (b"\xff\xff", "decode"),
        ("[]", "Expected 'object', got 'array'"),
        ("{}", "missing required field 'name'"),
        ('{"name": 3}', "Expected 'str', got 'int' - at '$.name'"),
        ('{"name": null}', "got 'null'"),
        ('{"name": "a", "layer": "-1"}', "$.layer"),
        ('{"name": "a", "layer": true}', "$.layer"),
        ('{"name": "a", "layer": 1.5}', "$.layer"),
        ('{"name": "a", "layer": [1, "2"]}', "$.layer"),
        ('{"name": "a", "size_hw": [1]}', "$.size_hw"),
        ('{"name": "a", "size_hw": [1, 2, 3]}', "$.size_hw"),
        ('{"name": "a", "more": []}', "$.more"),
        ("[" * 100_000, ""),
        ("1" * 100_000, ""),
    ],
    ids=lambda one: str(one)[:40],
)
def test_other_content_is_refused_with_its_place(text, words):
    assert words in reason(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("kind", [Any, Thing])
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(number, kind):
    assert "not a finite number" in reason(f'{{"name": "a", "more": {{"deep": [1, {number}]}}}}', kind)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size_hw": [0, 4]}, "$.size_hw"),
        ({"grid_hw": [1]}, "$.grid_hw"),
        ({"objects": [[0, 0, 1, 1]]}, "$.objects[0]"),
    ],
    ids=str,
)
def test_predictions_of_impossible_sizes_are_refused(changes, words):
    assert parse_json(json.dumps(PREDICTION), Prediction) == Prediction("a.jpg", (3, 4), (1, 1), ())
    assert words in reason(json.dumps({**PREDICTION, **changes}), Prediction)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box_xyxy": [0, 0, 1]}, ".box_xyxy"),
        ({"box_xyxy": [0, 0, 1, 1e16]}, ".box_xyxy[3]"),
        ({"box_xyxy": [0, None, 1, 1]}, ".box_xyxy[1]"),
        ({"score": "high"}, ".score"),
        ({"seed": [0, -1]}, ".seed[1]"),
        ({"details": {"degree": "12"}}, ".details"),
    ],
    ids=str,
)
def test_objects_with_impossible_numbers_are_refused(changes, words):
    one = {"box_xyxy": [0, 0, 1, 1], "score": None, "seed": [0, 0]}
    whole = parse_json(json.dumps({**PREDICTION, "objects": [one]}), Prediction)
    assert whole.objects == (FoundObject((0, 0, 1, 1), None, (0, 0)),)
    assert f"$.objects[0]{words}" in reason(
        json.dumps({**PREDICTION, "objects": [{**one, **changes}]}), Prediction
    )


def test_what_a_type_refuses_itself_is_its_own_error():
    with pytest.raises(LostRegError, match="another `name`"):
        parse_json('{"name": "refused"}', Thing)


def test_reasons_are_one_printable_line_without_backticks():
    """In messages, backticks mark parameters, which the command line words as options."""
    assert reason_of(ValueError("two\nlines \x1b[31m")) == "two\\nlines \\x1b[31m"
    assert reason_of(RecursionError()) == "RecursionError"
