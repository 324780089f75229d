"""The features of images, one image after another, as a training caches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from lost_reg.backbones.base import Backbone, normalized
from lost_reg.discovery.features import FeatureConfig, finite_images
from lost_reg.images.batching import BatchSize, DecodedImage, GridBatcher
from lost_reg.images.decoding import NamedImage
from lost_reg.runs.batches import batch_size_for, decoded_batches, in_parts, too_large
from lost_reg.runs.options import LoaderOptions
from lost_reg.training.feature_cache import ImageFeatures
from lost_reg.types import Failure


def image_features(
    named: Iterable[NamedImage],
    backbone: Backbone,
    of_batch: Callable[[Tensor], Tensor],
    scale: FeatureConfig,
    loader: LoaderOptions,
    failures: dict[str, str],
    views: Callable[[DecodedImage], Iterable[DecodedImage]] | None = None,
) -> Iterator[tuple[DecodedImage, ImageFeatures]]:
    """Stream images through a backbone; their order can change.

    Args:
        of_batch: from (B, 3, H, W) normalised images to their features, (B, P + N, D): those of the patches
            in row-major order, after those of P tokens before the patches.
        scale: its `max_side` and `square`.
        failures: receives the images that cannot be used, and why.
        views: what is computed of an image in its place, such as crops of it, with names of their own.
    """
    size = batch_size_for(backbone, loader.batch_size)
    batches = decoded_batches(named, backbone.patch_size, scale, loader, size)
    for batch in _batches_of_views(batches, views, size) if views else batches:
        if isinstance(batch, Failure):
            failures[batch.image] = batch.reason
            continue
        for part, values in in_parts(batch, size, lambda part: of_batch(normalized(part, backbone)).float()):
            if values is None:
                failures[part[0].name] = too_large(part[0], backbone.device).reason
                continue
            for image, of_image, is_finite in zip(part, values.cpu(), finite_images(values).tolist()):
                if is_finite:
                    yield image, _of_one(image, of_image, backbone.patch_size)
                else:
                    failures[image.name] = backbone.not_finite("its features are")


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
