"""The images of predictions: where their pixels are, so that a prediction can be drawn on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lost_reg.errors import UnreadableImage
from lost_reg.images.decoding import ImageInput
from lost_reg.images.reading import array_to_rgb, read_image
from lost_reg.runs.options import LoaderOptions


@dataclass(frozen=True, eq=False)
class ImageSource:
    """An image as it was given to `discover`: a path, or an array that is held in memory.

    loader: how a file is read.
    """

    given: ImageInput
    loader: LoaderOptions

    def read(self, size_hw: tuple[int, int]) -> Image.Image:
        """Its pixels.

        Args:
            size_hw: that it had when it was searched.

        Raises:
            UnreadableImage: a file that is gone, cannot be decoded, or has another size by now; says why.
        """
        if isinstance(self.given, np.ndarray):
            return Image.fromarray(array_to_rgb(self.given))
        content = self.given if isinstance(self.given, bytes) else Path(self.given)
        pixels = read_image(content, apply_exif=self.loader.apply_exif, background=self.loader.background)
        if pixels.shape[:2] != tuple(size_hw):
            raise UnreadableImage("its size has changed since it was searched")
        return Image.fromarray(pixels)
