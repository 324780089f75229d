"""The frozen types that pass between the stages.

Boxes are [xmin, ymin, xmax, ymax], half-open, in pixels of the original image; sizes and grids are
(height, width), in pixels and in patches.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lost_reg.errors import LostRegError

Box = tuple[float, float, float, float]
AUTO = "auto"


@dataclass(frozen=True)
class Protocol:
    """How features are taken and LOST is run on them; the defaults are LOST as published.

    facet: "k", "q" or "v", the part of the qkv layer's output.
    layer: the block it is taken from; negative counts from the last.
    center: whether the image's mean patch feature is subtracted, before anything else is done.
    normalize: whether features are L2-normalised.
    bias: added to the Gram matrix, in units of the image's mean squared feature norm (which is 1
        for normalised features); "auto" finds one in each image (see `bias.py`).
    k_patches: LOST's k.
    max_side: images are scaled down to this longest side, in pixels; None is native resolution.
    max_objects: how many objects are found in an image at most (see `objects.py`); the first is LOST's one.
    """

    facet: str = "k"
    layer: int = -1
    center: bool = False
    normalize: bool = False
    bias: float | str = 0.0
    k_patches: int = 100
    max_side: int | None = None
    max_objects: int = 1

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that no run can have."""
        if self.facet not in ("k", "q", "v"):
            raise LostRegError(f"unknown facet {self.facet!r}: choose among k, q, v")
        if self.bias != AUTO and not (isinstance(self.bias, (int, float)) and math.isfinite(self.bias)):
            raise LostRegError(f"expected a finite bias or {AUTO!r}, but got {self.bias}")
        if self.k_patches < 1:
            raise LostRegError(f"expected k_patches of at least 1, but got {self.k_patches}")
        if self.max_side is not None and self.max_side < 1:
            raise LostRegError(f"expected a max_side of at least 1 pixel, but got {self.max_side}")
        if self.max_objects < 1:
            raise LostRegError(f"expected max_objects of at least 1, but got {self.max_objects}")

    def recorded(self) -> dict[str, Any]:
        """What results say of it: without max_objects where that is 1, as in those of earlier versions."""
        values = asdict(self)
        if self.max_objects == 1:
            del values["max_objects"]
        return values


@dataclass(frozen=True)
class FoundObject:
    """One object that was found in an image.

    seed: (row, column) of the seed in the patch grid.
    degree: the seed's degree; of a further object, among the patches that no earlier one had taken.
    affinity: mean cosine between the seed's feature and those of the patches in the box; None where it was
        not recorded, as in results of earlier versions.
    """

    box_xyxy: Box
    seed: tuple[int, int]
    degree: int
    affinity: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The object found in one image, and further ones if they were asked for.

    image: its name: the path relative to the input root, with forward slashes.
    seed, degree, affinity: see `FoundObject`.
    further: other objects, in the order in which they were found.
    """

    image: str
    size_hw: tuple[int, int]
    box_xyxy: Box
    seed: tuple[int, int]
    grid_hw: tuple[int, int]
    degree: int
    affinity: float | None = None
    further: tuple[FoundObject, ...] = ()

    @property
    def objects(self) -> tuple[FoundObject, ...]:
        """All that was found, in order; LOST's one object first."""
        return (FoundObject(self.box_xyxy, self.seed, self.degree, self.affinity), *self.further)


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, or gave no usable features, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class ImageTruth:
    """The ground truth of one image.

    image: its name, relative to the dataset's image folder.
    image_id: how the dataset calls it ("000005" in VOC, "139" in COCO).
    boxes_xyxy: every object that counts; labels: their classes.
    hard: which of them VOC marks as difficult or truncated.
    """

    image: str
    image_id: str
    size_hw: tuple[int, int]
    boxes_xyxy: tuple[Box, ...]
    labels: tuple[str, ...]
    hard: tuple[bool, ...]
