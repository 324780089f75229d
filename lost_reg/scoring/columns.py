"""Boxes of very many images, in columns: as a source names its images, and in the rows of a dataset."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from lost_reg.boxes import IOU_THRESHOLD, paired_iou
from lost_reg.datasets.truths import Truths
from lost_reg.types import Box

NO_BOX = (0, 0, 0, 0)  # overlaps nothing


@dataclass(frozen=True, eq=False)
class Columns:
    """The boxes of N images, by the source's names for them.

    boxes_xyxy: (N, 4) float, or (N, S, 4) of the S settings of a sweep; an empty box where nothing was found.
    sizes_hw: (N, 2) int, 0 where the source does not record it.
    failures: the images that could not be used.
    """

    names: Sequence[str]
    boxes_xyxy: np.ndarray
    sizes_hw: np.ndarray
    failures: Sequence[str] = ()

    @classmethod
    def of_boxes(cls, boxes: Mapping[str, Box | None]) -> Columns:
        """Boxes of images whose sizes are not known."""
        sides = np.array([box or NO_BOX for box in boxes.values()], float).reshape(-1, 4)
        return cls(list(boxes), sides, np.zeros((len(boxes), 2), int))

    @classmethod
    def of_outcomes(cls, outcomes: Iterable[Any], failures: Iterable[str]) -> Columns:
        """Those of a stream of a run's `Prediction` or of a sweep's `SweptImage`, which are not kept.

        Of several outcomes of one image, the last counts. Failures of images that have an outcome do not.
        """
        names: list[str] = []
        boxes, sizes = array("d"), array("q")
        for one in outcomes:
            names.append(one.image)
            found = one.boxes_xyxy if hasattr(one, "boxes_xyxy") else (one.box_xyxy,)
            boxes.extend(chain.from_iterable(box or NO_BOX for box in found))
            sizes.extend(one.size_hw)
        shape = (len(names), -1, 4) if len(boxes) != 4 * len(names) else (-1, 4)
        columns = cls(names, np.frombuffer(boxes).reshape(shape), np.array(sizes, int).reshape(-1, 2))
        return columns._without_repeats(failures)

    def _without_repeats(self, failures: Iterable[str]) -> Columns:
        known = set(self.names)
        failed = list(dict.fromkeys(name for name in failures if name not in known))
        if len(known) == len(self.names):
            return Columns(self.names, self.boxes_xyxy, self.sizes_hw, failed)
        last = {name: row for row, name in enumerate(self.names)}
        rows = list(last.values())
        return Columns(list(last), self.boxes_xyxy[rows], self.sizes_hw[rows], failed)


@dataclass(frozen=True, eq=False)
class AlignedBoxes:
    """The boxes of the N images of a dataset, in the order of its truths.

    boxes_xyxy: (N, 4) or (N, S, 4), see `Columns`.
    done: (N,) bool, which images were processed or failed. failed: (N,) bool, which could not be used.
    sizes_hw: (N, 2) int, as recorded by the source; 0 where it does not.
    names: the source's names, by that of the dataset, of images that have another one there.
    """

    boxes_xyxy: np.ndarray
    done: np.ndarray
    failed: np.ndarray
    sizes_hw: np.ndarray
    names: Mapping[str, str]

    @classmethod
    def align(
        cls, columns: Columns, truths: Truths, images: Sequence[str | None], failures: Sequence[str | None]
    ) -> AlignedBoxes:
        """Put columns into the rows of a dataset.

        Args:
            images, failures: what the dataset calls the images and the failures; None for those left out.
        """
        found = [index for index, image in enumerate(images) if image is not None]
        rows = [truths.rows[image] for image in images if image is not None]
        boxes = np.zeros((len(truths), *columns.boxes_xyxy.shape[1:]))
        sizes = np.zeros((len(truths), 2), int)
        processed, failed = np.zeros((2, len(truths)), bool)
        boxes[rows], sizes[rows], processed[rows] = columns.boxes_xyxy[found], columns.sizes_hw[found], True
        failed[[truths.rows[image] for image in failures if image is not None]] = True
        failed &= ~processed
        both = chain(zip(failures, columns.failures), zip(images, columns.names))  # the latter win
        names = {image: name for image, name in both if image is not None}
        other = {image: name for image, name in names.items() if image != name}
        return cls(boxes, processed | failed, failed, sizes, other)

    def of_other_size(self, truths: Truths) -> int:
        """How many images have another recorded size than the annotated one."""
        differ = (self.sizes_hw != truths.sizes_hw).any(axis=1)
        return int(np.count_nonzero(differ & (self.sizes_hw[:, 0] > 0)))


def matching_objects(boxes_xyxy: np.ndarray, truths: Truths) -> np.ndarray:
    """(M,) bool: which of the M true objects have IoU >= 0.5 with the box of their image, of (N, 4) boxes."""
    return paired_iou(boxes_xyxy[truths.image_of], truths.boxes_xyxy) >= IOU_THRESHOLD


def found_images(boxes_xyxy: np.ndarray, truths: Truths) -> np.ndarray:
    """(N,) bool: in which images one of (N, 4) boxes has IoU >= 0.5 with any of the image's objects."""
    return any_of_image(matching_objects(boxes_xyxy, truths), truths)


def any_of_image(objects: np.ndarray, truths: Truths) -> np.ndarray:
    """(N,) bool: which images have any of the objects that are marked, (M,) bool."""
    found = np.zeros(len(truths), bool)
    found[truths.image_of[objects]] = True
    return found


def with_objects(truths: Truths) -> np.ndarray:
    """(N,) bool: which images have an object."""
    return np.diff(truths.starts) > 0
