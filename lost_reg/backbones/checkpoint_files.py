"""Reading checkpoints into named tensors, without executing anything in them.

A format is one function from a path to a mapping of names to tensors. Nested dictionaries become one: their
keys are joined by dots, as in `teacher.backbone.cls_token`.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lost_reg.backbones.onnx_files import read_onnx
from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by name, before any renaming; those of safetensors are read on demand.

    Raises:
        LostRegError: a file that is damaged, or does not hold named tensors.
    """
    try:
        tensors = _reader(path)(path)
    except (pickle.UnpicklingError, KeyError):  # torch's own message says how to execute it anyway
        raise LostRegError(
            f"cannot read weights from {str(path)!r}: no weight file, or one that holds more than tensors "
            "and plain values (nothing in it was executed)"
        ) from None
    except LostRegError:
        raise
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise LostRegError(
            f"cannot read weights from {str(path)!r}: damaged, or not a weight file ({first_sentence(error)})"
        ) from None
    if not tensors:
        raise LostRegError(f"{str(path)!r} holds no weights: expected a dictionary of named tensors")
    return tensors


def _reader(path: Path) -> Callable[[Path], Mapping[str, Tensor]]:
    """The function that reads this format."""
    return _READERS.get(path.suffix.lower(), _read_pickle)


class _Safetensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for."""

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, framework="pt") as file:
            self.names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # besides tensors, DINO's training checkpoints contain their command-line arguments
    with torch.serialization.safe_globals([argparse.Namespace]):
        return _flat(torch.load(path, map_location="cpu", weights_only=True))


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
    ".onnx": read_onnx,
    ".safetensors": _Safetensors,
}
