"""What the search for neurons and for artifacts share: images in batches, norms of patches, moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.preprocessing import normalized
from lost_reg.backbones.vit import VitBackbone
from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import batch_size_for, decoded_batches
from lost_reg.runs.memory import in_parts, too_large
from lost_reg.runs.options import BATCH_SIZE
from lost_reg.types import Failure

T = TypeVar("T")
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

    def measured(
        self,
        backbone: Backbone,
        measure: Callable[[Tensor], T],
        failures: list[Failure],
        progress: Progress = no_progress,
        *,
        may_be_none: bool = False,
    ) -> Iterator[T]:
        """What `measure` gives for each batch, in smaller batches where the memory does not suffice.

        Args:
            measure: takes (B, 3, H, W) normalised images on the backbone's device, of one grid. It is called
                anew on fewer of them after it ran out of memory, so it must leave nothing half done.
            failures: takes the images that cannot be read or do not fit the memory, instead of what it holds.
            may_be_none: whether it is no error if not one image can be used.

        Raises:
            LostRegError: not one image can be used.
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
                progress(done, len(failures), len(self.images))
                continue
            for part, found in in_parts(batch, size, lambda part: measure(normalized(part, backbone))):
                if found is None:
                    failures.append(too_large(part[0], backbone.device))
                else:
                    yield found
                    done += len(part)
                progress(done, len(failures), len(self.images))
        if not done and not may_be_none:
            raise none_usable(len(self.images), failures)


def none_usable(images: int, failures: Sequence[Failure]) -> LostRegError:
    """The error of a command that could use none of its images."""
    which = f": {failures[0].image} ({failures[0].reason})" if failures else ""
    return LostRegError(f"not one of {images:,} images could be used{which}")


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
