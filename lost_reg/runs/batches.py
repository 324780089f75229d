"""Images, decoded and in batches of one token grid, ready for a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.methods import METHODS
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize, DecodedImage, GridBatcher
from lost_reg.images.decoding import Decoding, NamedImage, decode
from lost_reg.runs.forecast import pixels_at_once
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import AUTO, Failure


def batch_size_for(backbone: Backbone, asked: int | str) -> BatchSize:
    """How many images of a size run together.

    Args:
        asked: a number of images, or "auto": as many as keep the device busy and fit its free memory.

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
    max_side: int | None,
    loader: LoaderOptions,
    batch_size: BatchSize,
) -> Iterator[list[DecodedImage] | Failure]:
    """Stream images in batches of one token grid, as they are ready, with bounded memory.

    Yields:
        Batches, and a Failure for each image that cannot be read.
    """
    batcher = GridBatcher(batch_size)
    decoding = Decoding(loader.apply_exif, max_side, patch_size)
    for image in decode(images, decoding, workers=loader.workers):
        if isinstance(image, Failure):
            yield image
        else:
            yield from batcher.add(image)
    yield from batcher.flush()
