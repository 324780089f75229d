"""The files of a checkpoint: alone, in a folder as Hugging Face transformers writes it, or in shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.files import read_regular
from lost_reg.json_files import MALFORMED, parse_json
from lost_reg.text import shown_names

# In this order, as transformers looks for them.
CHECKPOINTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX_SUFFIX = ".index.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".onnx")
CONFIG = "config.json"
_MOST_OF_JSON = 2**24  # bytes
_MOST_OF_WEIGHTS = 2**36  # bytes of a file: over twice the largest ViT's, of 7 billion weights in float32


def checkpoint_in(folder: Path) -> Path:
    """The file of a folder that holds its weights, or the index of their shards.

    Raises:
        LostRegError: there is none, or several that could be meant.
    """
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            return folder / name
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise LostRegError(f"cannot read the folder {str(folder)!r}: {error.strerror}") from None
    found = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    if len(found) == 1:
        return found[0]
    names = shown_names(path.name for path in found)
    raise LostRegError(
        f"the folder {str(folder)!r} holds several weight files ({names}): name one of them"
        if found
        else f"the folder {str(folder)!r} holds no weights: expected {shown_names(CHECKPOINTS, most=4)}"
    )


def shards(index: Path) -> dict[str, Path]:
    """The files that an index names, by the tensor that each holds; all are in the index's folder.

    Raises:
        LostRegError: a malformed index, or one that names files elsewhere.
    """
    try:
        names = _json_object(index)["weight_map"]
        files = {str(tensor): index.parent / name for tensor, name in names.items()}
    except (*MALFORMED, KeyError, TypeError, AttributeError, OSError):
        raise LostRegError(
            f"{str(index)!r} is not an index of shards: expected a map of weights to files"
        ) from None
    for file in files.values():
        if file.parent != index.parent or file.name in ("", ".."):
            raise LostRegError(f"{str(index)!r} names a file outside its folder: {str(file)[:200]!r}")
        if file.name.endswith(INDEX_SUFFIX):  # which could name this one
            raise LostRegError(f"{str(index)!r} names another index: {file.name[:200]!r}")
    return files


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, or the shards in the order of its index, each once.

    Raises:
        LostRegError: a malformed index, or a shard that is not there.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    files = list(dict.fromkeys(shards(path).values()))
    for file in files:
        if not file.is_file():
            raise LostRegError(f"{str(path)!r} names {file.name!r}, which is not there: download it again")
    return files


def checkpoint_digest(path: Path) -> str:
    """SHA-256 of a checkpoint's file, or of its shards one after another in the order of the index.

    Raises:
        LostRegError: a file that cannot be read, or is far larger than any weights.
    """
    hasher = hashlib.sha256()
    for file in files_of(path):
        try:
            if (size := file.stat().st_size) > _MOST_OF_WEIGHTS:
                raise LostRegError(f"{str(file)!r} has {size / 2**30:,.0f} GiB, which is no weight file")
            with file.open("rb") as content:
                while block := content.read(2**20):
                    hasher.update(block)
        except OSError as error:
            raise LostRegError(f"cannot read the weight file {str(file)!r}: {error.strerror}") from None
    return hasher.hexdigest()


def config_of(path: Path) -> dict | None:
    """The config.json beside a checkpoint, or None.

    Raises:
        LostRegError: it is not JSON.
    """
    config = path.parent / CONFIG
    try:
        return _json_object(config) if config.is_file() else None
    except (*MALFORMED, OSError):
        raise LostRegError(f"cannot read {str(config)!r}: it is not a JSON object") from None


def _json_object(path: Path) -> dict:
    """Raises what `parse_json` does, and ValueError for a file that is too long."""
    if path.stat().st_size > _MOST_OF_JSON:
        raise ValueError(f"over {_MOST_OF_JSON:,} bytes")
    return parse_json(read_regular(path), dict)
