"""LOST's pickles of boxes, read as data: nothing in a file is ever executed.

`lost_reg.pickles` bounds time and memory while a pickle is read. Afterwards, this module looks at each entry
once, and at four numbers in it: a list, buffer or text of another length is refused unseen, however often the
pickle refers to it.
"""

from __future__ import annotations

import io
from math import isfinite
from typing import Any

import numpy as np

from lost_reg.datasets.fields import as_id
from lost_reg.errors import LostRegError
from lost_reg.pickles import DICT, Made, kind_of, read_pickle
from lost_reg.types import Box

# The names that numpy's arrays and scalars need, from any version of numpy and any pickle protocol. The
# bytes of protocols 0 to 2 are texts that _codecs.encode would encode.
_ARRAY, _SCALAR, _FROM_BUFFER, _TYPE, _BYTES = (
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.dtype",
    "_codecs.encode",
)
_NAMES = {"numpy.ndarray", _ARRAY, _SCALAR, _FROM_BUFFER, _TYPE, _BYTES}
_NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def boxes_from_pickle(content: bytes) -> dict[str, Box]:
    """The boxes of a pickled dictionary from image name or id to [xmin, ymin, xmax, ymax].

    Boxes can be lists, tuples or numpy arrays, from any version of numpy and any pickle protocol.

    Raises:
        LostRegError: a pickle with other content, or one of more than `pickles.MOST_OPCODES` steps.
        Exception: a damaged file can raise nearly anything.
    """
    predictions = read_pickle(io.BytesIO(content), lambda name: _as_numpy_1(name) in _NAMES)
    if not isinstance(predictions, Made) or predictions.name != DICT:
        raise LostRegError(f"expected a dictionary of boxes, but got {kind_of(predictions)}")
    boxes = {_name(key): _box(key, value) for key, value in predictions.items}
    if len(boxes) < len(predictions.items):
        raise LostRegError("several of its keys are the same name, or the same id as text and as a number")
    return boxes


def _as_numpy_1(name: str) -> str:
    """numpy 2 calls numpy.core numpy._core."""
    return name.replace("numpy._core.", "numpy.core.", 1)


def _name(key: Any) -> str:
    key = _number(key)
    if not isinstance(key, (str, int, float)):
        raise LostRegError(f"expected image names or ids as its keys, but one is a {kind_of(key)}")
    try:
        return key if isinstance(key, str) else as_id("a key", key)
    except ValueError:
        raise LostRegError(f"expected image names or ids as its keys, but one is {key}") from None


def _box(key: Any, value: Any) -> Box:
    if isinstance(value, (list, tuple)) and len(value) == 4:
        sides = [_number(side) for side in value]
    else:
        sides = _numbers(value, 4)
    if len(sides) != 4 or not all(isinstance(side, (int, float)) and isfinite(side) for side in sides):
        raise LostRegError(f"expected boxes of four numbers, but that of {_name(key)!r} is something else")
    xmin, ymin, xmax, ymax = map(float, sides)
    return xmin, ymin, xmax, ymax


def _number(value: Any) -> Any:
    """A Python number for an array of one number; anything else unchanged."""
    return next(iter(_numbers(value, 1)), value)


def _numbers(value: Any, count: int) -> list[float]:
    """The numbers of an array or scalar of numpy; none if it is no array, or one of another size."""
    if not isinstance(value, Made):
        return []
    kind, raw = _parts(value)
    if not isinstance(kind, Made) or kind.name != _TYPE:
        return []
    code = next(iter(kind.arguments), None)
    if code not in _NUMBERS:
        raise LostRegError(f"it holds an array of type {code!r}, not of numbers")
    is_big = isinstance(kind.state, tuple) and kind.state[1:2] == (">",)
    dtype = np.dtype(f"{'>' if is_big else '<'}{code}")
    if isinstance(raw, Made) and raw.name == _BYTES:
        raw = raw.arguments[0]
    if not isinstance(raw, (bytes, bytearray, str)) or len(raw) != count * dtype.itemsize:
        return []
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2, or to be encoded
    return np.frombuffer(raw, dtype).tolist()


def _parts(array: Made) -> tuple[Any, Any]:
    """The type and the raw bytes of an array or scalar; None for what it lacks."""
    name = _as_numpy_1(array.name)
    if name == _ARRAY and isinstance(array.state, tuple) and len(array.state) == 5:
        _, _, kind, _, raw = array.state
        return kind, raw
    if name == _FROM_BUFFER and isinstance(array.arguments, tuple) and len(array.arguments) > 1:
        return array.arguments[1], array.arguments[0]
    if name == _SCALAR and isinstance(array.arguments, tuple) and len(array.arguments) == 2:
        return array.arguments
    return None, None
