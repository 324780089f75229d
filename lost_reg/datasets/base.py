"""Datasets, and the rows of the table of datasets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.types import ImageTruth, Mask

DATA_ROOT_VARIABLE = "LOST_REG_DATA"


@dataclass(frozen=True)
class Dataset:
    """A dataset on this machine.

    root: the folder that `images` are relative to.
    full_size: how many images the full split has, or None for a user's own dataset.
    load_truths: reads the ground truth; called once, on first use.
    masks_of: reads the masks of an image's objects, by its name, in the order of their boxes. It raises
        LostRegError for a malformed one. None for a dataset without masks.
    label: how it is shown; by default the last part of its name.
    """

    name: str
    split: str
    root: Path
    images: tuple[str, ...]
    full_size: int | None
    load_truths: Callable[[], list[ImageTruth]]
    masks_of: Callable[[str], tuple[Mask, ...]] | None = None
    label: str | None = None

    @property
    def title(self) -> str:
        """A short name for display: its label, or the last part of a path."""
        return self.label or Path(self.name).name

    @cached_property
    def truths(self) -> dict[str, ImageTruth]:
        """The ground truth of each image, by its name.

        Raises:
            LostRegError: annotations that are missing or malformed.
        """
        return {truth.image: truth for truth in self.load_truths()}

    @property
    def is_full(self) -> bool:
        """Whether this is the whole split that published numbers refer to."""
        return self.full_size == len(self.images)


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of the table.

    folder: its path below the data root.
    split, images: the split that is scored, and how many images the full one has.
    about: one line for `lost-reg datasets`.
    find: (spec, data root) -> Dataset; raises `not_found` if it is missing.
    can_download: whether `acquire.py` can download it.
    """

    name: str
    folder: str
    split: str
    images: int
    about: str
    find: Callable[[DatasetSpec, Path], Dataset]
    can_download: bool = False


def not_found(spec: DatasetSpec, looked_for: Path, root: Path) -> LostRegError:
    """The error for a dataset that is not on this machine."""
    how_to_get = (
        f"`lost-reg datasets --download {spec.name} --data-root {root}` gets it"
        if spec.can_download
        else "it comes with the project's checkout, in its data folder"
    )
    return LostRegError(
        f"{spec.name} is not there: looked for {looked_for} (the data root is {root}, set by `data_root` "
        f"or {DATA_ROOT_VARIABLE}); {how_to_get}"
    )
