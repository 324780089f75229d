"""Several processes on one training, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from lost_reg.errors import LostRegError

# Ranks wait for the slowest, however long it takes; torchrun stops them if one dies.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training.

    rank: its number, from 0; count: how many there are; local: its number on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that owns the folder of the training."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.count > 1:
            from torch import distributed

            with _lost_ranks():
                distributed.barrier()

    def device(self, asked: str) -> str:
        """The device of this rank. "auto" and "cuda" give each rank on a machine with several GPUs one."""
        if self.count == 1 or asked not in ("auto", "cuda"):
            return asked
        import torch

        return f"cuda:{self.local % torch.cuda.device_count()}" if torch.cuda.is_available() else asked


@contextmanager
def _lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # how torch reports a rank that is gone
        raise LostRegError("another rank has stopped: its messages say why, and `resume` continues") from None


ALONE = Ranks()


def ranks_of_environment() -> Ranks:
    """The rank that torchrun sets in the environment, or one rank alone.

    Raises:
        LostRegError: invalid variables.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return ALONE
    try:
        rank, count, local = (int(os.environ.get(name, 0)) for name in names)
    except ValueError:
        rank, count, local = -1, 0, 0
    if not 0 <= rank < count:
        found = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise LostRegError(
            f"the environment holds no valid rank ({found}): start with torchrun, or unset them"
        )
    return Ranks(rank, count, local)


@contextmanager
def joined(ranks: Ranks, backend: str = "gloo") -> Iterator[Ranks]:
    """Connect the ranks to each other.

    backend: torch.distributed's; "cpu:gloo,cuda:nccl" for work that exchanges tensors on GPUs.

    Raises:
        LostRegError: they cannot reach each other.
    """
    if ranks.count == 1:
        yield ranks
        return
    from torch import distributed

    try:
        distributed.init_process_group(backend, timeout=_PATIENCE, rank=ranks.rank, world_size=ranks.count)
    except (RuntimeError, ValueError) as error:  # distributed's own errors are RuntimeErrors
        reason = str(error).splitlines()[0]
        raise LostRegError(f"rank {ranks.rank} cannot join the others: {reason}") from None
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()
