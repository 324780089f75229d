"""The choice of C of one kind of token on disk, so that a command that was interrupted continues it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from lost_reg.errors import LostRegError
from lost_reg.probing.logistic import Logistic, Sweep
from lost_reg.training.checkpoints import CHECKPOINT_FILE, Checkpoint, read_checkpoint, write_checkpoint

SECONDS_BETWEEN_CHECKPOINTS = 60.0


class KeptSweep:
    """What of the choice of C a folder of unfinished work keeps.

    images: (n,) int64, of whose tokens the models are; what was kept of others is not used.
    """

    def __init__(self, folder: Path, images: Tensor):
        self._folder, self._images = folder, images
        self._kept_at = time.monotonic()

    def read(self, device: torch.device) -> Sweep:
        """What is kept, on a device; a new one if there is nothing.

        Raises:
            LostRegError: a file that is damaged.
        """
        kept = read_checkpoint(self._folder)
        if kept is None:
            return Sweep()
        try:
            if not torch.equal(kept.tensors["images"], self._images):
                return Sweep()
            score, c = kept.tensors["best"].tolist()
            weights, bias = (kept.tensors[name].to(device) for name in ("weights", "bias"))
        except (KeyError, ValueError):
            path = self._folder / CHECKPOINT_FILE
            raise LostRegError(f"{path} is not of this probe: delete it to begin again") from None
        return Sweep(kept.step, score, c, Logistic(weights, bias))

    def keep(self, sweep: Sweep) -> None:
        """Keep one that has a model, unless one was kept within the last minute.

        Raises:
            LostRegError: the disk is full, or the like.
        """
        if sweep.model is None or time.monotonic() - self._kept_at < SECONDS_BETWEEN_CHECKPOINTS:
            return
        tensors = {
            "images": self._images,
            "best": torch.tensor([sweep.best, sweep.c], dtype=torch.float64),
            "weights": sweep.model.weights,
            "bias": sweep.model.bias,
        }
        write_checkpoint(self._folder, Checkpoint(sweep.tried, {}, tensors))
        self._kept_at = time.monotonic()
