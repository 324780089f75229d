"""Joins the stages: decode, batch, features, LOST, boxes in pixels."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lost_reg.backbones.vit import Backbone
from lost_reg.discovery.bias import otsu_bias
from lost_reg.discovery.further_objects import Graph, with_further_objects
from lost_reg.discovery.lost import (
    LostResult,
    SeedsAndMasks,
    component_boxes,
    degrees_at_biases,
    finite_images,
    seed_and_expand,
)
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.batching import BatchSize, DecodedImage, GridBatcher
from lost_reg.images.decoding import Decoding, ImageInput, NamedImage, decode
from lost_reg.runs import forecast as workload
from lost_reg.runs.map_files import Maps
from lost_reg.runs.maps import batch_maps, features_and_norms
from lost_reg.runs.memory import in_parts, too_large
from lost_reg.types import AUTO, Box, Failure, FoundObject, Prediction, Protocol

BATCH_SIZE = 8
LOST_AS_PUBLISHED = Protocol()
MapsTaker = Callable[[str, Maps], None]

# Of fewer images, `discover` starts no processes that decode them: that would take longer than decoding.
_IMAGES_WORTH_WORKERS = 32


def discover(
    images: Iterable[ImageInput],
    backbone: Backbone,
    protocol: Protocol = LOST_AS_PUBLISHED,
    *,
    batch_size: int | str = BATCH_SIZE,
    workers: int | None = None,
    apply_exif: bool = True,
) -> list[Prediction]:
    """Find one object in each image, and further ones if the protocol says so.

    Args:
        images: paths, or (H, W, 3) uint8 RGB arrays.
        backbone: what `load_backbone` gives.
        protocol: how features are taken and LOST is run.
        batch_size: how many images of one grid are run together, or "auto".
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
    if workers is None and len(images) < _IMAGES_WORTH_WORKERS:
        workers = 0
    for outcome in discover_stream(
        zip(names, images), backbone, protocol,
        batch_size=batch_size, workers=workers, apply_exif=apply_exif,
    ):  # fmt: skip
        if isinstance(outcome, Failure):
            raise UnreadableImage(f"{outcome.image}: {outcome.reason}")
        found[outcome.image] = outcome
    return [found[name] for name in names]


def discover_stream(
    images: Iterable[NamedImage | Failure],
    backbone: Backbone,
    protocol: Protocol = LOST_AS_PUBLISHED,
    *,
    batch_size: int | str | BatchSize = BATCH_SIZE,
    workers: int | None = None,
    apply_exif: bool = True,
    take_maps: MapsTaker | None = None,
) -> Iterator[Prediction | Failure]:
    """Find one object in each image and give the outcomes as they are done, with bounded memory.

    Args:
        images: what each is called in its outcome, and its path, content (bytes) or array; gone through as
            they are needed.
        take_maps: called with an image's name and its maps, before its outcome is given; maps are only made
            where this is.
        The others: see `discover`.

    Yields:
        One outcome for each image; a Failure for one that cannot be used. Not in the order of the
        images: those of one grid are done together.

    Raises:
        LostRegError: a batch size, facet or layer that cannot be.
    """
    for outcome in discover_by_each(
        images, backbone, [protocol],
        batch_size=batch_size, workers=workers, apply_exif=apply_exif, take_maps=take_maps,
    ):  # fmt: skip
        yield outcome if isinstance(outcome, Failure) else outcome[0]


def discover_by_each(
    images: Iterable[NamedImage | Failure],
    backbone: Backbone,
    protocols: Sequence[Protocol],
    *,
    batch_size: int | str | BatchSize = BATCH_SIZE,
    workers: int | None = None,
    apply_exif: bool = True,
    take_maps: MapsTaker | None = None,
) -> Iterator[list[Prediction] | Failure]:
    """Find one object in each image by each of several protocols, with one forward pass an image.

    Only of one protocol alone do predictions have affinities, and further objects.

    Args:
        protocols: of one `max_side`. Those with the same features share a Gram matrix if they stand together.
        take_maps: see `discover_stream`; for one protocol alone.

    Yields:
        For each image, its predictions in the order of the protocols, or a Failure.

    Raises:
        LostRegError: as `discover_stream`, and protocols of different `max_side` or of several objects.
    """
    if len({protocol.max_side for protocol in protocols}) != 1:
        raise LostRegError("protocols that are tried together need the same max_side")
    if len(protocols) > 1 and any(protocol.max_objects > 1 for protocol in protocols):
        raise LostRegError("protocols that are tried together find one object each: max_objects is 1")
    size = batch_size if isinstance(batch_size, BatchSize) else batch_size_for(backbone, batch_size)
    batches = decoded_batches(
        images, backbone.patch_size, protocols[0].max_side,
        batch_size=size, workers=workers, apply_exif=apply_exif,
    )  # fmt: skip
    # A GPU gets the next batch before the results of the last are looked at; a CPU would gain nothing.
    ahead = 1 if backbone.device.type == "cuda" else 0
    under_way: deque[_Started] = deque()
    for batch in batches:
        if isinstance(batch, Failure):
            yield batch
            continue
        for started in _start(batch, backbone, protocols, size, take_maps):
            under_way.append(started)
            while len(under_way) > ahead:
                yield from _finish(under_way.popleft(), backbone, protocols[0])
    for started in under_way:
        yield from _finish(started, backbone, protocols[0])


def batch_size_for(backbone: Backbone, asked: int | str) -> BatchSize:
    """How many images of a size are run together.

    Args:
        asked: a number of images, or "auto": as many as keep the device busy and fit its free memory.

    Raises:
        LostRegError: a number below 1.
    """
    if asked == AUTO:
        return BatchSize(None, workload.pixels_at_once(backbone))
    if not isinstance(asked, int) or asked < 1:
        raise LostRegError(f"expected a batch size of at least 1, or {AUTO!r}, but got {asked}")
    return BatchSize(asked)


def decoded_batches(
    images: Iterable[NamedImage | Failure],
    patch_size: int,
    max_side: int | None = None,
    *,
    batch_size: BatchSize,
    workers: int | None = None,
    apply_exif: bool = True,
) -> Iterator[list[DecodedImage] | Failure]:
    """Images, decoded and in batches of one token grid, as they are ready, with bounded memory.

    Yields:
        Batches, and a Failure for each image that cannot be read.
    """
    batcher = GridBatcher(batch_size)
    for image in decode(images, Decoding(apply_exif, max_side, patch_size), workers=workers):
        if isinstance(image, Failure):
            yield image
        else:
            yield from batcher.add(image)
    yield from batcher.flush()


@dataclass(frozen=True)
class _Started:
    """A batch that the device is at work on; its tensors on the host are filled once `ready` is.

    found: of the images by the first protocol, then of the images by the second, and so on.
    finite: (B,) bool, images whose features are finite by all protocols.
    features: (B, N, D) on the device, where further objects are looked for; else None.
    """

    batch: list[DecodedImage]
    grid_hw: tuple[int, int]
    found: SeedsAndMasks
    finite: Tensor
    ready: torch.cuda.Event | None
    features: Tensor | None


def _start(
    batch: list[DecodedImage],
    backbone: Backbone,
    protocols: Sequence[Protocol],
    batch_size: BatchSize,
    take_maps: MapsTaker | None,
) -> Iterator[_Started | Failure]:
    """Begin a batch, in smaller ones if it does not fit the memory."""
    for part, started in in_parts(
        batch, batch_size, lambda part: _started(part, backbone, protocols, take_maps)
    ):
        yield started or too_large(part[0], backbone.device)


def _started(
    batch: list[DecodedImage],
    backbone: Backbone,
    protocols: Sequence[Protocol],
    take_maps: MapsTaker | None,
) -> _Started:
    images = normalized(batch, backbone)
    grid_hw = images.shape[2] // backbone.patch_size, images.shape[3] // backbone.patch_size
    wanted = list(dict.fromkeys((protocol.facet, protocol.layer) for protocol in protocols))
    if take_maps:
        one, norms = features_and_norms(backbone, images, *wanted[0])
        _give_maps(take_maps, batch, one, norms, grid_hw, protocols[0], backbone.patch_size)
        features = {wanted[0]: one}
    elif len(wanted) == 1:
        features = {wanted[0]: backbone.features(images, *wanted[0])}  # (B, N, D)
    else:
        features = dict(zip(wanted, backbone.facets(images, wanted)))
    found, finite = _found_by_each(features, protocols)
    (finite, *found), ready = _to_host([finite, *found.tensors()])
    kept = features[wanted[0]] if protocols[0].max_objects > 1 else None
    return _Started(batch, grid_hw, SeedsAndMasks(*found), finite, ready, kept)


def _found_by_each(
    features: Mapping[tuple[str, int], Tensor], protocols: Sequence[Protocol]
) -> tuple[SeedsAndMasks, Tensor]:
    """Seeds and masks by each protocol, (S * B) of them, and which of the B images are finite.

    features: (B, N, D) of each facet and layer.
    """
    finite = torch.stack([finite_images(one) for one in features.values()]).all(dim=0)
    alone = len(protocols) == 1  # who tries many wants their boxes, and is spared the cosines
    found = []
    for (facet, layer, _, _), group in itertools.groupby(protocols, key=_what_is_compared):
        found += seeds_and_masks(features[facet, layer], list(group), cosines=alone)
    return SeedsAndMasks.joined(found), finite


def _what_is_compared(protocol: Protocol) -> tuple[str, int, bool, bool]:
    """Protocols that agree in this have the same affinities, but for a bias."""
    return protocol.facet, protocol.layer, protocol.center, protocol.normalize


def _give_maps(
    take: MapsTaker,
    batch: list[DecodedImage],
    features: Tensor,
    norms: Tensor,
    grid_hw: tuple[int, int],
    protocol: Protocol,
    patch_size: int,
) -> None:
    """Make the maps of the images whose (B, N, D) features are finite, and hand them over."""
    finite = finite_images(features)
    batch = [image for image, is_finite in zip(batch, finite.tolist()) if is_finite]
    if not batch:
        return
    features, norms = prepared(features[finite], protocol).float(), norms[finite]
    bias = absolute_bias(features, protocol)
    for image, maps in zip(batch, batch_maps(features, bias, norms, grid_hw, protocol.k_patches)):
        covered_hw = tuple(side / (cells * patch_size) for side, cells in zip(image.size_hw, grid_hw))
        take(image.name, replace(maps, covered_hw=covered_hw))


def _to_host(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], torch.cuda.Event | None]:
    """The tensors on the host. From CUDA the copies are only begun: they are there after the event."""
    if not tensors[0].is_cuda:
        return tensors, None
    hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(hosts, tensors):
        host.copy_(tensor, non_blocking=True)
    ready = torch.cuda.Event(blocking=True)  # the waiting process leaves its core to the decoders
    ready.record(torch.cuda.current_stream(tensors[0].device))
    return hosts, ready


def _finish(
    started: _Started | Failure, backbone: Backbone, protocol: Protocol
) -> Iterator[list[Prediction] | Failure]:
    """The outcomes of a batch, once they have come from the device.

    protocol: that by which further objects are looked for.
    """
    if isinstance(started, Failure):
        yield started
        return
    if started.ready:
        started.ready.synchronize()
    found = _predictions(started, backbone, protocol)
    cure = "" if backbone.precision == "fp32" else ": use --precision fp32"
    for index, image in enumerate(started.batch):
        if index in found:
            yield found[index]
        else:
            yield Failure(image.name, f"its features are not finite in {backbone.precision}{cure}")


def _predictions(started: _Started, backbone: Backbone, protocol: Protocol) -> dict[int, list[Prediction]]:
    """Those of the images whose features are finite, by their place in the batch."""
    batch, grid_hw = started.batch, started.grid_hw

    def in_pixels(index: int, row: tuple) -> FoundObject:
        return _found_object(batch[index], *row, backbone.patch_size)

    result = component_boxes(started.found, grid_hw)
    rows = result.rows()  # B of each protocol
    found = {
        index: [_prediction(image, in_pixels(index, row), grid_hw) for row in rows[index :: len(batch)]]
        for index, (image, finite) in enumerate(zip(batch, started.finite.tolist()))
        if finite
    }
    if started.features is None:
        return found
    alone = {index: one for index, (one,) in found.items()}
    graph = graph_of(started.features, grid_hw, protocol)
    try:
        further = with_further_objects(alone, result, graph, protocol.max_objects, in_pixels)
    except torch.OutOfMemoryError:
        raise LostRegError(
            f"out of memory on {backbone.device} while looking for further objects: what was done is kept, "
            "--resume with a smaller --batch-size goes on"
        ) from None
    return {index: [one] for index, one in further.items()}


def _found_object(
    image: DecodedImage,
    box: list[int],
    seed: list[int],
    degree: int,
    affinity: float | None,
    patch_size: int,
) -> FoundObject:
    """A row of LOST's result, its box in pixels of the original."""
    pixels = [side * patch_size for side in box]
    return FoundObject(
        box_xyxy=box_in_original(pixels, image.size_hw, image.original_hw),
        seed=tuple(seed),
        degree=degree,
        affinity=None if affinity is None else round(affinity, 4),
    )


def _prediction(image: DecodedImage, found: FoundObject, grid_hw: tuple[int, int]) -> Prediction:
    return Prediction(
        image=image.name,
        size_hw=image.original_hw,
        box_xyxy=found.box_xyxy,
        seed=found.seed,
        grid_hw=grid_hw,
        degree=found.degree,
        affinity=found.affinity,
    )


def normalized(batch: list[DecodedImage], backbone: Backbone) -> Tensor:
    """A batch as the backbone takes it: (B, 3, H, W) float32, zero where padded, on its device."""
    # On CUDA from pinned memory, which is copied while the host goes on.
    pixels = torch.empty(
        (len(batch), *batch[0].pixels.shape), dtype=torch.uint8, pin_memory=backbone.device.type == "cuda"
    )
    np.stack([image.pixels for image in batch], out=pixels.numpy())
    pixels = pixels.to(backbone.device, non_blocking=True)
    # by numbers of the host, as a tensor made from them would wait for the device
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    for channel, (mean, std) in enumerate(zip(backbone.mean, backbone.std)):
        images[:, channel].sub_(255 * mean).div_(255 * std)
    for image, (height, width) in zip(images, (one.size_hw for one in batch)):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


def run_lost(features: Tensor, grid_hw: tuple[int, int], protocol: Protocol) -> LostResult:
    """LOST on finite (B, N, D) features as a protocol says."""
    (found,) = seeds_and_masks(features, [protocol])
    return component_boxes(found.cpu(), grid_hw)


def graph_of(features: Tensor, grid_hw: tuple[int, int], protocol: Protocol) -> Graph:
    """What LOST works on, from (B, N, D) features as a backbone gives them."""
    features = prepared(features, protocol)
    return Graph(features, absolute_bias(features, protocol), protocol.k_patches, grid_hw)


def seeds_and_masks(
    features: Tensor, protocols: Sequence[Protocol], *, cosines: bool = True
) -> list[SeedsAndMasks]:
    """LOST but for the component, on (B, N, D) features, by protocols that differ in bias and k alone."""
    features = prepared(features, protocols[0])
    biases = [absolute_bias(features, protocol) for protocol in protocols]
    if len(protocols) == 1:
        k_patches = protocols[0].k_patches
        return [seed_and_expand(features, k_patches=k_patches, bias=biases[0], cosines=cosines)]
    features = features.float()
    none = features.new_zeros(len(features))
    biases = torch.stack([none if bias is None else bias for bias in biases], dim=1)  # (B, S)
    degrees = degrees_at_biases(features, biases)  # (B, S, N)
    return [
        seed_and_expand(
            features, k_patches=protocol.k_patches, bias=biases[:, s], degrees=degrees[:, s], cosines=cosines
        )
        for s, protocol in enumerate(protocols)
    ]


def prepared(features: Tensor, protocol: Protocol) -> Tensor:
    """(B, N, D) features as a protocol compares them: centred or not, normalised or raw."""
    if protocol.center:
        features = features.float()
        features = features - features.mean(dim=1, keepdim=True)
    if protocol.normalize:
        features = F.normalize(features.float(), dim=2)
    return features


def absolute_bias(features: Tensor, protocol: Protocol) -> Tensor | None:
    """The protocol's bias in the units of the affinities of its prepared features: (B,), or None for none."""
    if protocol.bias == AUTO:
        return otsu_bias(features.float())
    if not protocol.bias:
        return None  # not 0 times a norm, which can overflow
    return protocol.bias * features.float().square().sum(dim=2).mean(dim=1)


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
