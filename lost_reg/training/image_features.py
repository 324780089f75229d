"""The features of images, one image after another, as a training caches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import FeatureConfig, finite_images
from lost_reg.images.batching import BatchSize, DecodedImage, GridBatcher
from lost_reg.images.decoding import Decoding, NamedImage
from lost_reg.runs.batches import decoding_of, outcomes_of, results_of
from lost_reg.runs.engines import Engine
from lost_reg.runs.options import LoaderOptions
from lost_reg.training.feature_cache import ImageFeatures
from lost_reg.types import Failure, SizeHW


@dataclass(frozen=True)
class Features:
    """The job of computing the features of images; see `Job`.

    of_batch: from a backbone and (B, 3, H, W) normalised images to their features, (B, P + N, D): those of
        the patches in row-major order, after those of P tokens before the patches.
    scale: its `max_side` and `square`.
    views: what is computed of an image in its place, such as crops of it, with names of their own.
    """

    of_batch: Callable[[Backbone, Tensor], Tensor]
    scale: FeatureConfig
    loader: LoaderOptions
    views: Callable[[DecodedImage], Iterable[DecodedImage]] | None = None

    def decoding(self, patch_size: int) -> Decoding:
        """See `Job`."""
        return decoding_of(patch_size, self.scale, self.loader)

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[tuple[ImageFeatures, SizeHW] | Failure]:
        """The features of each image or view, with the size of its image; see `Job`."""
        if self.views:
            batches = _batches_of_views(batches, self.views, size)
        for result in results_of(batches, size, backbone.device, partial(self._of_part, backbone)):
            if isinstance(result, Failure):
                yield result
                continue
            part, values = result
            for image, of_image, is_finite in zip(part, values.cpu(), finite_images(values).tolist()):
                if is_finite:
                    yield _of_one(image, of_image, backbone.patch_size), image.original_hw
                else:
                    yield Failure(image.name, backbone.not_finite("its features are"))

    def _of_part(self, backbone: Backbone, part: list[DecodedImage]) -> Tensor:
        return self.of_batch(backbone, normalized(part, backbone)).float()


def image_features(
    images: Iterable[NamedImage],
    backbone: Backbone,
    job: Features,
    failures: dict[str, str],
    engine: Engine | None = None,
) -> Iterator[tuple[ImageFeatures, SizeHW]]:
    """Stream images through a backbone, here or by an engine; their order can change.

    Args:
        failures: receives the images that cannot be used, and why.

    Yields:
        The features of each image or view, and the size of its image.
    """
    for outcome in outcomes_of(images, job, backbone, engine=engine):
        if isinstance(outcome, Failure):
            failures[outcome.image] = outcome.reason
        else:
            yield outcome


def _batches_of_views(
    batches: Iterable[list[DecodedImage] | Failure],
    views: Callable[[DecodedImage], Iterable[DecodedImage]],
    size: BatchSize,
) -> Iterator[list[DecodedImage] | Failure]:
    batcher = GridBatcher(size)
    for batch in batches:
        if isinstance(batch, Failure):
            yield batch
            continue
        for image in batch:
            for view in views(image):
                yield from batcher.add(view)
    yield from batcher.flush()


def _of_one(image: DecodedImage, values: Tensor, patch: int) -> ImageFeatures:
    rows, columns = (side // patch for side in image.pixels.shape[:2])
    spans = [
        cells * patch * original / scaled
        for cells, original, scaled in zip((rows, columns), image.original_hw, image.size_hw)
    ]
    return ImageFeatures(image.name, values.numpy(), (rows, columns), (spans[0], spans[1]))
