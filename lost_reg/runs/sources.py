"""Where the images of a run come from: a dataset, or the user's own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lost_reg.datasets.catalog import Dataset, missing_images
from lost_reg.errors import LostRegError
from lost_reg.files import absolute
from lost_reg.images.sources import STANDARD_INPUT, ImageFiles, Images
from lost_reg.text import counted, shown_names


@dataclass(frozen=True)
class Source:
    """The images of a run.

    apply_exif: False for datasets, as in LOST; True for a user's own photos.
    settings: what the results depend on.
    """

    images: Images
    apply_exif: bool
    settings: dict[str, Any]


def source_of_dataset(dataset: Dataset) -> Source:
    """The images of a dataset; all their files must exist.

    Raises:
        LostRegError: images whose files are missing.
    """
    missing = missing_images(dataset)
    if missing:
        complete = "put the others into that folder, or take them out of the annotations"
        get_rest = "`download` gets the rest" if dataset.full_size else complete
        total = len(dataset.images)
        raise LostRegError(
            f"{dataset.name} is incomplete: {total - len(missing):,} of {counted(total, 'image')} found in "
            f"{dataset.root}, without {shown_names(missing)}; {get_rest}"
        )
    settings = {"dataset": dataset.name, "split": dataset.split}
    return Source(ImageFiles(dataset.root, dataset.images), apply_exif=False, settings=settings)


def source_of_files(images: Images, inputs: Sequence[str]) -> Source:
    """The user's own images, and the inputs that named them."""
    settings = {
        "dataset": None,
        "split": None,
        "inputs": [text if text == STANDARD_INPUT else absolute(text) for text in inputs],
    }
    return Source(images, apply_exif=True, settings=settings)


def check_drawable(source: Source) -> None:
    """Check that pictures of a source's images can be drawn.

    Raises:
        LostRegError: they are in tar shards, or at an address.
    """
    if not source.images.are_files:
        raise LostRegError(
            "`visualize` needs image files on this machine, not tar shards or addresses: copy them here first"
        )
