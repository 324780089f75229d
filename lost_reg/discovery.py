"""Joins the stages: decode, batch, features, LOST, boxes in pixels."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lost_reg.backbones import Backbone
from lost_reg.batching import DecodedImage, GridBatcher
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images import array_to_rgb, limit_side, pad_to_patches, read_image
from lost_reg.lost import LostResult, finite_images, lost
from lost_reg.records import Box, Failure, Prediction, Protocol

ImageInput = str | Path | np.ndarray
BATCH_SIZE = 8
LOST_AS_PUBLISHED = Protocol()

# Below this many images, starting decoding processes takes longer than decoding.
_IMAGES_WORTH_WORKERS = 32


def discover(
    images: Iterable[ImageInput],
    backbone: Backbone,
    protocol: Protocol = LOST_AS_PUBLISHED,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    apply_exif: bool = True,
) -> list[Prediction]:
    """Find one object in each image.

    Args:
        images: paths, or (H, W, 3) uint8 RGB arrays.
        backbone: what `load_backbone` gives.
        protocol: how features are taken and LOST is run.
        batch_size: how many images of one grid are run together.
        workers: decoding processes; None chooses by the machine, 0 decodes in this process.
        apply_exif: whether the EXIF orientation of files is applied.

    Returns:
        One Prediction for each image, in their order; `image` is the path, or "[index]" for an array.

    Raises:
        LostRegError: an image that cannot be read (`discover_stream` goes on instead).

    Example:
        >>> from lost_reg import discover, load_backbone
        >>> backbone = load_backbone("tiny")
        >>> boxes = [found.box_xyxy for found in discover(["a.jpg", "b.jpg"], backbone)]  # doctest: +SKIP
    """
    if isinstance(images, (str, Path)) or getattr(images, "ndim", None) == 3:
        raise LostRegError("expected a list of images, but got one: discover([image], backbone)")
    if not hasattr(backbone, "features"):
        raise LostRegError(
            f"expected what load_backbone gives, but got a {type(backbone).__name__} as backbone"
        )
    images = list(images)
    for image in images:
        if not isinstance(image, (str, Path, np.ndarray)):
            raise LostRegError(f"expected paths or (H, W, 3) uint8 arrays, but got a {type(image).__name__}")
    names = [f"[{i}]" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]
    found: dict[str, Prediction] = {}
    for outcome in discover_stream(
        images, names, backbone, protocol, batch_size=batch_size, workers=workers, apply_exif=apply_exif
    ):
        if isinstance(outcome, Failure):
            raise UnreadableImage(f"{outcome.image}: {outcome.reason}")
        found[outcome.image] = outcome
    return [found[name] for name in names]


def discover_stream(
    images: Sequence[ImageInput],
    names: Sequence[str],
    backbone: Backbone,
    protocol: Protocol = LOST_AS_PUBLISHED,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    apply_exif: bool = True,
) -> Iterator[Prediction | Failure]:
    """Find one object in each image and give the outcomes as they are done, with bounded memory.

    Args:
        names: what each image is called in its outcome.
        images, and the others: see `discover`.

    Yields:
        One outcome for each image; a Failure for one that cannot be used. Not in the order of the
        images: those of one grid are done together.

    Raises:
        LostRegError: a batch size, facet or layer that cannot be.
    """
    batches = decoded_batches(
        images, names, backbone.patch_size, protocol.max_side,
        batch_size=batch_size, workers=workers, apply_exif=apply_exif,
    )  # fmt: skip
    for batch in batches:
        if isinstance(batch, Failure):
            yield batch
        else:
            yield from _discover_batch(batch, backbone, protocol)


def decoded_batches(
    images: Sequence[ImageInput],
    names: Sequence[str],
    patch_size: int,
    max_side: int | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    apply_exif: bool = True,
) -> Iterator[list[DecodedImage] | Failure]:
    """Images, decoded and in batches of one token grid, as they are ready, with bounded memory.

    Yields:
        Batches, and a Failure for each image that cannot be read.

    Raises:
        LostRegError: a batch size below 1.
    """
    if batch_size < 1:
        raise LostRegError(f"expected a batch size of at least 1, but got {batch_size}")
    batcher = GridBatcher(batch_size)
    for image in _decode(_Decoder(images, names, apply_exif, max_side, patch_size), workers):
        if isinstance(image, Failure):
            yield image
        else:
            yield from batcher.add(image)
    yield from batcher.flush()


class _Decoder(Dataset):
    """Images by index, decoded, scaled down if asked for, and padded; runs in the workers."""

    def __init__(self, images, names, apply_exif: bool, max_side: int | None, patch_size: int):
        self.images, self.names = images, names
        self.apply_exif, self.max_side, self.patch_size = apply_exif, max_side, patch_size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DecodedImage | Failure:
        image, name = self.images[index], self.names[index]
        try:
            if isinstance(image, np.ndarray):
                pixels = array_to_rgb(image)
            else:
                pixels = read_image(image, apply_exif=self.apply_exif)
        except UnreadableImage as error:
            return Failure(name, str(error))
        scaled = limit_side(pixels, self.max_side)
        return DecodedImage(name, pad_to_patches(scaled, self.patch_size), scaled.shape[:2], pixels.shape[:2])


def _decode(decoder: _Decoder, workers: int | None) -> Iterator[DecodedImage | Failure]:
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if len(decoder) >= _IMAGES_WORTH_WORKERS else 0
    with warnings.catch_warnings():
        # the number of workers is the user's to choose
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = iter(DataLoader(decoder, batch_size=None, num_workers=workers, worker_init_fn=_start_worker))
    yield from loader


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to act on
    cv2.setNumThreads(0)  # OpenCV's own threads do not survive the fork into a worker


def _discover_batch(
    batch: list[DecodedImage], backbone: Backbone, protocol: Protocol
) -> Iterator[Prediction | Failure]:
    """The outcomes of a batch; if it does not fit the memory, of its images one by one."""
    try:
        outcomes = _outcomes(batch, backbone, protocol)
    except torch.OutOfMemoryError:
        outcomes = None
    if outcomes is not None:
        yield from outcomes
    elif len(batch) > 1:
        for image in batch:
            yield from _discover_batch([image], backbone, protocol)
    else:
        height, width = batch[0].size_hw
        reason = (
            f"out of memory on {backbone.device} at {width} x {height} pixels: scale it down with --max-side"
        )
        yield Failure(batch[0].name, reason)


def _outcomes(
    batch: list[DecodedImage], backbone: Backbone, protocol: Protocol
) -> list[Prediction | Failure]:
    images = normalized(batch, backbone)
    grid_hw = images.shape[2] // backbone.patch_size, images.shape[3] // backbone.patch_size
    features = backbone.features(images, protocol.facet, protocol.layer).float()  # (B, N, D)
    finite = finite_images(features).tolist()
    cure = "" if backbone.precision == "fp32" else ": use --precision fp32"
    reason = f"its features are not finite in {backbone.precision}{cure}"
    failures = [Failure(image.name, reason) for image, usable in zip(batch, finite) if not usable]
    usable = [index for index, is_finite in enumerate(finite) if is_finite]
    if not usable:
        return failures
    found = run_lost(features[usable], grid_hw, protocol)
    return [*failures, *_predictions([batch[index] for index in usable], found, grid_hw, backbone.patch_size)]


def normalized(batch: list[DecodedImage], backbone: Backbone) -> Tensor:
    """A batch as the backbone takes it: (B, 3, H, W) float32, zero where padded, on its device."""
    pixels = torch.from_numpy(np.stack([image.pixels for image in batch])).to(backbone.device)
    mean = torch.tensor(backbone.mean, device=backbone.device).view(3, 1, 1)
    std = torch.tensor(backbone.std, device=backbone.device).view(3, 1, 1)
    images = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    for image, (height, width) in zip(images, (one.size_hw for one in batch)):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


def run_lost(features: Tensor, grid_hw: tuple[int, int], protocol: Protocol) -> LostResult:
    """LOST on (B, N, D) float32 features as a protocol says: normalised or raw, with its bias."""
    if protocol.normalize:
        features = F.normalize(features, dim=2)
    # without a bias, no norm of large features can overflow
    bias = protocol.bias * features.square().sum(dim=2).mean(dim=1) if protocol.bias else 0.0  # (B,)
    return lost(features, grid_hw, k_patches=protocol.k_patches, bias=bias)


def _predictions(
    batch: list[DecodedImage], found: LostResult, grid_hw: tuple[int, int], patch_size: int
) -> Iterator[Prediction]:
    rows = zip(batch, found.boxes_xyxy.tolist(), found.seeds.tolist(), found.degrees.tolist())
    for image, box, seed, degree in rows:
        pixels = [side * patch_size for side in box]
        yield Prediction(
            image=image.name,
            size_hw=image.original_hw,
            box_xyxy=box_in_original(pixels, image.size_hw, image.original_hw),
            seed=tuple(seed),
            grid_hw=grid_hw,
            degree=degree,
        )


def box_in_original(box_xyxy: Sequence[int], size_hw: tuple[int, int], original_hw: tuple[int, int]) -> Box:
    """Clip a box to its image, and scale it to the original if that was scaled down.

    Args:
        box_xyxy: half-open pixels of the image of size `size_hw`; it may reach into the padding.

    Returns:
        The box in pixels of the original; whole numbers if nothing was scaled.
    """
    (height, width), (original_height, original_width) = size_hw, original_hw
    xmin, ymin, xmax, ymax = box_xyxy
    xmax, ymax = min(xmax, width), min(ymax, height)
    if size_hw == original_hw:
        return xmin, ymin, xmax, ymax
    # multiplied first, so that the image's edge is met exactly
    return (
        xmin * original_width / width,
        ymin * original_height / height,
        xmax * original_width / width,
        ymax * original_height / height,
    )
