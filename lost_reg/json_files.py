"""JSON, parsed and checked against a type. Nothing is guessed, nothing is executed.

msgspec parses the text and builds the type. It rejects lone surrogates, which stand for bytes of file names
that are not UTF-8; Python's json parses such texts, and msgspec checks the result.
"""

from __future__ import annotations

import codecs
import json
import math
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec

from lost_reg.errors import LostRegError, one_line
from lost_reg.text import text_of

T = TypeVar("T")

# What records count: numbers of images, patches and the like.
Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
PositiveCount = Annotated[int, msgspec.Meta(gt=0, le=10**15)]

DEEPEST = 64  # levels of a record
_MOST = 10**300  # larger whole numbers do not fit a float
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# What parsing and checking raise for content that is malformed, nested too deeply or of another type.
MALFORMED = (ValueError, RecursionError, msgspec.ValidationError)


def parse_json(text: str | bytes, kind: type[T], *, finite: bool = True) -> T:
    """Parse JSON and check it against a type, such as a frozen dataclass; unknown keys are ignored.

    Args:
        text: bytes may have a mark of UTF-8 or UTF-16 (see `text_of`).
        finite: False keeps NaN and what is too large for a float, so that the caller can say where it is.

    Raises:
        ValueError, RecursionError, msgspec.ValidationError (`MALFORMED`): not JSON, numbers that are not
            finite, or content of another type.
    """
    if isinstance(text, bytes) and text.startswith(_MARKS):
        text = text_of(text)
    try:
        wanted: Any = kind  # hashable, as types are
        return _decoder(wanted).decode(text)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except msgspec.DecodeError:
        number, whole = (_finite, _finite_whole_number) if finite else (float, _whole_number)
        return convert(json.loads(text, parse_constant=number, parse_float=number, parse_int=whole), kind)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def parse_record(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object of any content; see `parse_json`.

    All of its numbers fit a float, and what walks through it needs to go no deeper than DEEPEST.
    """
    record = parse_json(text, dict[str, Any])
    _check_content(record, 0)
    return record


def _check_content(content: Any, depth: int) -> None:
    if isinstance(content, int) and abs(content) > _MOST:
        raise ValueError(f"a number of {len(str(abs(content)))} digits")
    if isinstance(content, (dict, list)):
        if depth == DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} times")
        for one in content.values() if isinstance(content, dict) else content:
            _check_content(one, depth + 1)


def as_json(content: Any, **options: Any) -> str:
    """JSON, which has no NaN and no infinity; `options`: those of `json.dumps`.

    Raises:
        ValueError: a number that is not finite.
    """
    return json.dumps(content, allow_nan=False, **options)


def convert(content: Any, kind: type[T]) -> T:
    """Check parsed JSON against a type, and build it; see `parse_json`."""
    return msgspec.convert(content, kind)


def check_fields(config: Any) -> None:
    """Check that the fields of a dataclass have the types that they are declared with.

    Raises:
        LostRegError: one has another type.
    """
    kind_of_config: Any = type(config)  # hashable, as types are
    for name, kind in _types(kind_of_config).items():
        value = getattr(config, name)
        try:
            convert(value, kind)
        except msgspec.ValidationError:
            raise LostRegError(f"`{name}` cannot be {value!r}") from None


@cache
def _types(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def reason_of(error: Exception) -> str:
    """What was wrong with the content, as one line, without backticks: these mark parameters in messages."""
    return one_line(str(error) or type(error).__name__).replace("`", "'")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < 1000 else float(digits)  # Python itself refuses to parse longer ones


def _finite_whole_number(digits: str) -> int:
    if len(digits) >= 1000:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(number: str) -> float:
    value = float(number)  # also infinite for 1e999
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a finite number")
    return value
