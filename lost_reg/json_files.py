"""JSON, parsed and checked against a type. Nothing is guessed, nothing is executed.

msgspec parses the text and builds the type. It rejects lone surrogates, which stand for bytes of file names
that are not UTF-8; Python's json parses such texts, and msgspec checks the result.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any, TypeVar

import msgspec

from lost_reg.errors import one_line

T = TypeVar("T")

# What parsing and checking raise for content that is malformed, nested too deeply or of another type.
MALFORMED = (ValueError, RecursionError, msgspec.ValidationError)


def parse_json(text: str | bytes, kind: type[T]) -> T:
    """Parse JSON and check it against a type, such as a frozen dataclass; unknown keys are ignored.

    Raises:
        ValueError, RecursionError, msgspec.ValidationError (`MALFORMED`): not JSON, numbers that are not
            finite, or content of another type.
    """
    try:
        wanted: Any = kind  # hashable, as types are
        return _decoder(wanted).decode(text)
    except msgspec.DecodeError:
        return convert(json.loads(text, parse_constant=_finite, parse_float=_finite), kind)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def convert(content: Any, kind: type[T]) -> T:
    """Check parsed JSON against a type, and build it; see `parse_json`."""
    return msgspec.convert(content, kind)


def reason_of(error: Exception) -> str:
    """What was wrong with the content, as one line, without backticks: these mark parameters in messages."""
    return one_line(str(error) or type(error).__name__).replace("`", "'")


def _finite(number: str) -> float:
    value = float(number)  # also infinite for 1e999
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a finite number")
    return value
