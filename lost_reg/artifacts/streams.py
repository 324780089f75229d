"""Images that are streamed through a backbone in batches, repeatedly if needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import FeatureConfig
from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import batch_size_for, decoded_batches, in_parts, too_large
from lost_reg.runs.options import LoaderOptions
from lost_reg.text import counted
from lost_reg.types import Failure

T = TypeVar("T")


@dataclass(frozen=True)
class ImageStream:
    """Images that can be streamed several times, in batches for a backbone.

    names: the images' names. max_side: see `FeatureConfig`. crop: see `Decoding`.
    """

    images: Sequence[ImageInput]
    names: Sequence[str]
    max_side: int | None = None
    loader: LoaderOptions = field(default_factory=LoaderOptions)
    crop: tuple[int, int] | None = None

    def map_batches(
        self,
        backbone: Backbone,
        function: Callable[[Tensor], T],
        failures: list[Failure],
        progress: Progress = no_progress,
        *,
        allow_empty: bool = False,
    ) -> Iterator[T]:
        """As `map_named_batches`, without the names."""
        named = self.map_named_batches(backbone, function, failures, progress, allow_empty=allow_empty)
        return (result for _, result in named)

    def map_named_batches(
        self,
        backbone: Backbone,
        function: Callable[[Tensor], T],
        failures: list[Failure],
        progress: Progress = no_progress,
        *,
        allow_empty: bool = False,
    ) -> Iterator[tuple[list[str], T]]:
        """Apply a function to each batch; a batch that runs out of memory is retried in smaller parts.

        Args:
            function: takes (B, 3, H, W) normalised images on the backbone's device, all of one grid. It may
                be called again on part of a batch, so it must not change any state.
            failures: emptied, then filled with the images that cannot be read or do not fit in memory.
            allow_empty: do not raise if none of the images can be used.

        Yields:
            The names of the images of a batch, and the result.

        Raises:
            LostRegError: none of the images can be used.
        """
        done = 0
        failures.clear()
        progress(0, 0, len(self.images))
        size = batch_size_for(backbone, self.loader.batch_size)
        named, scale = zip(self.names, self.images), FeatureConfig(max_side=self.max_side)
        for batch in decoded_batches(named, backbone.patch_size, scale, self.loader, size, self.crop):
            if isinstance(batch, Failure):
                failures.append(batch)
                progress(done, len(failures), len(self.images))
                continue
            for part, result in in_parts(batch, size, lambda part: function(normalized(part, backbone))):
                if result is None:
                    failures.append(too_large(part[0], backbone.device))
                else:
                    yield [image.name for image in part], result
                    done += len(part)
                progress(done, len(failures), len(self.images))
        if not done and not allow_empty:
            raise no_usable_image(len(self.images), failures)


def no_usable_image(images: int, failures: Sequence[Failure]) -> LostRegError:
    """The error for a command that cannot use any of its images."""
    example = f": {failures[0].image} ({failures[0].reason})" if failures else ""
    return LostRegError(f"not one of {counted(images, 'image')} could be used{example}")


def progress_of_pass(progress: Progress, index: int, passes: int) -> Progress:
    """Progress of one of several passes over the same images, reported as progress of all passes."""
    return lambda done, failed, total: progress(index * total + done, failed, passes * total)


def check_blocks(backbone: Backbone) -> None:
    """Check that a backbone has blocks, before any image is decoded.

    Raises:
        LostRegError: it is a user's own function.
    """
    backbone.block_outputs(torch.empty(0))  # raises at once, or returns a generator that is never started
