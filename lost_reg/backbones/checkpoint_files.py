"""Reading checkpoints into named tensors, without executing anything in them.

A format is one function from a path to a mapping of names to tensors. Nested dictionaries become one: their
keys are joined by dots, as in `teacher.backbone.cls_token`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lost_reg.backbones.checkpoint_folders import INDEX_SUFFIX, files_of, shards
from lost_reg.backbones.onnx_files import read_onnx
from lost_reg.backbones.torch_files import PICKLE, ZIP, torch_numbers, torch_tensors
from lost_reg.errors import LostRegError
from lost_reg.pickles import UnexpectedName
from lost_reg.text import first_sentence

_LONGEST_NAME = 1_000  # of a tensor, in characters
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
        raise _refusal(path, _reason(path, error)) from None
    if not tensors:
        raise LostRegError(f"{str(path)!r} holds no weights: expected a dictionary of named tensors")
    for name in tensors:
        if len(name) > _LONGEST_NAME or not name.isprintable():  # names are shown in messages
            raise _refusal(path, f"it has a tensor with the odd name {name[:50]!r}")
    return tensors


def recorded_numbers(path: Path) -> dict[str, int]:
    """The whole numbers that a checkpoint records besides its tensors, such as a step of training, by name.

    They are at the top of a file of torch.save, or in the metadata of a safetensors file; other formats, and
    shards, have none.

    Raises:
        LostRegError: see `read_tensors`.
    """
    reader = _reader(path)
    try:
        if reader is _read_torch:
            return torch_numbers(path)
        metadata = safe_open(path, framework="pt").metadata() if reader is _read_safetensors else None
    except LostRegError as error:
        raise _refusal(path, str(error)) from None
    except Exception as error:  # as when tensors are read
        raise _refusal(path, _reason(path, error)) from None
    texts = (metadata or {}).items()
    return {name: int(text) for name, text in texts if re.fullmatch(r"[0-9]{1,15}", text)}


def _refusal(path: Path, reason: str) -> LostRegError:
    return LostRegError(f"cannot read weights from {str(path)!r}: {reason}")


def _reader(path: Path) -> Callable[[Path], Mapping[str, Tensor]]:
    """The function that reads this format: by the suffix where it has one, else by how the file starts."""
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    return _read_safetensors if _start(path)[8:9] == b"{" else _read_torch


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read: what it is, or else what its reader says."""
    start = _start(path) if path.is_file() else b"?"
    for pattern, what in _NO_WEIGHTS:
        if re.match(pattern, start, re.IGNORECASE):
            return what
    if _reader(path) is _read_torch and not start.startswith((ZIP, PICKLE)):
        return "it is not a weight file"
    return f"damaged, or not a weight file ({first_sentence(error)})"


class _OnDemand(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for, each by the function that its name has in `readers`."""

    def __init__(self, path: Path, readers: dict[str, Callable[[str], Tensor]]):
        self.path, self.readers = path, readers

    def __getitem__(self, name: str) -> Tensor:
        reader = self.readers[name]
        try:
            return reader(name)
        except LostRegError:
            raise
        except Exception as error:  # as when the file is opened
            raise _refusal(self.path, f"{name} is damaged ({first_sentence(error)})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


def _read_safetensors(path: Path) -> _OnDemand:
    file = safe_open(path, framework="pt")
    return _OnDemand(path, dict.fromkeys(file.keys(), file.get_tensor))


def _read_shards(index: Path) -> _OnDemand:
    readers: dict[str, Callable[[str], Tensor]] = {}
    for shard in map(read_tensors, files_of(index)):
        readers |= dict.fromkeys(shard, shard.__getitem__)
    missing = [name for name in shards(index) if name not in readers]
    if missing:
        raise LostRegError(f"the shards of {str(index)!r} lack {missing[0][:200]!r}: download them again")
    return _OnDemand(index, readers)


def _read_torch(path: Path) -> _OnDemand:
    try:
        return _OnDemand(path, torch_tensors(path))
    except UnexpectedName as error:  # as a whole pickled model does
        raise _refusal(path, f"{error}: save the model's state_dict()") from None
    except LostRegError as error:
        raise _refusal(path, str(error)) from None


_READERS: dict[str, Callable[[Path], Mapping[str, Tensor]]] = {  # by suffix; all else is torch's
    INDEX_SUFFIX: _read_shards,
    ".onnx": read_onnx,
    ".safetensors": _read_safetensors,
}
