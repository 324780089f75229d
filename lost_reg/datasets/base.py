"""Datasets, and the rows of the table of datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path

from lost_reg.datasets.image_paths import ListedFolder
from lost_reg.datasets.truths import Truths
from lost_reg.errors import LostRegError
from lost_reg.images.sizes import header_sizes
from lost_reg.text import agreeing, counted, shown_names
from lost_reg.types import ImageTruth, Mask, SizeHW

REFUSE, LEAVE_OUT = UNANNOTATED = ("refuse", "leave-out")  # what to do about images without annotations
DATA_ROOT_VARIABLE = "LOST_REG_DATA"


@dataclass(frozen=True)
class Dataset:
    """A dataset on this machine.

    root: the folder that `images` are relative to.
    full_size: how many images the full split has, or None for a user's own dataset.
    load_truths: reads the ground truth; called once, on first use.
    masks_of: reads the masks of an image's objects, in the order of their boxes. It raises LostRegError for a
        malformed one. None for a dataset without masks.
    label: how it is shown; by default the last part of its name.
    load_notes: reads what the user should know about the ground truth, such as annotations left out.
    unannotated: the images without annotations. One annotated as having no objects is not among them.
    left_out: the images that `annotated` left out.
    """

    name: str
    split: str
    root: Path
    images: tuple[str, ...]
    full_size: int | None
    load_truths: Callable[[], Truths]
    masks_of: Callable[[ImageTruth], tuple[Mask, ...]] | None = None
    label: str | None = None
    load_notes: Callable[[], tuple[str, ...]] = tuple
    unannotated: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """A short name for display: its label, or the last part of a path."""
        return self.label or Path(self.name).name

    @cached_property
    def truths(self) -> Truths:
        """The ground truth of each image, by its name.

        Raises:
            LostRegError: annotations that are missing or malformed.
        """
        self.check_annotated()
        return self.load_truths()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the ground truth; empty as a rule."""
        left_out = (f"{self._without(self.left_out)}: left out",) if self.left_out else ()
        return (*self.load_notes(), *left_out)

    @property
    def is_full(self) -> bool:
        """Whether this is the whole split that published numbers refer to."""
        return self.full_size == len(self.images)

    def check_annotated(self) -> None:
        """Raises LostRegError if an image has no annotations."""
        if self.unannotated:
            raise LostRegError(
                f"{self._without(self.unannotated)}: `unannotated` {LEAVE_OUT} scores the others"
            )

    def annotated(self) -> Dataset:
        """The dataset without the images that have no annotations.

        Raises:
            LostRegError: no image has any.
        """
        if not self.unannotated:
            return self
        left_out = frozenset(self.unannotated)
        images = tuple(name for name in self.images if name not in left_out)
        if not images:
            raise LostRegError(f"no image of {self.name} has annotations")
        return replace(self, images=images, unannotated=(), left_out=self.unannotated)

    def with_sizes(self, sizes_hw: Mapping[str, SizeHW], done: Iterable[str]) -> Dataset:
        """The dataset with the size of each image that was processed, where its annotations lack it.

        Args:
            sizes_hw: the sizes that a run recorded, by the dataset's names. Others are read from the images.
            done: the images that were processed. What is not an image that can be read stays without a size.

        Raises:
            LostRegError: a size that nothing gives, as the image is not there.
        """
        unsized = set(compress(self.truths.names, ~self.truths.is_sized))
        lacking = [name for name in done if name in unsized] if unsized else []
        if not lacking:
            return self
        sizes = {**self._sizes_in_files([name for name in lacking if name not in sizes_hw]), **sizes_hw}
        truths = self.truths.with_sizes(sizes)
        return replace(self, load_truths=lambda: truths)

    def _sizes_in_files(self, names: Sequence[str]) -> dict[str, SizeHW | None]:
        """None for an image that is damaged: a run cannot use it either."""
        folder = ListedFolder(self.root)
        for name in names:
            if not folder.has(name):
                raise LostRegError(
                    f"the size of {name} is not known: {self.name} does not give it, and the image is not in "
                    f"{self.root}; add its height and width, or the image"
                )
        return dict(zip(names, header_sizes(self.root / name for name in names)))

    def _without(self, names: tuple[str, ...]) -> str:
        total = len(self.images) + len(self.left_out)
        shown = f"{len(names):,} of {counted(total, 'image')} of {self.title}"
        return f"{shown} {agreeing(len(names), 'have')} no annotation ({shown_names(names)})"


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
    command = f"`lost-reg datasets --download {spec.name} --data-root {root}`"
    return LostRegError(
        f"{spec.name} is not there: looked for {looked_for} (the data root is {root}, set by `data_root` "
        f"or {DATA_ROOT_VARIABLE}); {command} gets it"
    )
