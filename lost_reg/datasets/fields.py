"""The fields of annotation files, each checked on its own: ids, marks, sides and boxes.

Each function takes the field's name and its value as parsed, and raises ValueError with a text that names
the field, says what it is, and what was expected. A field that is absent is `MISSING`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from lost_reg.images.reading import MOST_PIXELS, MOST_SIDE
from lost_reg.types import SizeHW

MISSING = msgspec.UNSET
FARTHEST = 1_000_000  # pixels; what lies beyond is no box of an image
MOST = 1e300  # of a score
_ID = "a whole number or a text"
_SIDE = f"a whole number from 1 to {MOST_SIDE:,}"
_WHOLE_TEXT = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0+)?")
_NUMBER_TEXT = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,3})?")
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")


def wrong(name: str, value: Any, expected: str) -> ValueError:
    """The error for a field."""
    return ValueError(f"{name} is {_shown(value)} (expected {expected})")


def as_id(name: str, value: Any) -> str:
    """An id as text, so that 139, 139.0, "139" and "139.0" are the same; "000139" is another one."""
    if type(value) is int and -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, str) and value.strip():
        whole = _WHOLE_TEXT.fullmatch(value.strip())
        return whole[1] if whole else value.strip()
    raise wrong(name, value, _ID)


def as_mark(name: str, value: Any) -> bool:
    """Whether something is marked, such as a crowd: 0, 1, true or false, also as text; False if missing."""
    if value is MISSING or value is None or value in (0, 1):
        return bool(value)
    text = value.strip().lower() if isinstance(value, str) else None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise wrong(name, value, "0 or 1")


def as_size(height: Any, width: Any) -> SizeHW | None:
    """An image's height and width in pixels; None if either is missing or null."""
    sides = [_as_side(name, side) for name, side in (("height", height), ("width", width))]
    if None in sides:
        return None
    if sides[0] * sides[1] > MOST_PIXELS:
        product = f"height x width are {height} x {width}"
        raise ValueError(f"{product} (expected at most {MOST_PIXELS:,} pixels)")
    return sides[0], sides[1]


def _as_side(name: str, value: Any) -> int | None:
    if value is MISSING or value is None:
        return None
    is_whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if not is_whole or not 1 <= value <= MOST_SIDE:
        raise wrong(name, value, _SIDE)
    return int(value)


def as_number(name: str, value: Any, most: float = FARTHEST) -> float:
    """A finite number whose size is at most `most`."""
    if not _is_number(value, most):
        raise wrong(name, value, f"a number up to {most:,}" if most == FARTHEST else "a finite number")
    return value


def as_xywh(name: str, value: Any) -> tuple[float, float, float, float]:
    """A box [x, y, width, height] in pixels; a width or height of 0 is legal."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise wrong(name, value, f"[x, y, width, height], numbers up to {FARTHEST:,}")
    x, y, width, height = value
    if width < 0 or height < 0:
        raise wrong(name, value, "[x, y, width, height], width and height not below 0")
    return x, y, width, height


def _is_number(value: Any, most: float = FARTHEST) -> bool:
    return type(value) in (int, float) and abs(value) <= most  # NaN fails every comparison


def number_in(text: str | None) -> Any:
    """The number that a text in XML stands for; other texts unchanged, for the check that follows."""
    if text is None:
        return MISSING
    if not _NUMBER_TEXT.fullmatch(text.strip()):
        return text
    number = float(text)
    return int(number) if number.is_integer() else number


def _shown(value: Any) -> str:
    """A value as a message shows it: as JSON, and cut if it is long."""
    if value is MISSING:
        return "missing"
    text = json.dumps(value, ensure_ascii=False, default=str).replace("`", "'")
    return text if len(text) <= 40 else f"{text[:37]}..."
