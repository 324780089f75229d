"""The images that a head is trained on: which they are, their targets, and their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.features import FeatureConfig, compose
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.reading import as_recorded, read_image, scaled
from lost_reg.masks.bilateral import BilateralSolver
from lost_reg.masks.grids import on_grid
from lost_reg.progress import Progress
from lost_reg.runs.engines import Engine
from lost_reg.runs.folder import Results
from lost_reg.runs.heads import drawing
from lost_reg.runs.image_folder import image_folder
from lost_reg.runs.options import LoaderOptions
from lost_reg.text import counted
from lost_reg.training.feature_cache import FeatureCache, ImageFeatures
from lost_reg.training.head_config import HeadTraining, TrainOptions
from lost_reg.training.head_fit import Chunk, Target
from lost_reg.training.image_features import Features, image_features
from lost_reg.types import Mask


@dataclass(frozen=True)
class TrainingImages:
    """The images of a run that a head learns from, in random order, and those kept out.

    masks: those of each image's objects. paths: their files. sizes_hw: of the images, in the run.
    held_out: how many are kept out. held_out_below: those are the ones with a smaller number, see
        `runs.heads.drawing`.
    """

    masks: dict[str, list[Mask]]
    paths: dict[str, Path]
    sizes_hw: dict[str, tuple[int, int]]
    held_out: int
    held_out_below: float

    def target(self, chunk: Chunk) -> list[np.ndarray]:
        """Which patches of each image the run's objects cover, (rows, columns) bool."""
        return [self._covered(one) for one in chunk.images]

    def _covered(self, features: ImageFeatures) -> np.ndarray:
        grids = [on_grid(mask, features.grid_hw, features.spans_hw) for mask in self.masks[features.image]]
        covered: np.ndarray = np.any(grids, axis=0)
        return covered


def images_to_train_on(results: Results, training: HeadTraining, options: TrainOptions) -> TrainingImages:
    """The images of a run whose objects have masks, without a share that is drawn and kept out.

    Args:
        training: its `holdout` is the share that is kept out, its `seed` that of the draw.
        options: where the images are, and how many to learn from.

    Raises:
        LostRegError: a run without masks, fewer than two images, or images that are no longer there.
    """
    with_objects = {name: one.objects for name, one in results.predictions.items() if one.objects}
    masks = {name: [one.mask for one in objects if one.mask] for name, objects in with_objects.items()}
    if not any(masks.values()):
        reason = "its objects have no masks: run again with `masks`" if masks else "it found no objects"
        raise LostRegError(f"nothing can be learned from {results.folder}: {reason}")
    number = drawing(training.seed)
    drawn = sorted(masks, key=number)
    held_out = max(1, round(training.holdout * len(drawn))) if training.holdout else 0
    below = number(drawn[held_out]) if held_out < len(drawn) else 1.0
    names = [name for name in drawn[held_out:] if masks[name]][: options.limit]
    if len(names) < 2:
        raise LostRegError(
            f"{results.folder} has {counted(len(masks), 'image')} with objects, of which {len(names):,} are "
            "left to learn from: a head needs at least two, and many are better"
        )
    paths = image_folder(results.folder, results.record, options.image_root).find_all(names)
    sizes = {name: results.predictions[name].size_hw for name in names}
    return TrainingImages({name: masks[name] for name in names}, paths, sizes, held_out, below)


@dataclass
class FeatureSource:
    """The features of training images: from a cache, and beyond its budget computed each time.

    engine: what computes them, if not this process. failures: the images that could not be used.
    """

    images: TrainingImages
    backbone: Backbone
    features: FeatureConfig
    loader: LoaderOptions
    cache: FeatureCache
    engine: Engine | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The images that can be used, in their order."""
        return [name for name in self.images.paths if name not in self.failures]

    def fill(self, progress: Progress) -> None:
        """Compute the features that are not in the cache, up to its budget."""
        missing = [name for name in self.images.paths if name not in self.cache]
        total, done = len(self.images.paths), len(self.images.paths) - len(missing)
        progress(done, 0, total)
        for features in self._computed(missing):
            if not self.cache.add(features):
                return
            done += 1
            progress(done, len(self.failures), total)

    def __iter__(self) -> Iterator[ImageFeatures]:
        """One pass over the images."""
        return self.first(len(self.names))

    def first(self, count: int) -> Iterator[ImageFeatures]:
        """The first images in their order, but those in the cache before those that are not."""
        names = self.names[:count]
        yield from (self.cache.get(name) for name in names if name in self.cache)
        yield from self._computed([name for name in names if name not in self.cache])

    def refined(self, target: Target) -> Target:
        """A target whose masks are refined by the bilateral solver, unless the two hardly overlap."""

        def sharper(chunk: Chunk) -> list[np.ndarray]:
            return [self._refined(one.image, mask) for one, mask in zip(chunk.images, target(chunk))]

        return sharper

    def _refined(self, image: str, mask: np.ndarray) -> np.ndarray:
        """A (rows, columns) mask, refined on its image: the patches that are at least half in it."""
        if not mask.any():
            return mask
        try:
            read = read_image(
                self.images.paths[image],
                apply_exif=self.loader.apply_exif, background=self.loader.background,
            )  # fmt: skip
        except UnreadableImage as error:
            raise LostRegError(f"{image}: {error}; the training needs it again: `resume` continues") from None
        pixels = scaled(read, self.features.max_side, self.features.square)
        height, width = pixels.shape[:2]
        patch, (rows, columns) = self.backbone.patch_size, mask.shape
        coarse = mask.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
        fine = BilateralSolver(pixels).refine(coarse)
        padded = np.pad(fine, ((0, rows * patch - height), (0, columns * patch - width)), mode="edge")
        inside: np.ndarray = padded.reshape(rows, patch, columns, patch).mean(axis=(1, 3)) >= 0.5
        return inside

    def _computed(self, names: Sequence[str]) -> Iterator[ImageFeatures]:
        if not names:
            return
        named = [(name, self.images.paths[name]) for name in names]
        job = Features(partial(_composed, self.features), self.features, self.loader)
        for features, size_hw in image_features(named, self.backbone, job, self.failures, self.engine):
            if size_hw == tuple(self.images.sizes_hw[features.image]):
                yield features
            else:
                self.failures[features.image] = "its size is not the one that it had in the run"


def _composed(features: FeatureConfig, backbone: Backbone, images: Tensor) -> Tensor:
    """The features of (B, 3, H, W) normalised images, (B, N, D)."""
    parts = dict(zip(features.parts, backbone.facets(images, features.parts)))
    return compose(parts, features)


def as_in_run(loader: LoaderOptions, results: Results) -> LoaderOptions:
    """Loader options that read images as the run did."""
    return replace(loader, **as_recorded(results.settings))
