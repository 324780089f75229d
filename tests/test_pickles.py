"""Pickles, read as data: plain values, with Python's own pickle as the oracle, and the budgets."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import tracemalloc
from typing import Any

import pytest
from helpers import refusal
from hypothesis import given
from hypothesis import strategies as st

from lost_reg import pickles
from lost_reg.pickles import DICT, SET, Made, Name, UnexpectedName, kind_of, read_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers())
        | st.frozensets(st.text())
    ),
    max_leaves=10,
)


def read(content: bytes, *expected: str, persistent=None) -> Any:
    return read_pickle(io.BytesIO(content), lambda name: name in expected, persistent=persistent)


def as_python(value: Any) -> Any:
    """What was read, with Python's own dictionaries, sets and bytes."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_python, value))
    if isinstance(value, Made) and value.name == DICT:
        return {as_python(key): as_python(one) for key, one in value.items}
    if isinstance(value, Made) and value.name in (SET, "builtins.set", "__builtin__.set"):
        return set(map(as_python, value.items or (value.arguments or [()])[0]))
    if isinstance(value, Made) and value.name.endswith("frozenset"):
        return set(map(as_python, value.arguments[0]))
    if isinstance(value, Made):
        assert value.name in ("_codecs.encode", "__builtin__.bytes", "builtins.bytes")
        return value.arguments[0].encode(value.arguments[1]) if value.arguments else b""
    return value


@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_values_are_those_of_pickle(value, protocol):
    sets = [
        f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytes")
    ]
    file = io.BytesIO(pickle.dumps(value, protocol) + b"more")
    found = read_pickle(file, lambda name: name in ("_codecs.encode", *sets))
    assert as_python(found) == value
    assert file.read() == b"more"


@pytest.mark.parametrize("protocol", range(6))
def test_calls_become_names_and_arguments(protocol):
    ordered = read(pickle.dumps(collections.OrderedDict(a=1), protocol), "collections.OrderedDict")
    assert (ordered.name, ordered.items) == ("collections.OrderedDict", [("a", 1)])
    names = ("copy_reg._reconstructor", "argparse.Namespace", "__builtin__.object", "copyreg._reconstructor")
    space = read(pickle.dumps(argparse.Namespace(lr=0.1), protocol), *names)
    assert as_python(space.state) == {"lr": 0.1}
    named = read(pickle.dumps(collections.OrderedDict, protocol), "collections.OrderedDict")
    assert isinstance(named, Name) and named.name == "collections.OrderedDict"


def test_persistent_ids_are_read_only_where_they_are_expected():
    for content in (b"P5\n.", b"\x8c\x015Q."):
        assert "outside itself" in refusal(read, content)
        assert read(content, persistent=lambda id: ["found", id]) == ["found", "5"]


def test_other_names_are_refused():
    with pytest.raises(UnexpectedName, match=r"^it asks for posix\.system, which is not data"):
        read(b"cposix\nsystem\n.", "collections.OrderedDict")


def test_kinds_are_called_as_in_python():
    assert list(map(kind_of, [1, [], Made(DICT), Made(SET), Made("numpy.dtype")])) == [
        "int", "list", "dict", "set", "numpy.dtype"
    ]  # fmt: skip


def test_a_pickle_of_too_many_steps_is_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_OPCODES", 1_000)
    assert len(read(b"(" + b"N" * 997 + b"l.")) == 997
    assert refusal(read, b"(" + b"N" * 998 + b"l.") == "it is a pickle of more than 1,000 steps"


@pytest.mark.parametrize(
    "step", [b"]", b"}", b"\x8f", b"]\x94", b"}\x94", b"(", b"I1\n", b"N\x85\x94", b"N\x85\x85"]
)
def test_no_step_takes_more_memory_than_a_small_object(step, monkeypatch):
    """The most that MOST_OPCODES allow is below a gigabyte."""
    content = step * 20_000 + b"N."
    tracemalloc.start()
    read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / (20_000 * (2 if step[-1:] == b"\x94" else 1)) < 200


def test_a_long_name_that_a_pickle_repeats_is_cut_off():
    long = b"X\x40\x42\x0f\x00" + b"a" * 10**6 + b"\x940"
    content = b"\x80\x04\x8c\x05torch\x940" + long + b"h\x00h\x01\x93" * 2_000 + b"."
    tracemalloc.start()
    read_pickle(io.BytesIO(content), lambda name: True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize(
    "content",
    [
        b"", b".", b"0.", b"\x85.", b"\x86.", b"a.", b"N", b"h\x05.", b"t.", b"R.", b"NNR.", b"NNb.", b"}Nb.",
        b"NNa.", b"NNe.", b"]NNs.", b"}(Nu.", b"(Nd.", b"\x80\x06N.", b"\x93.", b"NN\x93.", b"(o.", b"\x94.",
    ],
)  # fmt: skip
def test_a_damaged_pickle_raises(content):
    with pytest.raises((ValueError, IndexError, KeyError)):
        read(content)
