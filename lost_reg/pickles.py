"""Pickles, read as data: nothing in one is called, looked up or hashed.

`pickletools.genops` parses the opcodes, and this module keeps a stack and a memo of its own. What a pickle
would make by a call becomes a `Made`: the function's name beside its arguments, for the caller to judge. Its
names must be among those that the caller expects.

What bounds what:
    memory: each opcode adds at most one small object, and there are at most MOST_OPCODES; texts and bytes are
        slices of the file, since lengths beyond its end are refused. No argument is a size.
    time: each opcode takes constant time, apart from what it reads of the file.
    the stack of C: dictionaries and sets stay lists, so that no nested tuple is hashed or compared.

A memo can refer to one list many times, and so on, a few bytes for 2 ** 60 elements. A caller that walks what
it gets must bound its walk.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from lost_reg.errors import LostRegError, one_line
from lost_reg.text import type_of

MOST_OPCODES = 5_000_000  # boxes of 20,000 images, as numpy arrays, take 600,000
_NEWEST_PROTOCOL = 5
_LONGEST_NAME = 200  # of a class or function, in characters
DICT, SET = "builtins.dict", "builtins.set"


class Name:
    """A class or function that a pickle refers to, such as "numpy.dtype"."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class Made:
    """What a pickle would make by calling something.

    name: of what would be called; a plain dictionary has `DICT`, and any kind of set has `SET`.
    arguments: what it would be called with, usually a tuple.
    state: what the pickle would set its state to, or None.
    items: what would be put into it: pairs of key and value for a dictionary.
    """

    __slots__ = ("arguments", "items", "name", "state")

    def __init__(self, name: str, arguments: Any = ()):
        self.name, self.arguments = name, arguments
        self.state: Any = None
        self.items: Sequence[Any] = ()  # a list of its own once something is put into it

    def add(self, items: list[Any]) -> None:
        if not isinstance(self.items, list):
            self.items = []
        self.items += items


class UnexpectedName(LostRegError):
    """A pickle asks for a class or function that is not among those expected."""


def kind_of(value: Any) -> str:
    """What a value is called in Python, such as "list" or "numpy.dtype"."""
    return value.name.removeprefix("builtins.") if isinstance(value, Made) else type_of(value)


def read_pickle(
    file: BinaryIO, is_expected: Callable[[str], bool], *, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read the pickle at the current position of a file, and leave the position at its end.

    Args:
        file: in memory or mapped into it, so that a length beyond its end reads no more than is there.
        is_expected: whether the pickle may refer to the class or function of this name.
        persistent: gives the thing outside the pickle that an id refers to, if there are any.

    Returns:
        None, booleans, numbers, texts, bytes, tuples and lists as they are; `Name` and `Made` for all else,
        dictionaries included.

    Raises:
        UnexpectedName: it asks for another name.
        LostRegError: it refers to things outside itself, or is too long.
        Exception: a damaged one can raise nearly anything.
    """
    machine = _Machine(is_expected, persistent)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MOST_OPCODES:
            raise LostRegError(f"it is a pickle of more than {MOST_OPCODES:,} steps")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("a pickle without an end")


class _Machine:
    """The stack, the stacks below each mark, and the memo."""

    def __init__(self, is_expected: Callable[[str], bool], persistent: Callable[[Any], Any] | None):
        self.is_expected, self.persistent = is_expected, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _GETS:
            self.stack.append(self.memo[argument])
        elif opcode in _PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif opcode in _MAKERS:
            self.stack.append(_MAKERS[opcode]())
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME"):  # frames are only hints for buffering
            raise LostRegError("it refers to things outside itself")
        elif opcode == "PROTO" and argument > _NEWEST_PROTOCOL:
            raise ValueError(f"unknown protocol {argument}")

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, which is removed."""
        values, self.stack = self.stack, self.below.pop()
        return values

    def pop(self, _: Any = None) -> Any:
        return self.stack.pop() if self.stack else self.since_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("a tuple of more values than there are")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def named(self, name: str) -> None:
        name = name[:_LONGEST_NAME].replace(" ", ".", 1)  # genops joins module and attribute by a space
        if not self.is_expected(name):
            raise UnexpectedName(
                f"it asks for {one_line(name)}, which is not data (nothing in it was executed)"
            )
        self.stack.append(Name(name))

    def named_by_stack(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(attribute, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.named(f"{module[:_LONGEST_NAME]} {attribute[:_LONGEST_NAME]}")

    def make(self, arguments: Any) -> None:
        called = self.stack.pop()
        if not isinstance(called, Name):
            raise ValueError("a call of something without a name")
        self.stack.append(Made(called.name, arguments))

    def make_new(self, _: Any) -> None:
        self.make(self.stack.pop())

    def make_with_keywords(self, _: Any) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        self.make((arguments, keywords))

    def make_named(self, name: str) -> None:
        arguments = self.since_mark()
        self.named(name)
        self.make(tuple(arguments))

    def make_marked(self, _: Any) -> None:
        called, *arguments = self.since_mark()
        self.stack.append(called)
        self.make(tuple(arguments))

    def set_state(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, Made) or made.name in (DICT, SET):
            raise ValueError("a state for something that has none")
        made.state = state

    def append(self, items: list[Any]) -> None:
        top = self.stack[-1]
        if isinstance(top, list):
            top += items
        elif isinstance(top, Made):
            top.add(items)
        else:
            raise ValueError("elements for something that has none")

    def add_pairs(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], Made):
            raise ValueError("items for something that is no dictionary")
        self.append(list(zip(items[::2], items[1::2], strict=True)))

    def persist(self, id: Any) -> None:
        if self.persistent is None:
            raise LostRegError("it refers to things outside itself")
        self.stack.append(self.persistent(id))


_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_MAKERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": lambda: Made(DICT), "EMPTY_SET": lambda: Made(SET),
}  # fmt: skip


def _made_of(name: str, items: list[Any]) -> Made:
    made = Made(name)
    made.add(items)
    return made


def _dict_of(items: list[Any]) -> Made:
    return _made_of(DICT, list(zip(items[::2], items[1::2], strict=True)))


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": _Machine.duplicate,
    "LIST": lambda machine, _: _push(machine, lambda items: items),
    "TUPLE": lambda machine, _: _push(machine, tuple),
    "DICT": lambda machine, _: _push(machine, _dict_of),
    "FROZENSET": lambda machine, _: _push(machine, lambda items: _made_of(SET, items)),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.add_pairs([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.add_pairs(machine.since_mark()),
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_by_stack,
    "REDUCE": _Machine.make_new,
    "NEWOBJ": _Machine.make_new,
    "NEWOBJ_EX": _Machine.make_with_keywords,
    "INST": _Machine.make_named,
    "OBJ": _Machine.make_marked,
    "BUILD": _Machine.set_state,
    "PERSID": _Machine.persist,
    "BINPERSID": lambda machine, _: machine.persist(machine.stack.pop()),
}


def _push(machine: _Machine, make: Callable[[list[Any]], Any]) -> None:
    """Push what is made of the values since the last mark."""
    items = machine.since_mark()
    machine.stack.append(make(items))
