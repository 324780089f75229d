"""What the search for neurons and for artifacts share: images in batches, norms of patches, moments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from lost_reg.backbones import Backbone, VitBackbone
from lost_reg.decoding import ImageInput
from lost_reg.discovery import BATCH_SIZE, batch_size_for, decoded_batches, normalized
from lost_reg.errors import LostRegError
from lost_reg.progress import Progress, no_progress
from lost_reg.records import Failure

SIGMAS = 3.0  # Jiang et al. 2025 take mean + 3 standard deviations as the cut-off of outliers


def part_of(progress: Progress, index: int, parts: int) -> Progress:
    """Progress of one of several goes through the same images, told as progress of all of them."""
    return lambda done, failed, total: progress(index * total + done, failed, parts * total)


@dataclass(frozen=True)
class ImageStream:
    """Images that can be gone through more than once, in batches as a backbone takes them.

    names: what the images are called; max_side and the others: see `discovery.discover_stream`.
    """

    images: Sequence[ImageInput]
    names: Sequence[str]
    max_side: int | None = None
    batch_size: int | str = BATCH_SIZE
    workers: int | None = None
    apply_exif: bool = True

    def batches(
        self, backbone: Backbone, failures: list[Failure], progress: Progress = no_progress
    ) -> Iterator[Tensor]:
        """(B, 3, H, W) normalised images on the backbone's device; the images of a batch are of one grid.

        Args:
            failures: takes the images that cannot be read, instead of what it holds.

        Raises:
            LostRegError: not one image can be read.
        """
        done = 0
        failures.clear()
        progress(0, 0, len(self.images))
        size = batch_size_for(backbone, self.batch_size)
        for batch in decoded_batches(
            zip(self.names, self.images), backbone.patch_size, self.max_side,
            batch_size=size, workers=self.workers, apply_exif=self.apply_exif,
        ):  # fmt: skip
            if isinstance(batch, Failure):
                failures.append(batch)
            else:
                yield normalized(batch, backbone)
                done += len(batch)
            progress(done, len(failures), len(self.images))
        if not done:
            which = f": {failures[0].image} ({failures[0].reason})" if failures else ""
            raise LostRegError(f"not one of {len(self.images):,} images could be used{which}")


@contextlib.contextmanager
def memory_errors(backbone: Backbone) -> Iterator[None]:
    """Tell of a batch that does not fit the device's memory in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise LostRegError(
            f"out of memory on {backbone.device}: make the batches smaller (--batch-size 1) or the images "
            "(--max-side)"
        ) from None


def require_vit(backbone: Backbone) -> None:
    """See that a backbone has blocks to look into.

    Raises:
        LostRegError: it is a function of the user's.
    """
    if not isinstance(backbone, VitBackbone):
        raise LostRegError(f"{backbone.name} is a function of yours: it has no blocks to look into")


def block_norms(backbone: VitBackbone, images: Tensor, blocks: int | None = None) -> Tensor:
    """The Euclidean norm of each patch token after each of the first blocks (None: all of them).

    Returns:
        (blocks, B, N) float32.

    Raises:
        LostRegError: norms that are not finite, as fp16 can give.
    """
    outputs = islice(backbone.block_outputs(images), blocks)
    norms = torch.stack([tokens.float().norm(dim=2) for tokens in outputs])
    if not norms.amax().isfinite():
        cure = "" if backbone.precision == "fp32" else ": use --precision fp32"
        raise LostRegError(f"norms of {backbone.name} are not finite in {backbone.precision}{cure}")
    return norms


class Moments:
    """Mean and standard deviation of ever more values, for several series side by side.

    Sums are of doubles and about the first values' mean, so that neither many values nor a large mean cost
    digits.
    """

    def __init__(self):
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Take (S, n) values: n more of each of S series."""
        values = values.double().cpu()
        if not self.count:
            self._origin = values.mean(dim=1)
            self._sum = torch.zeros_like(self._origin)
            self._squares = torch.zeros_like(self._origin)
        centred = values - self._origin[:, None]
        self.count += values.shape[1]
        self._sum += centred.sum(dim=1)
        self._squares += centred.square().sum(dim=1)

    @property
    def mean(self) -> Tensor:
        """(S,) float64."""
        return self._origin + self._sum / self.count

    @property
    def deviation(self) -> Tensor:
        """(S,) float64, divided by n."""
        return (self._squares / self.count - (self._sum / self.count).square()).clamp(min=0).sqrt()

    @property
    def cutoff(self) -> Tensor:
        """(S,) float64: mean + 3 standard deviations. An outlier is above."""
        return self.mean + SIGMAS * self.deviation
