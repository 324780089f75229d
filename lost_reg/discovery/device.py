"""Copying results from the device to the host without blocking the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start copying tensors to the host; the returned function waits for the copies and returns them.

    On a GPU the copies go through pinned memory, and the host continues meanwhile.
    """
    if not tensors or not tensors[0].is_cuda:
        return lambda: list(tensors)
    hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(hosts, tensors):
        host.copy_(tensor, non_blocking=True)
    ready = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # frees its core for decoders
    ready.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> list[Tensor]:
        ready.synchronize()
        return hosts

    return wait
