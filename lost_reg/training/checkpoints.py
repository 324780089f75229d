"""The state of an unfinished training: checkpoint.safetensors in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_json, reason_of

CHECKPOINT_FILE = "checkpoint.safetensors"
OLD_CHECKPOINT = "checkpoint.pt"  # a pickle, of earlier versions
_STATE = "state"  # in the metadata of a checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """The state of an unfinished training.

    step: how many steps are done. scaler: the state of a GradScaler, which is empty but for fp16.
    tensors: of the model and of the optimizer, by name.
    """

    step: int
    scaler: dict[str, float]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class _State:
    """What of a checkpoint is not a tensor."""

    step: Annotated[int, Meta(ge=0)]
    scaler: dict[str, int | float]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the state of an unfinished training, whole or not at all."""
    state = as_json({"step": checkpoint.step, "scaler": checkpoint.scaler})
    with whole_file(folder / CHECKPOINT_FILE, "the checkpoint", durable=True) as part:
        part.write_bytes(packed(checkpoint.tensors, {_STATE: state}))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The state of an unfinished training; None if it has not got as far as writing one.

    Raises:
        LostRegError: it is damaged, or an earlier version wrote it.
    """
    path, old = folder / CHECKPOINT_FILE, folder / OLD_CHECKPOINT
    if old.exists():
        raise LostRegError(f"{old} was made by an earlier version: delete it to begin again")
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = parse_json(file.metadata()[_STATE], _State)
        return Checkpoint(state.step, dict(state.scaler), load_file(path))
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, *MALFORMED) as error:
        raise LostRegError(f"{path} is damaged ({reason_of(error)}): delete it to begin again") from None


def packed(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file."""
    return save({name: one.contiguous().cpu() for name, one in tensors.items()}, metadata)
