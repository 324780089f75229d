"""The sizes of images by their headers, read in a separate process, as pixels are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from lost_reg.errors import UnreadableImage
from lost_reg.images.decoder_process import DecoderProcess, watched
from lost_reg.images.decoding import Decoding, ImageInput
from lost_reg.images.reading import image_size

SECONDS_PER_HEADER = 10.0


def header_sizes(
    images: Iterable[ImageInput], *, workers: int | None = None, seconds: float = SECONDS_PER_HEADER
) -> Iterator[tuple[int, int] | None]:
    """As `sizes_or_reasons`, with None in place of each reason."""
    found = sizes_or_reasons(images, workers=workers, seconds=seconds)
    return (None if isinstance(one, str) else one for one in found)


def sizes_or_reasons(
    images: Iterable[ImageInput], *, workers: int | None = None, seconds: float = SECONDS_PER_HEADER
) -> Iterator[tuple[int, int] | str]:
    """The height and width in pixels of each image, in order; nothing is decoded, EXIF is not applied.

    Args:
        images: paths, encoded images or arrays; streamed.
        workers: 0 reads headers in this process, without protection; anything else in one other process.
        seconds: the longest that one header may take.

    Yields:
        The reason for an image that cannot be read, or whose header takes too long or too much to read.

    Raises:
        LostRegError: the process cannot be started.
    """
    if workers == 0:
        yield from map(_size_here, images)
        return
    process = DecoderProcess(Decoding(apply_exif=False, max_side=None, patch_size=1), seconds)
    with watched([process]):
        for image in images:
            yield image.shape[:2] if isinstance(image, np.ndarray) else process.size(image)


def _size_here(image: ImageInput) -> tuple[int, int] | str:
    if isinstance(image, np.ndarray):
        return image.shape[:2]
    try:
        return image_size(image)
    except (UnreadableImage, MemoryError) as error:
        return str(error)
