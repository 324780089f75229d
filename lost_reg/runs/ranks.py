"""Several processes on one run, as torchrun starts them: each takes a share, the first joins the results.

torch.distributed alone (gloo, so that it is the same with and without GPUs) says who is who and waits for the
others; results pass through files (see `results.py`), so that what a process did outlives it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

from lost_reg.errors import LostRegError

T = TypeVar("T")

# Ranks wait for the slowest, however long it takes; torchrun ends them if one dies.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    rank: its number, from 0; count: how many there are; local: its number on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that keeps the run folder."""
        return self.rank == 0

    def share(self, things: Iterable[T]) -> Iterator[T]:
        """Every count-th thing from the rank-th on: the ranks' shares are all of them, each once."""
        return islice(things, self.rank, None, self.count)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            from torch import distributed

            with _lost_ranks():
                distributed.barrier()

    def total(self, *numbers: int) -> tuple[int, ...]:
        """The sums of numbers over all ranks."""
        if self.count == 1:
            return numbers
        import torch
        from torch import distributed

        sums = torch.tensor(numbers, dtype=torch.int64)
        with _lost_ranks():
            distributed.all_reduce(sums)
        return tuple(sums.tolist())

    def device(self, asked: str) -> str:
        """The device that a rank takes for "auto" or "cuda": on a machine with several GPUs, one each."""
        if self.count == 1 or asked not in ("auto", "cuda"):
            return asked
        import torch

        return f"cuda:{self.local % torch.cuda.device_count()}" if torch.cuda.is_available() else asked


@contextmanager
def _lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # what torch says of a rank that is gone
        raise LostRegError("another rank has stopped: what it said tells why, and --resume goes on") from None


ALONE = Ranks()


def ranks_of_environment() -> Ranks:
    """What torchrun says in the environment, or one rank alone.

    Raises:
        LostRegError: variables that make no sense.
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
        raise LostRegError(f"the environment names no rank ({found}): start with torchrun, or unset them")
    return Ranks(rank, count, local)


@contextmanager
def joined(ranks: Ranks) -> Iterator[Ranks]:
    """Have the ranks know of each other.

    Raises:
        LostRegError: they cannot reach each other.
    """
    if ranks.count == 1:
        yield ranks
        return
    from torch import distributed

    try:
        distributed.init_process_group("gloo", timeout=_PATIENCE, rank=ranks.rank, world_size=ranks.count)
    except (RuntimeError, ValueError) as error:  # distributed's own errors are RuntimeErrors
        reason = str(error).splitlines()[0]
        raise LostRegError(f"rank {ranks.rank} cannot join the others: {reason}") from None
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()
