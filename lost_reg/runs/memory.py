"""Batches that do not fit the memory, in smaller parts: halved, down to single images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.types import Failure

T = TypeVar("T")


def in_parts(
    batch: list[DecodedImage], batch_size: BatchSize, work: Callable[[list[DecodedImage]], T]
) -> Iterator[tuple[list[DecodedImage], T | None]]:
    """Do work on a batch of images of one padded size, in smaller parts where it does not fit the memory.

    Args:
        batch_size: lowered by each part that did not fit, so that later batches are smaller, too.
        work: called again on smaller parts after it ran out of memory, so it must leave nothing half done.

    Yields:
        Each part and what `work` gave for it: None for a part of one image that does not fit alone.
    """
    padded_hw = batch[0].pixels.shape[:2]
    while batch:
        part = batch[: batch_size.of(padded_hw)]
        done = _none_if_out_of_memory(work, part)
        if done is None and len(part) > 1:
            batch_size.lower(len(part), padded_hw)
            continue
        yield part, done
        batch = batch[len(part) :]


def too_large(image: DecodedImage, device: torch.device) -> Failure:
    """The record of an image that does not even fit the memory alone."""
    height, width = image.size_hw
    reason = f"out of memory on {device} at {width} x {height} pixels: scale it down with `max_side`"
    return Failure(image.name, reason)


def _none_if_out_of_memory(work: Callable[[list[DecodedImage]], T], part: list[DecodedImage]) -> T | None:
    """The result, or None; what the attempt held is free again then."""
    try:
        return work(part)
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        # how torch reports that the host, or one of CUDA's libraries, is out of memory
        if "can't allocate memory" in str(error) or "ALLOC_FAILED" in str(error):
            return None
        raise
