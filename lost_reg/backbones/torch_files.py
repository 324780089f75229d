"""Files of torch.save, old and new, read without torch.load: nothing in them is called or inflated.

Both formats are a pickle that refers to storages, which are plain numbers. In the format since torch 1.6, a
zip archive, each storage is a record; in the older one, storages follow the pickle (torch/serialization.py,
`_save` and `_legacy_save`). The pickle is read as data. Each tensor is then a view of the file, mapped into
memory: a tensor that nobody asks for, such as an optimizer's, is not read.

What bounds what:
    the pickle: see `lost_reg.pickles`.
    names: the walk through nested dictionaries makes at most `_MOST_CHARACTERS`, however often one is shared.
    storages: each has as many bytes in the file as the pickle says; records of a zip archive that are
        compressed are refused.
    tensors: those that share values can be larger than the file, but together at most `_MOST_TIMES`.
"""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from lost_reg.errors import LostRegError
from lost_reg.pickles import DICT, Made, Name, read_pickle

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how the files start
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_MOST_CHARACTERS = 50_000_000
_MOST_TIMES = 8
_MOST_OF_DIRECTORY = 2**24  # bytes of a zip archive's list of records; that of 1,000 tensors has 2 ** 17
_MOST_DIMENSIONS = _MOST_ARGUMENTS = 8
_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.qint8, "QUInt8Storage": torch.quint8, "QInt32Storage": torch.qint32,
}  # fmt: skip
# What files of torch.save refer to: tensors, and what training checkpoints contain besides them.
_EXPECTED = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout|"
    r"torch\.nn\.parameter\.(?:Parameter|Buffer)|torch\.(?:\w*Tensor|Size|device)|"
    r"torch\.(?:cuda\.|storage\.)?\w*Storage|"
    r"torch\.(?:b?float|double|half|u?int|long|short|bool|c?complex|qu?int|bits|per_)\w*|"
    r"collections\.(?:OrderedDict|Counter)|argparse\.Namespace|_codecs\.encode|"
    r"(?:builtins|__builtin__)\.(?:set|frozenset|bytearray|complex)"
)
_REBUILD = "torch._utils._rebuild_"
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_PARAMETERS = (f"{_REBUILD}parameter", f"{_REBUILD}parameter_with_state")
# What makes a tensor of a storage, offset, shape and strides; and the number of the argument with its dtype.
_PLAIN = {f"{_REBUILD}tensor": None, f"{_REBUILD}tensor_v2": None, f"{_REBUILD}tensor_v3": 6}


def torch_tensors(path: Path) -> dict[str, Callable[[str], Tensor]]:
    """What reads each tensor of a file of torch.save, by its name; keys of nested dictionaries get dots.

    The functions can raise the same: LostRegError for a tensor without plain values, such as a sparse one.

    Raises:
        UnexpectedName: the file holds more than tensors and plain values.
        LostRegError: it is a program, or its storages or tensors do not have the sizes that it says.
        Exception: a damaged file can raise nearly anything.
    """
    stored = _Stored(path)
    tensors = _by_name(_saved(stored))
    size = sum(map(_bytes_of, tensors.values()))
    if size > _MOST_TIMES * path.stat().st_size:
        raise LostRegError(f"its tensors take {size:,} bytes, over {_MOST_TIMES} times those of the file")
    return {name: partial(stored.tensor, tensor) for name, tensor in tensors.items()}


def torch_numbers(path: Path) -> dict[str, int]:
    """The whole numbers beside the tensors in a file of torch.save, such as a step of training, by name.

    Raises: see `torch_tensors`.
    """
    pairs = _pairs(_saved(_Stored(path)))
    return {key: value for key, value in pairs if isinstance(key, str) and type(value) is int}


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage that a pickle refers to. `part`: where a view of it starts and its length, in elements."""

    key: str
    dtype: torch.dtype
    length: int
    part: tuple[int, int] | None = None


class _Stored:
    """A file, and where in it the storages are: first byte and size by their keys."""

    def __init__(self, path: Path):
        self.path = path
        self.storages: dict[str, _Storage] = {}
        self.places: dict[str, tuple[int, int]] = {}

    def refer(self, id: Any) -> _Storage:
        """The storage of a persistent id: ("storage", class, key, device, length[, view])."""
        if not isinstance(id, tuple) or len(id) > 6:
            raise ValueError("a reference to something that is no storage")
        match id:
            case ("storage", Name(name=name), str(key), _, int(length), *view) if length >= 0:
                storage = _Storage(key, _DTYPES[name.rpartition(".")[2]], length)
            case _:
                raise ValueError("a reference to something that is no storage")
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("two kinds of one storage")
        match view:
            case [(_, int(start), int(part))] if start >= 0 and part >= 0:
                return _Storage(key, storage.dtype, length, (start, part))
        return self.storages[key]

    def place(self, key: str, start: int, size: int) -> None:
        """Note where a storage is, if it has the size that the pickle says."""
        storage = self.storages[key]
        if size != storage.length * storage.dtype.itemsize:
            raise LostRegError(
                f"its storage {key[:20]!r} has {size:,} bytes for {storage.length:,} of {storage.dtype}"
            )
        self.places[key] = start, size

    def tensor(self, made: Made, name: str) -> Tensor:
        """A tensor, as a view of the file or, where its place is not aligned, a copy."""
        parts = _parts(made)
        if parts is None:
            raise LostRegError(f"{str(self.path)!r} has no plain values for {name}: it is {_kind(made)}")
        storage, offset, shape, strides, dtype = parts
        first, length = storage.part or (0, storage.length)
        start = first * storage.dtype.itemsize
        end = min(start + length * storage.dtype.itemsize, self.places[storage.key][1])
        start, end = (self.places[storage.key][0] + position for position in (start, end))
        values = self.content[start:end]
        values = (values.clone() if start % dtype.itemsize else values).view(dtype)
        last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides))
        if 0 not in shape and last >= len(values):
            raise ValueError("values outside of its storage")
        return values.as_strided(shape, strides, values.storage_offset() + offset)

    @cached_property
    def content(self) -> Tensor:
        """The whole file, mapped into memory; what is written to it stays there."""
        size = self.path.stat().st_size
        return torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8)


# --- both formats ----------------------------------------------------------------------------------


def _saved(stored: _Stored) -> Any:
    """What was saved in a file."""
    with stored.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if not content[:4].startswith((ZIP, PICKLE)):
            raise ValueError("it is no file of torch.save")
        return _read_zip(file, content, stored) if content[:4] == ZIP else _read_old(content, stored)


def _read(file: Any, stored: _Stored | None = None) -> Any:
    """The next pickle of a file."""
    refer = stored.refer if stored else None
    return read_pickle(file, lambda name: bool(_EXPECTED.fullmatch(name)), persistent=refer)


def _read_old(content: mmap.mmap, stored: _Stored) -> Any:
    """What was saved, from the format before torch 1.6: five pickles, and the storages."""
    if _read(content) != _MAGIC or _read(content) != _PROTOCOL:
        raise LostRegError("it is a pickle, but not one of torch.save")
    if ("little_endian", True) not in _read(content).items:
        raise LostRegError("it was saved on a big-endian machine")
    saved = _read(content, stored)
    for key in _read(content):
        (length,) = struct.unpack("<q", content.read(8))
        size = length * stored.storages[key].dtype.itemsize
        stored.place(key, content.tell(), size)
        content.seek(size, io.SEEK_CUR)  # raises beyond the end
    return saved


def _read_zip(file: BinaryIO, content: mmap.mmap, stored: _Stored) -> Any:
    """What was saved, from a zip archive."""
    if _directory_size(content[-98:]) > _MOST_OF_DIRECTORY:
        raise LostRegError(f"its list of records is longer than {_MOST_OF_DIRECTORY:,} bytes")
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in records):
        raise LostRegError("it is a TorchScript program, which is not executed: save its state_dict()")
    (pickled,) = (name for name in records if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    if order := records.get(f"{folder}byteorder"):
        start, _ = _place_of(order, content)
        if content[start : start + 6] != b"little":
            raise LostRegError("it was saved on a big-endian machine")
    start, size = _place_of(records[pickled], content)
    saved = _read(io.BytesIO(content[start : start + size]), stored)
    for key in stored.storages:
        stored.place(key, *_place_of(records[f"{folder}data/{key}"], content))
    return saved


def _directory_size(end: bytes) -> int:
    """How long a zip archive's list of records is, from its last bytes; torch writes no comment there."""
    if end[-22:-18] != b"PK\x05\x06":
        raise ValueError("a zip archive without an end")
    if end[-42:-38] == b"PK\x06\x07" and end[-98:-94] == b"PK\x06\x06":
        return struct.unpack("<Q", end[-58:-50])[0]
    return struct.unpack("<I", end[-10:-6])[0]


def _place_of(record: zipfile.ZipInfo, content: mmap.mmap) -> tuple[int, int]:
    """The first byte and the size of a record's content."""
    if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
        raise LostRegError(
            f"its record {record.filename[:50]!r} is compressed, which torch.save never does: save it again"
        )
    lengths = struct.unpack("<26xHH", content[record.header_offset : record.header_offset + 30])
    start = record.header_offset + 30 + sum(lengths)
    if start + record.file_size > len(content):
        raise ValueError("a record that ends beyond the file")
    return start, record.file_size


# --- tensors ---------------------------------------------------------------------------------------


def _by_name(saved: Any) -> dict[str, Made]:
    """The tensors of nested dictionaries, their keys joined by dots; all else is left out."""
    tensors: dict[str, Made] = {}
    waiting, characters = [("", saved)], 0
    while waiting:
        name, value = waiting.pop()
        if name and value.name.startswith((_REBUILD, _WITH_ATTRIBUTES)):
            tensors[name] = value
        for key, inner in reversed(_pairs(value)):
            characters += len(name) + len(key if isinstance(key, str) else "") + 50
            if characters > _MOST_CHARACTERS:
                raise LostRegError("it has too many nested names for a checkpoint")
            if isinstance(key, (str, int)) and isinstance(inner, Made):
                waiting.append((f"{name}.{key}" if name else str(key), inner))
    return tensors


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """The keys and values of a dictionary; none for anything else."""
    if not isinstance(value, Made) or value.name not in (DICT, "collections.OrderedDict"):
        return []
    if value.arguments and isinstance(value.arguments[0], list):  # by Python 2
        return [(one[0], one[1]) for one in value.arguments[0] if isinstance(one, list) and len(one) == 2]
    return list(value.items)


class _Parts(NamedTuple):
    """What a tensor is made of; offset and strides are in elements of its dtype."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def _parts(made: Made) -> _Parts | None:
    """What a tensor is made of; None for a kind without plain values."""
    made = _unwrapped(made)
    if made.name not in _PLAIN:
        return None
    if len(made.arguments) > _MOST_ARGUMENTS:
        raise ValueError("a tensor of too many arguments")
    storage, offset, shape, strides = made.arguments[:4]
    where = _PLAIN[made.name]
    dtype = getattr(torch, made.arguments[where].name.removeprefix("torch.")) if where else storage.dtype
    if any(made.arguments[where + 1 if where else 6 :]):
        return None  # it is conjugated or negated
    if not (isinstance(storage, _Storage) and isinstance(dtype, torch.dtype)):
        raise ValueError("a tensor of no storage")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor of too many dimensions")
    if not all(isinstance(one, int) and 0 <= one < 2**63 for one in (offset, *shape, *strides)):
        raise ValueError("a tensor of an impossible shape")
    return _Parts(storage, offset, shape, strides, dtype)


def _unwrapped(made: Made) -> Made:
    """A tensor without what is wrapped around it: attributes, and then a parameter."""
    if made.name == _WITH_ATTRIBUTES:
        function, _, arguments, _ = made.arguments
        made = Made(function.name, arguments)
    return made.arguments[0] if made.name in _PARAMETERS else made


def _bytes_of(tensor: Made) -> int:
    """How many bytes the values of a tensor take; 0 for a kind that is not read."""
    parts = _parts(tensor)
    return math.prod(parts.shape) * parts.dtype.itemsize if parts else 0


def _kind(made: Made) -> str:
    """What a tensor without plain values is called."""
    name = _unwrapped(made).name.removeprefix(_REBUILD)
    for start, kind in {"sparse": "sparse", "meta": "meta", "qtensor": "quantised"}.items():
        if name.startswith(start):
            return f"a {kind} tensor"
    return "a tensor of another kind"
