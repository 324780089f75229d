"""The ground truth of very many images, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lost_reg.types import Box, ImageTruth, SizeHW


@dataclass(frozen=True, eq=False)
class Truths(Mapping[str, ImageTruth]):
    """The ground truth of N images with M objects: a mapping from names to `ImageTruth`, made when asked for.

    names, ids: of each image, (N,).
    sizes_hw: (N, 2) int, 0 where the annotations do not give it.
    starts: (N + 1,) int; the objects of image i are those from starts[i] up to starts[i + 1].
    boxes_xyxy: (M, 4) float. labels: (M,) int, the place of each object's class in `classes`.
    hard, difficult: (M,) bool, see `ImageTruth`; `difficult` is None in datasets without such marks.
    """

    names: Sequence[str]
    ids: Sequence[str]
    sizes_hw: np.ndarray
    starts: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    hard: np.ndarray
    difficult: np.ndarray | None = None

    @classmethod
    def of(cls, images: Iterable[ImageTruth]) -> Truths:
        """The same images as columns; of several with one name, the last counts."""
        by_name = {one.image: one for one in images}
        per_image = list(by_name.values())
        counts = [len(one.boxes_xyxy) for one in per_image]
        classes: dict[str, int] = {}
        labels = [classes.setdefault(label, len(classes)) for one in per_image for label in one.labels]
        boxes = [box for one in per_image for box in one.boxes_xyxy]
        difficult = [mark for one in per_image for mark in one.difficult or (False,) * len(one.boxes_xyxy)]
        return cls(
            names=list(by_name),
            ids=[one.image_id for one in per_image],
            sizes_hw=np.array([one.size_hw or (0, 0) for one in per_image], int).reshape(-1, 2),
            starts=np.cumsum([0, *counts]),
            boxes_xyxy=np.array(boxes, float).reshape(-1, 4),
            labels=np.array(labels, int),
            classes=list(classes),
            hard=np.array([mark for one in per_image for mark in one.hard], bool),
            difficult=np.array(difficult, bool) if any(one.difficult for one in per_image) else None,
        )

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each image, by name."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def image_of(self) -> np.ndarray:
        """(M,) int: the row of each object's image."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.starts))

    @property
    def is_sized(self) -> np.ndarray:
        """(N,) bool: whether the size of each image is known."""
        return self.sizes_hw[:, 0] > 0

    def counting(self, count_hard: bool = True) -> Truths:
        """The objects that count: all of them, or those that are not marked as hard."""
        if count_hard or not self.hard.any():
            return self
        kept = ~self.hard
        before = np.concatenate([[0], np.cumsum(kept)])  # how many are kept before each object
        return replace(
            self,
            starts=before[self.starts],
            boxes_xyxy=self.boxes_xyxy[kept],
            labels=self.labels[kept],
            hard=self.hard[kept],
            difficult=None if self.difficult is None else self.difficult[kept],
        )

    def with_sizes(self, sizes_hw: Mapping[str, SizeHW | None]) -> Truths:
        """The same with other sizes of the named images."""
        sizes = self.sizes_hw.copy()
        for name, size in sizes_hw.items():
            if name in self.rows:
                sizes[self.rows[name]] = size or (0, 0)
        return replace(self, sizes_hw=sizes)

    def __getitem__(self, name: str) -> ImageTruth:
        return self._at(self.rows[name])

    def _at(self, row: int) -> ImageTruth:
        own = slice(*self.starts[row : row + 2].tolist())
        height, width = self.sizes_hw[row].tolist()
        return ImageTruth(
            image=self.names[row],
            image_id=self.ids[row],
            size_hw=(height, width) if height else None,
            boxes_xyxy=tuple(_box(box) for box in self.boxes_xyxy[own].tolist()),
            labels=tuple(self.classes[label] for label in self.labels[own].tolist()),
            hard=tuple(self.hard[own].tolist()),
            difficult=() if self.difficult is None else tuple(self.difficult[own].tolist()),
        )

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _box(sides: list[float]) -> Box:
    """Whole numbers as int, as most annotations have them."""
    xmin, ymin, xmax, ymax = (int(side) if side.is_integer() else side for side in sides)
    return xmin, ymin, xmax, ymax
