"""Results on their way from the device to the host, without making the host wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lost_reg.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start copying tensors to the host; calling what is returned waits for the copies and gives them.

    On a GPU the copies go through pinned memory, and the host goes on meanwhile.
    """
    if not tensors or not tensors[0].is_cuda:
        return lambda: list(tensors)
    hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(hosts, tensors):
        host.copy_(tensor, non_blocking=True)
    ready = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # leaves its core to decoders
    ready.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> list[Tensor]:
        ready.synchronize()
        return hosts

    return wait
