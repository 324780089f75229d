"""Decodes image files in separate processes, so that no file can crash a run.

If a decoder crashes, hangs or asks for too much memory, only its process ends and is replaced; the image is
recorded and the others continue. The processes are fresh interpreters without torch: they start quickly,
share no state with the run, and end when their input does, however the run ended.

A process communicates over its standard input and output. First it reads a line of settings and answers
"ready". Each request is a line of JSON: {"path": ...}, or {"bytes": n} followed by the n bytes of an encoded
image; with "header", only its size is asked for. Each answer is a line of JSON: {"reason": ...}, {"size_hw":
...}, or the shapes, followed by the pixels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from lost_reg.errors import UnreadableImage
from lost_reg.images.batching import DecodedImage
from lost_reg.images.colours import WHITE
from lost_reg.images.crops import centre_crop
from lost_reg.images.decoder_process import SECONDS_PER_IMAGE, DecoderProcess, watched
from lost_reg.images.fetching import fetched
from lost_reg.images.reading import (
    array_to_rgb,
    pad_to_patches,
    patches_of,
    read_noted,
    scaled,
    scaled_size,
)
from lost_reg.types import Failure

# A str is a path, or an address such as s3://bucket/a.jpg.
ImageInput = str | Path | bytes | np.ndarray
NamedImage = tuple[str, ImageInput]

_BYTES_AHEAD = 2**28  # of encoded images and arrays that wait
_MOST_PROCESSES = 8


@dataclass(frozen=True)
class Decoding:
    """How images are prepared for a backbone.

    apply_exif: whether the EXIF orientation of files is applied.
    max_side: the longer side, in pixels, to which larger images are scaled down, or None.
    patch_size: sides are padded to multiples of it.
    square: the side of a square to which all images are scaled instead, or None.
    crop: the shorter side, in pixels, to which all images are scaled instead, and the side of the square that
        is cut from their centre; or None. See `centre_crop`.
    background: the colour under transparent images, see `read_image`.
    max_patches: images with more patches, once scaled, are refused without decoding them; None for any.
    """

    apply_exif: bool
    max_side: int | None
    patch_size: int
    square: int | None = None
    background: str | None = WHITE
    max_patches: int | None = None
    crop: tuple[int, int] | None = None

    def prepare(self, name: str, image: ImageInput) -> DecodedImage | Failure:
        """Decode one image in this process."""
        try:
            if isinstance(image, np.ndarray):
                pixels, note = array_to_rgb(image), None
                self.check(pixels.shape[:2])
            else:
                pixels, note = read_noted(
                    image, apply_exif=self.apply_exif, background=self.background, check=self.check
                )
            resized = self._scaled(pixels)
            padded = pad_to_patches(resized, self.patch_size)
        except UnreadableImage as error:
            return Failure(name, str(error))
        except MemoryError:
            return Failure(name, "takes too much memory to decode")
        return DecodedImage(name, padded, resized.shape[:2], pixels.shape[:2], note)

    def check(self, size_hw: tuple[int, int]) -> None:
        """Raises UnreadableImage for an image of this size, in pixels, that has too many patches."""
        square = self.crop[1] if self.crop else self.square
        height, width = scaled_size(size_hw, self.max_side, square)
        patches = patches_of((height, width), self.patch_size)
        if self.max_patches is not None and patches > self.max_patches:
            raise UnreadableImage(
                f"{width:,} x {height:,} pixels are {patches:,} patches, and at most {self.max_patches:,} "
                "are used: `max_side` scales it down"
            )

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        return centre_crop(pixels, *self.crop) if self.crop else scaled(pixels, self.max_side, self.square)


def decode(
    images: Iterable[NamedImage | Failure],
    decoding: Decoding,
    *,
    workers: int | None = None,
    seconds: float = SECONDS_PER_IMAGE,
    command: Sequence[str] | None = None,
) -> Iterator[DecodedImage | Failure]:
    """Decode images in their order, a few ahead of the caller, with `Decoders` of their own."""
    with Decoders(decoding, workers, seconds=seconds, command=command) as decoders:
        yield from decoders.decode(images)


class Decoders:
    """Processes that decode images; a context manager that ends them.

    Args:
        workers: number of processes; None fits the machine, 0 decodes in this process, without protection.
        seconds: the longest that one image may take in a process.
        command: starts a process, for tests.
    """

    def __init__(
        self,
        decoding: Decoding,
        workers: int | None = None,
        *,
        seconds: float = SECONDS_PER_IMAGE,
        command: Sequence[str] | None = None,
    ):
        count = min(_MOST_PROCESSES, os.cpu_count() or 1) if workers is None else workers
        self._decoding = decoding
        self._processes = [DecoderProcess(decoding, seconds, command) for _ in range(count)]
        self._idle: SimpleQueue[DecoderProcess] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._open = ExitStack()

    def decode(self, images: Iterable[NamedImage | Failure]) -> Iterator[DecodedImage | Failure]:
        """Decode images in their order, a few ahead of the caller.

        Args:
            images: names, and paths, addresses, encoded files (bytes) or arrays; streamed. A Failure among
                them is passed on unchanged.

        Yields:
            One outcome for each image.

        Raises:
            LostRegError: processes cannot be started.
        """
        images = fetched(images)
        if not self._processes:
            prepare = self._decoding.prepare
            yield from (one if isinstance(one, Failure) else prepare(*one) for one in images)
            return
        yield from _ahead(images, lambda one: self._threads.submit(self._work, one), 2 * len(self._processes))

    def _work(self, one: NamedImage | Failure) -> DecodedImage | Failure:
        if isinstance(one, Failure):
            return one
        name, image = one
        if isinstance(image, np.ndarray):
            return self._decoding.prepare(name, image)
        process = self._idle.get()
        try:
            return process.decode(name, image)
        finally:
            self._idle.put(process)

    def __enter__(self) -> Decoders:
        if self._processes:
            self._threads = ThreadPoolExecutor(len(self._processes))
            self._open.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            self._open.enter_context(watched(self._processes))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _ahead(
    images: Iterable[NamedImage | Failure], submit: Callable[..., Future], most: int
) -> Iterator[DecodedImage | Failure]:
    """The results of the images in order, with at most `most`, and _BYTES_AHEAD, in progress."""
    images = iter(images)
    under_way: deque[tuple[Future, int]] = deque()
    while True:
        while len(under_way) < most and sum(size for _, size in under_way) < _BYTES_AHEAD:
            if (one := next(images, None)) is None:
                break
            under_way.append((submit(one), 0 if isinstance(one, Failure) else _bytes_of(one[1])))
            del one  # it may be large
        if not under_way:
            return
        yield under_way.popleft()[0].result()


def _bytes_of(image: ImageInput) -> int:
    """What an image in memory takes."""
    return image.nbytes if isinstance(image, np.ndarray) else len(image) if isinstance(image, bytes) else 0
