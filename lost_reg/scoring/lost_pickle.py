"""LOST's pickles of boxes, read as data: nothing in a file is ever executed.

First `pickletools.genops` parses the opcodes without executing any. It rejects lengths beyond the end of the
file, and `_scanned` rejects whatever else could exhaust memory or the stack. Then `pickle.Unpickler` loads
the file. The names that numpy's arrays need get stand-ins; every other name is refused. Not even numpy's own
functions are called, so memory stays proportional to the file's length.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from math import isfinite

import numpy as np

from lost_reg.datasets.fields import as_id
from lost_reg.errors import LostRegError
from lost_reg.types import Box

_DEEPEST = 100  # levels of nested tuples; numpy's arrays need 2


def boxes_from_pickle(content: bytes) -> dict[str, Box]:
    """The boxes of a pickled dictionary from image name or id to [xmin, ymin, xmax, ymax].

    Boxes can be lists, tuples or numpy arrays, from any version of numpy and any pickle protocol.

    Raises:
        LostRegError: a pickle with other content.
        Exception: a damaged file can raise nearly anything.
    """
    predictions = _DataUnpickler(io.BytesIO(_scanned(content)), encoding="latin1").load()
    if not isinstance(predictions, dict):
        raise LostRegError(f"expected a dictionary of boxes, but it holds a {type(predictions).__name__}")
    boxes = {_name(key): _box(key, value) for key, value in predictions.items()}
    if len(boxes) < len(predictions):
        raise LostRegError("several of its keys are the same id, as text and as a number")
    return boxes


def _name(key) -> str:
    key = _plain(key)
    try:
        return key if isinstance(key, str) else as_id("a key", key)
    except ValueError:
        raise LostRegError(
            f"expected image names or ids as its keys, but one is a {type(key).__name__}"
        ) from None


def _box(key, value) -> Box:
    sides = value.values() if isinstance(value, _Array) else value
    sides = [_plain(side) for side in sides] if isinstance(sides, (list, tuple)) else []
    if len(sides) != 4 or not all(isinstance(side, (int, float)) and isfinite(side) for side in sides):
        raise LostRegError(f"expected boxes of four numbers, but that of {_name(key)!r} is something else")
    xmin, ymin, xmax, ymax = map(float, sides)
    return xmin, ymin, xmax, ymax


def _plain(value):
    """A Python number for a numpy scalar; anything else unchanged."""
    return value.values()[0] if isinstance(value, _Array) else value


# --- the scan ----------------------------------------------------------------------------------------


def _scanned(content: bytes) -> bytes:
    """Check a pickle for what `pickle.Unpickler` does not check itself; returns it without its frames.

    It refuses memo indices beyond the file's length, for which the unpickler would allocate a table, and
    deeply nested tuples, which overflow the C stack when hashed. To find these, it simulates the unpickler's
    stack with the depth of each value in place of the value. Frames, which are only hints for buffering, are
    removed: genops and the unpickler disagree about opcodes that cross the end of a frame.
    """
    stack: list[int | None] = []  # depths; None is a mark
    memo: dict[int, int | None] = {}
    kept, start = [], 0
    for opcode, argument, position in pickletools.genops(content):
        if opcode.name in _OUTSIDE:
            raise LostRegError("it refers to things outside itself")
        elif opcode.name == "FRAME":
            kept.append(content[start:position])
            start = position + 9  # after the opcode and its length
        elif opcode.name in _PUTS:
            index = len(memo) if argument is None else argument
            if index > len(content):
                raise LostRegError(f"it has a memo index of {index:,}, beyond its length")
            memo[index] = stack[-1]
        elif opcode.name in _GETS:
            stack.append(memo[argument])
        elif pickletools.markobject in opcode.stack_after:
            stack.append(None)
        else:
            depth = _pop(stack, opcode) + opcode.name.startswith("TUPLE")
            if depth > _DEEPEST:
                raise LostRegError(f"tuples are nested in it over {_DEEPEST} deep")
            stack += [depth] * len(opcode.stack_after)
    return b"".join([*kept, content[start:]])


_OUTSIDE = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


def _pop(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> int:
    """Pop what an opcode takes from the stack, and return the largest depth in it."""
    takes, depth = list(opcode.stack_before), 0
    if pickletools.markobject in takes:
        takes = takes[: takes.index(pickletools.markobject)]
        while (top := stack.pop()) is not None:
            depth = max(depth, top)
    for _ in takes:
        depth = max(depth, stack.pop() or 0)
    return depth


# --- the unpickler -----------------------------------------------------------------------------------


class _DataUnpickler(pickle.Unpickler):
    """Refuses every name except those of numpy's arrays and scalars, which get stand-ins."""

    def find_class(self, module: str, name: str):
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise LostRegError(f"it asks for {module}.{name}, which is not data")
        return stand_in


# The stand-ins are classes with `__setstate__`, because a pickle can set attributes on anything else.


class _DType:
    """numpy.dtype: the type's code, such as i8, and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_):
        self.code, self.order = code, "<"

    def __setstate__(self, state) -> None:
        self.order = state[1]

    def decode(self, raw: bytes | bytearray | str) -> list[float]:
        if self.code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
            raise LostRegError(f"it holds an array of type {self.code!r}, not of numbers")
        order = self.order if self.order in "<>" else "="
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # from Python 2, or an `_EncodedText`
        return np.frombuffer(raw, dtype=np.dtype(order + self.code)).tolist()


class _Array:
    """numpy.ndarray, its scalars, and the functions that make them: a type and raw numbers, in any order."""

    __slots__ = ("parts",)

    def __init__(self, *parts):
        self.parts = parts

    def __setstate__(self, state) -> None:
        _, _, kind, _, raw = state
        self.parts = kind, raw

    def values(self) -> list[float]:
        kind = next((part for part in self.parts if isinstance(part, _DType)), None)
        raw = next((part for part in self.parts if isinstance(part, (bytes, bytearray, str))), b"")
        if kind is None:
            raise LostRegError("it holds an array without a type")
        return kind.decode(raw)


class _EncodedText:
    """_codecs.encode, with which protocols 0 to 2 write bytes: the text itself, so that nothing is copied."""

    def __new__(cls, text: str, _encoding: str):
        return text

    def __setstate__(self, state) -> None:
        raise NotImplementedError


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Array,
    ("_codecs", "encode"): _EncodedText,
}
