"""Damage to JSON: values of another kind, out of range or missing, and damage to the text itself."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from fuzzing.mutations import mutated_bytes

# Values as they are written: some are no JSON, or none that Python's `json` writes.
HOSTILE = (
    "null", "true", "0", "-1", "1.5", "1e308", "1e999", "-1e999", "NaN", "Infinity", "9" * 400, "[]", "{}",
    '""',
    '"text"', '"1"', '"\\ud800"', '"../../x.jpg"', '"/etc/passwd"', '"\\u0000"', '"a\\nb"', "[[]]", "[null]",
    '{"a": 1}', "[" * 500 + "]" * 500, "[0, 0, 0, 0]", "[NaN, 0, 1, 1]", "[1, 2, 3]", "4294967296",
    "18446744073709551616", '"' + "x" * 5000 + '"',
)  # fmt: skip
_MARK = "hostile value"


def mutated_json(text: bytes, rng: random.Random) -> bytes:
    """One damaged copy of a JSON file, or of a file with a line of JSON for each image."""
    if rng.random() < 0.25:
        return mutated_bytes(text, text, rng)
    with contextlib.suppress(ValueError):  # raised by several lines
        return _mutated_document(text, rng)
    lines = text.splitlines(keepends=True)
    index = rng.randrange(len(lines))
    if rng.random() < 0.05:
        return b"".join([*lines[:index], *lines[index:][::-1]])
    lines[index] = _mutated_document(lines[index], rng)
    return b"".join(lines)


def _mutated_document(text: bytes, rng: random.Random) -> bytes:
    holder = {"": json.loads(text)}
    end = b"\n" if text.endswith(b"\n") else b""
    places: list[Callable[[Any], None]] = []
    deletions: list[Callable[[], None]] = []
    _collect(holder[""], places, deletions)
    if rng.random() < 0.2 and deletions:
        rng.choice(deletions)()
        return json.dumps(holder[""]).encode() + end
    places.append(lambda new: holder.__setitem__("", new))
    rng.choice(places)(_MARK)
    return json.dumps(holder[""]).replace(json.dumps(_MARK), rng.choice(HOSTILE)).encode() + end


def _collect(value: Any, places: list[Callable[[Any], None]], deletions: list[Callable[[], None]]) -> None:
    """All places in a document that a value can be put at, or be deleted from."""
    for key, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
        places.append(partial(value.__setitem__, key))
        deletions.append(partial(value.__delitem__, key))
        if isinstance(one, (dict, list)):
            _collect(one, places, deletions)
