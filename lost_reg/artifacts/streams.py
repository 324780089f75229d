"""Images that are streamed through a backbone in batches, repeatedly if needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import FeatureConfig
from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.images.decoding import ImageInput
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import batch_size_for, decoded_batches, results_of
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

    @property
    def places(self) -> dict[str, int]:
        """The place of each image among all, by name."""
        return {name: place for place, name in enumerate(self.names)}

    @property
    def digest(self) -> str:
        """SHA-256 of the images' paths and of how they are read; not of their content."""
        loader = self.loader
        read = repr((self.max_side, loader.apply_exif, loader.background, loader.max_patches))
        paths = [os.path.abspath(one) if isinstance(one, (str, Path)) else "" for one in self.images]
        text = "\0".join([read, *paths, *self.names])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def part(self, places: Iterable[int]) -> ImageStream:
        """The images at these places."""
        places = list(places)
        images, names = [self.images[place] for place in places], [self.names[place] for place in places]
        return replace(self, images=images, names=names)

    def without(self, failures: Iterable[Failure]) -> ImageStream:
        """The images that are not among these failures."""
        failed = {failure.image for failure in failures}
        return self.part(place for place, name in enumerate(self.names) if name not in failed)

    def map_batches(
        self,
        backbone: Backbone,
        function: Callable[[Tensor], T],
        failures: list[Failure],
        progress: Progress = no_progress,
        *,
        allow_empty: bool = False,
    ) -> Iterator[T]:
        """Apply a function to each batch of normalised images, (B, 3, H, W) on the backbone's device.

        See `map_decoded` for all else.
        """
        return self.map_decoded(
            backbone,
            lambda part: function(normalized(part, backbone)),
            failures,
            progress,
            allow_empty=allow_empty,
        )

    def map_decoded(
        self,
        backbone: Backbone,
        function: Callable[[list[DecodedImage]], T],
        failures: list[Failure],
        progress: Progress = no_progress,
        *,
        allow_empty: bool = False,
    ) -> Iterator[T]:
        """Apply a function to each batch; a batch that runs out of memory is retried in smaller parts.

        Args:
            function: takes decoded images, all of one grid of the backbone's patches. It may be called again
                on part of a batch, so it must not change any state.
            failures: emptied, then filled with the images that cannot be read or do not fit in memory.
            allow_empty: do not raise if none of the images can be used.

        Raises:
            LostRegError: none of the images can be used.
        """
        done = 0
        failures.clear()
        progress(0, 0, len(self.images))
        size = batch_size_for(backbone, self.loader.batch_size)
        named, scale = zip(self.names, self.images), FeatureConfig(max_side=self.max_side)
        batches = decoded_batches(named, backbone.patch_size, scale, self.loader, size, self.crop)
        for result in results_of(batches, size, backbone.device, function):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                yield result[1]
                done += len(result[0])
            progress(done, len(failures), len(self.images))
        if not done and not allow_empty:
            raise no_usable_image(len(self.images), failures)


def no_usable_image(images: int, failures: Sequence[Failure]) -> LostRegError:
    """The error for a command that cannot use any of its images."""
    example = f": {failures[0].image} ({failures[0].reason})" if failures else ""
    which = "the only image could not" if images == 1 else f"none of the {counted(images, 'image')} could"
    return LostRegError(f"{which} be used{example}")


def progress_of_pass(progress: Progress, index: int, passes: int) -> Progress:
    """Progress of one of several passes over the same images, reported as progress of all passes."""
    return lambda done, failed, total: progress(index * total + done, failed, passes * total)


def check_blocks(backbone: Backbone) -> None:
    """Check that a backbone has blocks, before any image is decoded.

    Raises:
        LostRegError: it is a user's own function.
    """
    backbone.block_outputs(torch.empty(0))  # raises at once, or returns a generator that is never started
