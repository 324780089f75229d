"""Batches of decoded images that share one token grid and fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import METHODS
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize, DecodedImage, GridBatcher
from lost_reg.images.decoding import Decoding, NamedImage, decode
from lost_reg.runs.engines import Engine, Job
from lost_reg.runs.forecast import pixels_at_once
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import AUTO, Failure

T = TypeVar("T")


def batch_size_for(backbone: Backbone, asked: int | str) -> BatchSize:
    """How many images of one size run together.

    Args:
        asked: a number of images, or "auto": as many as keep the device busy and fit in its free memory.

    Raises:
        LostRegError: a number below 1.
    """
    if asked == AUTO:
        return BatchSize(None, pixels_at_once(backbone, METHODS.values()))
    if not isinstance(asked, int) or asked < 1:
        raise LostRegError(f"expected a `batch_size` of at least 1, or {AUTO!r}, but got {asked}")
    return BatchSize(asked)


def decoded_batches(
    images: Iterable[NamedImage | Failure],
    patch_size: int,
    scale: FeatureConfig,
    loader: LoaderOptions,
    batch_size: BatchSize,
    crop: tuple[int, int] | None = None,
) -> Iterator[list[DecodedImage] | Failure]:
    """Stream images in batches of one token grid, as they become ready, with bounded memory.

    Args:
        scale: how images are scaled: its `max_side` and `square`. crop: see `Decoding`.

    Yields:
        Batches, and a Failure for each image that cannot be read.
    """
    decoding = decoding_of(patch_size, scale, loader, crop)
    yield from grouped(decode(images, decoding, workers=loader.workers), batch_size)


def decoding_of(
    patch_size: int, scale: FeatureConfig, loader: LoaderOptions, crop: tuple[int, int] | None = None
) -> Decoding:
    """How images are prepared for patches of this size, in pixels: see `decoded_batches`."""
    return Decoding(
        apply_exif=loader.apply_exif,
        max_side=scale.max_side,
        patch_size=patch_size,
        square=scale.square,
        background=loader.background,
        max_patches=loader.max_patches,
        crop=crop,
    )


def outcomes_of(
    images: Iterable[NamedImage | Failure],
    job: Job,
    backbone: Backbone,
    size: BatchSize | None = None,
    engine: Engine | None = None,
) -> Iterator[Any]:
    """The outcomes of images, in any order: by an engine, or in this process, which decodes in others.

    size: made from the job's loader if None; pass one to read it afterwards.
    """
    if engine:
        return engine.outcomes(images, job, backbone)
    size = size or batch_size_for(backbone, job.loader.batch_size)
    decoded = decode(images, job.decoding(backbone.patch_size), workers=job.loader.workers)
    return job.outcomes(grouped(decoded, size), backbone, size)


def grouped(
    images: Iterable[DecodedImage | Failure], batch_size: BatchSize
) -> Iterator[list[DecodedImage] | Failure]:
    """Group a stream of decoded images into batches of one token grid; see `decoded_batches`."""
    batcher = GridBatcher(batch_size)
    for image in images:
        if isinstance(image, Failure):
            yield image
        else:
            yield from batcher.add(image)
    yield from batcher.flush()


def results_of(
    batches: Iterable[list[DecodedImage] | Failure],
    size: BatchSize,
    device: torch.device,
    work: Callable[[list[DecodedImage]], T],
) -> Iterator[tuple[list[DecodedImage], T] | Failure]:
    """Process batches of images of one padded size each, in smaller parts where they do not fit in memory.

    Args:
        size: lowered after each part that did not fit, so that later batches are smaller, too.
        work: called again on smaller parts after running out of memory, so it must leave nothing half done.

    Yields:
        Each part with the result of `work`, the Failures among the batches, and one for each image that does
        not fit alone.
    """
    for batch in batches:
        if isinstance(batch, Failure):
            yield batch
            continue
        padded_hw = batch[0].pixels.shape[:2]
        while batch:
            part = batch[: size.of(padded_hw)]
            done = _none_if_out_of_memory(work, part)
            if done is None and len(part) > 1:
                size.lower(len(part), padded_hw)
                continue
            yield _too_large(part[0], device) if done is None else (part, done)
            batch = batch[len(part) :]


def _too_large(image: DecodedImage, device: torch.device) -> Failure:
    """The record of an image that does not fit in memory even alone."""
    height, width = image.size_hw
    reason = f"out of memory on {device} at {width} x {height} pixels: scale it down with `max_side`"
    return Failure(image.name, reason)


def _none_if_out_of_memory(work: Callable[[list[DecodedImage]], T], part: list[DecodedImage]) -> T | None:
    """The result, or None if out of memory; the attempt's memory is free again then."""
    try:
        return work(part)
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        # how torch reports that the host, or one of CUDA's libraries, is out of memory
        if "can't allocate memory" in str(error) or "ALLOC_FAILED" in str(error):
            return None
        raise
