"""Reading checkpoints into named tensors, without executing anything in them.

A format is one function from a path to a mapping of names to tensors. Nested dictionaries become one: their
keys are joined by dots, as in `teacher.backbone.cls_token`.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lost_reg.backbones.checkpoint_folders import INDEX_SUFFIX, files_of, shards
from lost_reg.backbones.onnx_files import read_onnx
from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_NO_WEIGHTS = [  # how files start that are often taken for weights, and what they are
    (rb"version https://git-lfs", "it is a Git LFS pointer: `git lfs pull` gets the file itself"),
    (rb"\s*<(!doctype|html|\?xml)", "it is a web page, as a failed download leaves: download it again"),
    (rb"\x89HDF", "it is an HDF5 file, of TensorFlow: lost-reg reads those of PyTorch"),
    (rb"$", "it is empty"),
]


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name, before any renaming; those of safetensors are read on demand.

    Args:
        path: a file, or the index of shards.

    Raises:
        LostRegError: a file that is damaged, or does not hold named tensors; says what it is, if known.
    """
    try:
        tensors = _reader(path)(path)
    except LostRegError:
        raise
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise LostRegError(f"cannot read weights from {str(path)!r}: {_reason(path, error)}") from None
    if not tensors:
        raise LostRegError(f"{str(path)!r} holds no weights: expected a dictionary of named tensors")
    return tensors


def _reader(path: Path) -> Callable[[Path], Mapping[str, Tensor]]:
    """The function that reads this format: by the suffix where it has one, else by how the file starts."""
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    return _read_safetensors if _start(path)[8:9] == b"{" else _read_pickle


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read: what it is, or else what its reader says."""
    start = _start(path) if path.is_file() else b"?"
    for pattern, what in _NO_WEIGHTS:
        if re.match(pattern, start, re.IGNORECASE):
            return what
    if isinstance(error, pickle.UnpicklingError) and start.startswith((_ZIP, _PICKLE)):
        # torch's own message says how to execute it anyway
        named = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
        return (
            f"it holds more than tensors and plain values{f' ({named[1]})' if named else ''}, as a whole "
            "pickled model does; nothing in it was executed: save the model's state_dict()"
        )
    if _reader(path) is _read_pickle and not start.startswith((_ZIP, _PICKLE)):
        return "it is not a weight file"
    return f"damaged, or not a weight file ({first_sentence(error)})"


def _is_program(archive: Path) -> bool:
    with zipfile.ZipFile(archive) as opened:
        return any(name.endswith("/constants.pkl") for name in opened.namelist())


class _OnDemand(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for, each by the function that its name has in `readers`."""

    def __init__(self, readers: dict[str, Callable[[str], Tensor]]):
        self.readers = readers

    def __getitem__(self, name: str) -> Tensor:
        return self.readers[name](name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


def _read_safetensors(path: Path) -> _OnDemand:
    file = safe_open(path, framework="pt")
    return _OnDemand(dict.fromkeys(file.keys(), file.get_tensor))


def _read_shards(index: Path) -> _OnDemand:
    readers: dict[str, Callable[[str], Tensor]] = {}
    for shard in map(read_tensors, files_of(index)):
        readers |= dict.fromkeys(shard, shard.__getitem__)
    missing = [name for name in shards(index) if name not in readers]
    if missing:
        raise LostRegError(f"the shards of {str(index)!r} lack {missing[0]}: download them again")
    return _OnDemand(readers)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # mapped into memory, so that optimizer states are not read; torch's older format cannot be
    mapped = _start(path).startswith(_ZIP)
    if mapped and _is_program(path):
        raise LostRegError(
            f"cannot read weights from {str(path)!r}: it is a TorchScript program, which is not executed: "
            "save its state_dict()"
        )
    # besides tensors, DINO's training checkpoints contain their command-line arguments
    with torch.serialization.safe_globals([argparse.Namespace]):
        return _flat(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))


def _flat(content: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries, their keys joined by dots; all else is left out."""
    if isinstance(content, Tensor) and name:
        return {name: content}
    if not isinstance(content, dict):
        return {}
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        tensors |= _flat(value, f"{name}.{key}" if name else str(key))
    return tensors


_READERS: dict[str, Callable[[Path], Mapping[str, Tensor]]] = {  # by suffix; all else is torch's
    INDEX_SUFFIX: _read_shards,
    ".onnx": read_onnx,
    ".safetensors": _read_safetensors,
}
