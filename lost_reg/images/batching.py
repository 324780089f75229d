"""Collects a stream of images of any size into batches that share one token grid.

Images of different grids cannot share a batch: padding one of them further would change its attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Of pixels that may wait for more images of their grid: about 400 photos of 500 x 375.
WAITING_BYTES = 2**28


@dataclass(frozen=True)
class DecodedImage:
    """One decoded image on its way to the backbone.

    pixels: (H, W, 3) uint8, padded bottom and right to multiples of the patch size.
    size_hw: its size before padding; original_hw: its size before any downscaling.
    note: what was tolerated in its file, or None: see `Prediction`.
    """

    name: str
    pixels: np.ndarray
    size_hw: tuple[int, int]
    original_hw: tuple[int, int]
    note: str | None = None


class BatchSize:
    """How many images of one size go through the backbone together.

    images: the most in a batch, or None for as many as `pixels` allows.
    pixels: the most in a batch; a single image is always allowed.
    lowered: how often a batch did not fit in memory; later batches are smaller.
    """

    def __init__(self, images: int | None, pixels: float = math.inf):
        self.images, self.pixels, self.lowered = images, pixels, 0

    def of(self, size_hw: tuple[int, int]) -> int:
        """The number for images of this (padded) size in pixels."""
        return max(1, int(min(self.pixels / math.prod(size_hw), self.images or math.inf)))

    def lower(self, images: int, size_hw: tuple[int, int]) -> None:
        """After a batch of this many images of a size did not fit: from now on at most half as many."""
        self.pixels = images // 2 * math.prod(size_hw)
        self.lowered += 1


class GridBatcher:
    """Groups images by their padded size, with bounded memory.

    A batch is yielded once it is full. When more than `waiting_bytes` of pixels wait, the group that has
    waited longest is yielded incomplete, so that rare sizes do not fill the memory.
    """

    def __init__(self, batch_size: BatchSize, waiting_bytes: int = WAITING_BYTES):
        self._batch_size = batch_size
        self._waiting_bytes = waiting_bytes
        self._waiting: dict[tuple[int, ...], list[DecodedImage]] = {}  # in the order in which groups began
        self._bytes = 0

    def add(self, image: DecodedImage) -> Iterator[list[DecodedImage]]:
        """Add one image; yield the batches that it completes."""
        shape = image.pixels.shape
        self._waiting.setdefault(shape, []).append(image)
        self._bytes += image.pixels.nbytes
        if len(self._waiting[shape]) >= self._batch_size.of(shape[:2]):
            yield self._pop(shape)
        while self._bytes > self._waiting_bytes:
            yield self._pop(next(iter(self._waiting)))

    def flush(self) -> Iterator[list[DecodedImage]]:
        """Yield the images that still wait, at the end of the stream."""
        while self._waiting:
            yield self._pop(next(iter(self._waiting)))

    def _pop(self, shape: tuple[int, ...]) -> list[DecodedImage]:
        batch = self._waiting.pop(shape)
        self._bytes -= sum(image.pixels.nbytes for image in batch)
        return batch
