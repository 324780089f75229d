"""Reads the page's images: those of a folder, by number, and uploaded files; decoded in another process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.batching import DecodedImage
from lost_reg.images.colours import WHITE, background_of
from lost_reg.images.decoder_process import SECONDS_PER_IMAGE, DecoderProcess, watched
from lost_reg.images.decoding import Decoding
from lost_reg.images.reading import scaled
from lost_reg.images.sources import ImageFiles, list_images
from lost_reg.runs.image_folder import ImageFolder
from lost_reg.types import Failure

Scale = tuple[int | None, int | None]  # `max_side` and `square` of `FeatureConfig`


@dataclass(frozen=True)
class PageImage:
    """An image of the page, unpadded, in each of the sizes that its settings take.

    original_hw: in pixels, before any scaling. note: see `DecodedImage`.
    """

    name: str
    original_hw: tuple[int, int]
    note: str | None
    at: Mapping[Scale, DecodedImage]


def page_image(image: DecodedImage, scales: Iterable[Scale]) -> PageImage:
    """A decoded image in these sizes, as a run scales it."""
    at = {}
    for scale in scales:
        pixels = scaled(image.pixels, *scale)
        at[scale] = replace(image, pixels=pixels, size_hw=pixels.shape[:2])
    return PageImage(image.name, image.original_hw, image.note, at)


class Reader:
    """The images that the inputs name, and a process that decodes; close it at the end.

    What a browser sends is never a path into the inputs: their images go by number. The process is the one
    that runs use, with its limits on memory and time, and is replaced if a file crashes it. Images come in
    their own size: `page_image` scales them, and `OneImage` pads them for the patches of each backbone.

    files: the images of the inputs; None without inputs.

    Args:
        background: the colour under transparent images, see `read_image`.

    Raises:
        LostRegError: an input that does not exist, or contains no images; a colour that is none.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path] = (),
        *,
        background: str | None = WHITE,
        follow_links: bool = False,
    ):
        colour = background and background_of(background)
        self.files: ImageFiles | None = list_images(inputs) if inputs else None
        self._folder = ImageFolder(self.files.root, follow_links) if self.files else None
        decoding = Decoding(True, None, 1, None, colour)
        self._process, self._lock = DecoderProcess(decoding, SECONDS_PER_IMAGE), threading.Lock()
        self._open = ExitStack()
        self._open.enter_context(watched([self._process]))

    @property
    def count(self) -> int:
        """How many images the inputs have."""
        return len(self.files.names) if self.files else 0

    def listed(self, index: int) -> DecodedImage:
        """An image of the inputs, from 0.

        Raises:
            LostRegError: there is none of this number; it is gone, a link out of its folder, or no image.
        """
        if not 0 <= index < self.count:
            raise LostRegError(f"there is no image {index + 1}: there are {self.count:,}")
        name = self.files.names[index]
        path = self._folder.find(name)
        if path is None:
            raise LostRegError(f"{name}: no such file")
        return self._decoded(name, path)

    def uploaded(self, path: str | Path) -> DecodedImage:
        """An uploaded file, under its own name.

        Raises:
            UnreadableImage: it is no image, or a damaged one.
        """
        return self._decoded(Path(path).name, Path(path))

    def _decoded(self, name: str, path: Path) -> DecodedImage:
        with self._lock:
            image = self._process.decode(name, path)
        if isinstance(image, Failure):
            raise UnreadableImage(f"{name}: {image.reason}")
        return image

    def close(self) -> None:
        """End the process."""
        self._open.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
