"""Views of the training images of dense tasks: each image itself, and random crops of it.

DINOv2's heads learn from images that are scaled at random, cropped and mirrored, anew in each step. Views are
drawn once, so that the tokens of each can be cached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import pad_to_patches, patches_of, scaled_size
from lost_reg.probing.dense_options import DenseTask
from lost_reg.types import SizeHW

# The smallest sides of a crop, as a share of the image's. DINOv2 enlarges images for segmentation up to
# twofold and cuts out a square; for depth, it cuts 544 x 416 out of 640 x 480 pixels, and does not scale.
_SMALLEST: dict[DenseTask, float] = {"segmentation": 0.5, "depth": 0.85}


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels of an image, or of a crop, of `width` columns.

    places: (S,) int32, row * width + column. labels: (S,) float32, classes from 0 or depths in metres.
    """

    width: int
    places: np.ndarray
    labels: np.ndarray

    def drawn(self, most: int, random: np.random.Generator) -> Pixels:
        """At most so many of them, each as likely."""
        if len(self.places) <= most:
            return self
        chosen = random.choice(len(self.places), most, replace=False, shuffle=False)
        return Pixels(self.width, self.places[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in pixels.

    mirrored: whether left and right are exchanged. enlarged: whether it is scaled to the size of the whole
        image. Depths are not: what is enlarged looks nearer than its label says.
    """

    top: int
    left: int
    size_hw: SizeHW
    mirrored: bool
    enlarged: bool

    @classmethod
    def draw(cls, size_hw: SizeHW, task: DenseTask, random: np.random.Generator) -> Crop:
        """A crop with an image's aspect ratio, anywhere in it; half of all are mirrored."""
        share = random.uniform(_SMALLEST[task], 1)
        height, width = (max(1, round(share * side)) for side in size_hw)
        top, left = random.integers(size_hw[0] - height + 1), random.integers(size_hw[1] - width + 1)
        is_mirrored = bool(random.random() < 0.5)
        return cls(int(top), int(left), (height, width), is_mirrored, task == "segmentation")

    def pixels(self, whole: Pixels) -> Pixels:
        """Those of the whole image's pixels that are in it."""
        rows, columns = np.divmod(whole.places, whole.width)
        rows, columns = rows - self.top, columns - self.left
        height, width = self.size_hw
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        if self.mirrored:
            columns = width - 1 - columns
        return Pixels(width, (rows * width + columns)[inside], whole.labels[inside])

    def scaled_hw(self, original_hw: SizeHW, scaled_hw: SizeHW) -> SizeHW:
        """Its size, if the whole image is scaled from one size to another."""
        if self.enlarged:
            return scaled_hw
        height, width = (
            max(1, round(side * scaled / original))
            for side, original, scaled in zip(self.size_hw, original_hw, scaled_hw)
        )
        return height, width

    def image(self, whole: DecodedImage, patch_size: int) -> DecodedImage:
        """Cut it out of a decoded image, bicubically, and pad it to whole patches."""
        height, width = whole.size_hw
        columns, rows = (
            [place * scaled / original for place in (start, start + side)]
            for start, side, scaled, original in (
                (self.left, self.size_hw[1], width, whole.original_hw[1]),
                (self.top, self.size_hw[0], height, whole.original_hw[0]),
            )
        )
        size_hw = self.scaled_hw(whole.original_hw, whole.size_hw)
        image = Image.fromarray(whole.pixels[:height, :width])
        pixels = np.asarray(
            image.resize(
                size_hw[::-1], Image.Resampling.BICUBIC, box=(columns[0], rows[0], columns[1], rows[1])
            )
        )
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return DecodedImage(whole.name, pad_to_patches(pixels, patch_size), size_hw, self.size_hw)


@dataclass(frozen=True)
class View:
    """A training image, or a crop of it, and the labelled pixels that are learned from.

    name: that of the image for the whole, and longer for a crop. image: the name of the image.
    size_hw: of the whole image, in pixels; None if its header cannot be read.
    """

    name: str
    image: str
    size_hw: SizeHW | None
    crop: Crop | None
    pixels: Pixels

    def of(self, whole: DecodedImage, patch_size: int) -> DecodedImage:
        """What the backbone sees, under the view's name."""
        seen = self.crop.image(whole, patch_size) if self.crop else whole
        return replace(seen, name=self.name)

    def tokens(self, max_side: int | None, patch_size: int, prefix: int) -> int:
        """How many tokens it has, after `prefix` tokens that are no patches; 0 if its size is not known."""
        if self.size_hw is None:
            return 0
        scaled_hw = scaled_size(self.size_hw, max_side)
        seen_hw = self.crop.scaled_hw(self.size_hw, scaled_hw) if self.crop else scaled_hw
        return prefix + patches_of(seen_hw, patch_size)


def draw_views(
    image: str,
    size_hw: SizeHW | None,
    labelled: Pixels,
    task: DenseTask,
    count: int,
    most: int,
    seed: Sequence[int],
) -> Iterator[View]:
    """The views of an image: the whole, and `count` - 1 crops, if its size is known.

    Args:
        labelled: all labelled pixels. most: how many of them a view has at most.
        seed: of the image.
    """
    yield View(image, image, size_hw, None, labelled.drawn(most, np.random.default_rng(seed)))
    for number in range(1, count if size_hw else 1):
        random = np.random.default_rng((*seed, number))
        crop = Crop.draw(size_hw, task, random)
        pixels = crop.pixels(labelled).drawn(most, random)
        yield View(f"{image} view {number}", image, size_hw, crop, pixels)
