"""Labels of pixels: reading and checking those of a dataset, and drawing views that a head learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lost_reg.datasets.pixel_labels import NYU_HW, LabelledImage, PixelDataset
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.reading import read_values
from lost_reg.images.sizes import sizes_or_reasons
from lost_reg.probing.dense_options import MIN_DEPTH, DenseOptions, DenseTask
from lost_reg.probing.dense_views import Pixels, View, draw_views
from lost_reg.progress import Progress, no_progress
from lost_reg.text import counted
from lost_reg.types import SizeHW

PIXELS = 1024  # that are drawn from a view of a training image
MOST_CLASSES = 2**12
_IGNORED = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of a dataset; `classes` is their number, None for depths and while it is unknown."""

    data: PixelDataset
    task: DenseTask
    options: DenseOptions
    classes: int | None

    def read(self, one: LabelledImage, size_hw: SizeHW | None = None) -> Pixels:
        """All labelled pixels of an image.

        Args:
            size_hw: that its image has, to check.

        Raises:
            LostRegError: a file that cannot be read, that has another size than its image, or values that are
                no labels of the task.
        """
        try:
            values = read_values(one.labels)
        except UnreadableImage as error:
            raise LostRegError(f"{one.labels}: {error}") from None
        if size_hw is not None and values.shape != size_hw:
            sizes = [f"{width} x {height}" for height, width in (values.shape, size_hw)]
            raise LostRegError(f"{one.labels} has {sizes[0]} pixels, but its image has {sizes[1]}")
        labels = (self._classes if self.task == "segmentation" else self._depths)(values, one)
        if self.data.scored:
            if values.shape != NYU_HW:
                raise LostRegError(f"{one.labels} does not have the 640 x 480 pixels of NYUd")
            outside = np.ones(labels.shape, bool)
            outside[self.data.scored] = False
            labels[outside] = np.nan
        places = np.flatnonzero(~np.isnan(labels)).astype(np.int32)
        return Pixels(values.shape[1], places, labels.ravel()[places])

    def _classes(self, values: np.ndarray, one: LabelledImage) -> np.ndarray:
        labels = values.astype(np.float32) - self.data.first
        labels[(values == _IGNORED[values.dtype]) | (labels < 0)] = np.nan
        largest, most = np.nanmax(labels, initial=-1), self.classes or MOST_CLASSES
        if largest >= most:
            label = f"{largest + self.data.first:.0f}"
            raise LostRegError(
                f"{one.labels} has the label {label}: expected at most {counted(most, 'class')}"
            )
        return labels

    def _depths(self, values: np.ndarray, one: LabelledImage) -> np.ndarray:
        if values.dtype != np.uint16:
            raise LostRegError(f"{one.labels} has 8 bits a pixel: expected depths of 16 bits")
        depths = values / np.float32(self.options.depth_scale)
        depths[(depths <= MIN_DEPTH) | (depths >= self.options.max_depth)] = np.nan
        return depths


def read_all(
    reader: LabelReader, progress: Progress = no_progress, *, workers: int | None = None
) -> tuple[LabelReader, list[View]]:
    """Read the labels of all images once, so that what is wrong with them is said first.

    Args:
        workers: see `sizes_or_reasons`.

    Returns:
        The reader, which knows the number of classes now, and the views of all training images, each with at
        most PIXELS pixels.

    Raises:
        LostRegError: see `LabelReader.read`; no labels, or one class only.
    """
    train, test, options = reader.data.train, reader.data.test, reader.options
    total = len(train) + len(test)
    views: list[View] = []
    met: set[int] = set()
    for number, (pixels, size_hw) in enumerate(_read(reader, train, workers)):
        if reader.task == "segmentation":
            met.update(np.unique(pixels.labels).astype(int).tolist())
        seed = (options.seed, number)
        views += draw_views(train[number].name, size_hw, pixels, reader.task, options.views, PIXELS, seed)
        progress(number + 1, 0, total)
    if not any(len(view.pixels.places) for view in views):
        raise LostRegError(f"no pixel of {reader.data.name} that can be learned from has {_wanted(reader)}")
    if reader.task == "segmentation" and len(met) < 2:
        raise LostRegError(f"all training labels of {reader.data.name} are of one class, {min(met)}")
    labelled = 0
    for number, (pixels, _) in enumerate(_read(reader, test, workers), start=len(train)):
        if reader.task == "segmentation":
            met.update(np.unique(pixels.labels).astype(int).tolist())
        labelled += len(pixels.places)
        progress(number + 1, 0, total)
    if not labelled:
        raise LostRegError(f"no pixel of {reader.data.name} that can be scored has {_wanted(reader)}")
    if reader.task == "segmentation":
        reader = replace(reader, classes=reader.classes or max(met) + 1)
    return reader, views


def _wanted(reader: LabelReader) -> str:
    if reader.task == "segmentation":
        return "a class"
    return f"a depth between {MIN_DEPTH:g} and {reader.options.max_depth:g} m: is `depth_scale` right?"


def _read(
    reader: LabelReader, images: Sequence[LabelledImage], workers: int | None
) -> Iterator[tuple[Pixels, SizeHW | None]]:
    for one, size_hw in zip(images, sizes_or_reasons((one.image for one in images), workers=workers)):
        known = None if isinstance(size_hw, str) else (size_hw[0], size_hw[1])
        yield reader.read(one, known), known
