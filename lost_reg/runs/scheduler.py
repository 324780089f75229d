"""Runs batches of images through backbone and method; keeps the device busy, with as few passes as it can."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lost_reg.backbones.base import ATTENTION, CLASS_TOKEN, TOKENS, Backbone, normalized
from lost_reg.boxes import box_in_original
from lost_reg.discovery.device import to_host
from lost_reg.discovery.features import (
    FeatureConfig,
    Part,
    PatchFeatures,
    compose,
    finite_images,
    part_norms,
    without_images,
)
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.method import Deferred, PatchObject
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import NamedImage
from lost_reg.masks.grids import stored
from lost_reg.runs.batches import batch_size_for, decoded_batches, results_of
from lost_reg.runs.options import LoaderOptions
from lost_reg.runs.refining import refined
from lost_reg.types import Failure, FoundObject, Prediction

MapsHandler = Callable[[str, Maps], None]


def discover_by_each(
    images: Iterable[NamedImage | Failure],
    backbone: Backbone,
    settings: Sequence[Setting],
    loader: LoaderOptions,
    *,
    batch_size: BatchSize | None = None,
    on_maps: MapsHandler | None = None,
    with_masks: bool = False,
) -> Iterator[list[Prediction] | Failure]:
    """Find the objects of each image with each of several settings, in one forward pass per image.

    Settings with the same features share the work that their method can share; objects may then have no
    scores.

    Args:
        images: each image's name, and its path, content (bytes) or array; streamed.
        settings: all with the same `max_side` and `square`.
        batch_size: made from `loader` if None; pass one to read it afterwards.
        on_maps: only for a single setting: called with an image's name and its maps, before its outcome.
        with_masks: whether objects keep their masks; refined ones are always kept.

    Yields:
        For each image, its predictions in the order of the settings, or a Failure. Images of one grid run
        together, so the order of the images changes.

    Raises:
        LostRegError: an invalid batch size, facet or layer, or settings with different sizes.
    """
    check_one_size(settings)
    size = batch_size or batch_size_for(backbone, loader.batch_size)
    batches = decoded_batches(images, backbone.patch_size, settings[0].features, loader, size)
    return discover_in_batches(batches, backbone, settings, size, on_maps=on_maps, with_masks=with_masks)


def check_one_size(settings: Sequence[Setting]) -> None:
    """Check that settings can share their images.

    Raises:
        LostRegError: they have different sizes.
    """
    if len({(one.features.max_side, one.features.square) for one in settings}) != 1:
        raise LostRegError("settings that are tried together need the same `max_side` and `square`")


def discover_in_batches(
    batches: Iterable[list[DecodedImage] | Failure],
    backbone: Backbone,
    settings: Sequence[Setting],
    size: BatchSize,
    *,
    on_maps: MapsHandler | None = None,
    with_masks: bool = False,
) -> Iterator[list[Prediction] | Failure]:
    """Find the objects in batches of one token grid each, as `grouped` makes them; see `discover_by_each`."""
    # A GPU gets the next batch before the results of the last are read; a CPU would gain nothing.
    ahead = 1 if backbone.device.type == "cuda" else 0
    running: deque[_RunningBatch] = deque()
    start = partial(_start, backbone=backbone, settings=settings, on_maps=on_maps)
    for result in results_of(batches, size, backbone.device, start):
        if isinstance(result, Failure):
            yield result
            continue
        running.append(result[1])
        while len(running) > ahead:
            yield from _outcomes(running.popleft(), backbone, settings, with_masks)
    for last in running:
        yield from _outcomes(last, backbone, settings, with_masks)


@dataclass(frozen=True)
class _RunningBatch:
    """A batch that the device is working on.

    finite: returns (B,) bool, the images whose features are finite.
    found: the objects found with each setting.
    """

    batch: list[DecodedImage]
    grid_hw: tuple[int, int]
    finite: Callable[[], list[Tensor]]
    found: list[Deferred]


def _start(
    batch: list[DecodedImage], backbone: Backbone, settings: Sequence[Setting], on_maps: MapsHandler | None
) -> _RunningBatch:
    images = normalized(batch, backbone)
    patch = backbone.patch_size
    grid_hw = images.shape[2] // patch, images.shape[3] // patch
    extents_hw = [(image.size_hw[0] / patch, image.size_hw[1] / patch) for image in batch]
    wanted = list(dict.fromkeys(part for setting in settings for part in _parts_of(setting, backbone)))
    shown = _parts_shown(backbone, settings[0]) if on_maps else []
    asked = list(dict.fromkeys([*wanted, *shown]))
    parts = dict(zip(asked, backbone.facets(images, asked)))
    finite = torch.stack([finite_images(parts[part].flatten(2)) for part in wanted]).all(dim=0)  # (B,)

    def features_of(setting: Setting) -> PatchFeatures:
        config, attention = setting.features, None
        if _uses_attention(setting, backbone):
            attention = without_images(parts[_attention_of(config, backbone)][:, 0], finite)
        values = without_images(compose(parts, config), finite)
        norms = part_norms(parts, config)
        return PatchFeatures(values, grid_hw, extents_hw, len(config.parts), norms, attention)

    found = _start_each(features_of, settings)
    if on_maps:
        drawn = _Shown(backbone.prefix_tokens, *(parts[part] for part in shown))
        _hand_over_maps(on_maps, batch, features_of(settings[0]), settings[0], finite, drawn)
    return _RunningBatch(batch, grid_hw, to_host([finite]), found)


def _start_each(
    features_of: Callable[[Setting], PatchFeatures], settings: Sequence[Setting]
) -> list[Deferred]:
    """Start the methods of all settings; settings with the same features and method run together."""
    groups: dict[tuple[FeatureConfig, str], list[int]] = {}
    for index, setting in enumerate(settings):
        groups.setdefault((setting.features, setting.method.name), []).append(index)
    found: dict[int, Deferred] = {}
    for indices in groups.values():
        first = settings[indices[0]]
        configs = [settings[index].config for index in indices]
        found.update(zip(indices, first.method.boxes_by_each(features_of(first), configs)))
    return [found[index] for index in range(len(settings))]


def _parts_of(setting: Setting, backbone: Backbone) -> list[Part]:
    """What a setting needs of the backbone."""
    attention = [_attention_of(setting.features, backbone)] if _uses_attention(setting, backbone) else []
    return [*setting.features.parts, *attention]


def _uses_attention(setting: Setting, backbone: Backbone) -> bool:
    return bool(setting.method.class_attention) and backbone.prefix_tokens[:1] == (CLASS_TOKEN,)


def _attention_of(features: FeatureConfig, backbone: Backbone) -> Part:
    """The attention in the deepest layer of the features."""
    return ATTENTION, max(features.layers, key=backbone.block_index)


def _parts_shown(backbone: Backbone, setting: Setting) -> list[Part]:
    """What maps need of the backbone besides the features: see `_Shown`."""
    entered = max(setting.features.layers, key=backbone.block_index)
    return [(TOKENS, entered), *([(ATTENTION, -1)] if backbone.prefix_tokens else [])]


@dataclass(frozen=True)
class _Shown:
    """What maps show of the backbone.

    names: of the tokens that attend to the patches. tokens: (B, N, D). attention: (B, P, heads, N), or None
        without such tokens; see `Backbone.facets`.
    """

    names: Sequence[str]
    tokens: Tensor
    attention: Tensor | None = None

    def norms(self, grid_hw: tuple[int, int]) -> np.ndarray:
        """(B, rows, columns): the norm of each token."""
        return self.tokens.float().norm(dim=2).nan_to_num().unflatten(1, grid_hw).cpu().numpy()

    def attentions(self, grid_hw: tuple[int, int]) -> list[dict[str, np.ndarray]]:
        """For each image, by token: (1 + heads, rows, columns), the mean over heads first."""
        if self.attention is None:
            return [{} for _ in self.tokens]
        with_mean = torch.cat([self.attention.mean(dim=2, keepdim=True), self.attention], dim=2).nan_to_num()
        of_images = with_mean.unflatten(3, grid_hw).cpu().numpy()
        return [dict(zip(self.names, of_image)) for of_image in of_images]


def _hand_over_maps(
    on_maps: MapsHandler,
    batch: list[DecodedImage],
    features: PatchFeatures,
    setting: Setting,
    finite: Tensor,
    shown: _Shown,
) -> None:
    """Make the maps of the images whose features are finite."""
    method = setting.method
    if method.maps:
        maps = method.maps(features, setting.config)
    else:
        maps = [_object_map(found, features) for found in method.discover(features, setting.config)()]
    norms, attentions = shown.norms(features.grid_hw), shown.attentions(features.grid_hw)
    for index, is_finite in enumerate(finite.tolist()):
        if is_finite:
            of_run = maps[index].of_run(norms[index], attentions[index], features.extents_hw[index])
            on_maps(batch[index].name, of_run)


def _object_map(found: list[PatchObject], features: PatchFeatures) -> Maps:
    """The mask of an image's first object, for a method that has no maps of its own."""
    nothing = torch.zeros(features.grid_hw, dtype=torch.bool).numpy()
    first = found[0] if found else PatchObject((0, 0, 0, 0), (0, 0))
    return Maps({}, nothing if first.mask is None else first.mask, first.seed)


def _outcomes(
    started: _RunningBatch, backbone: Backbone, settings: Sequence[Setting], with_masks: bool
) -> Iterator[list[Prediction] | Failure]:
    """The outcomes of a batch, after waiting for the device."""
    (finite,) = started.finite()
    try:
        found = [deferred() for deferred in started.found]
    except torch.OutOfMemoryError:
        raise LostRegError(
            f"out of memory on {backbone.device} while looking for objects: what was done is kept, "
            "`resume` with a smaller `batch_size` continues"
        ) from None
    for index, (image, is_finite) in enumerate(zip(started.batch, finite.tolist())):
        if not is_finite:
            yield Failure(image.name, backbone.not_finite("its features are"))
            continue
        grid = _Grid(image, started.grid_hw, backbone.patch_size)
        predictions = []
        for by_setting, setting in zip(found, settings):
            prediction = grid.prediction(by_setting[index], with_masks or bool(setting.refine))
            predictions.append(refined(prediction, image, setting.refine) if setting.refine else prediction)
        yield predictions


@dataclass(frozen=True)
class _Grid:
    """The patch grid of an image, from which objects are mapped to pixels of the original."""

    image: DecodedImage
    grid_hw: tuple[int, int]
    patch_size: int

    def prediction(self, found: Sequence[PatchObject], with_masks: bool) -> Prediction:
        """The objects of the image; with their masks if asked for."""
        objects = tuple(self._object(one, with_masks) for one in found)
        return Prediction(self.image.name, self.image.original_hw, self.grid_hw, objects, self.image.note)

    def _object(self, one: PatchObject, with_mask: bool) -> FoundObject:
        size_hw, original_hw = self.image.size_hw, self.image.original_hw
        sides = [side * self.patch_size for side in one.box_xyxy]
        box = box_in_original(sides, size_hw, original_hw, clipped=one.clipped)
        mask = None if one.mask is None or not with_mask else stored(one.mask, self._spans_hw())
        return FoundObject(box, one.score, one.seed, one.details, mask)

    def _spans_hw(self) -> tuple[float, float]:
        """The height and width of the grid, in pixels of the original."""
        sides = zip(self.grid_hw, self.image.size_hw, self.image.original_hw)
        height, width = (cells * self.patch_size * original / scaled for cells, scaled, original in sides)
        return height, width
