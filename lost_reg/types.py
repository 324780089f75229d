"""The frozen types that the subpackages share.

Boxes are [xmin, ymin, xmax, ymax], half-open, in pixels of the original image. Sizes and grids are
(height, width): sizes in pixels, grids in patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from lost_reg.errors import one_line
from lost_reg.text import counted

_Finite = Annotated[float, Meta(ge=-1e15, le=1e15)]
_Whole = Annotated[int, Meta(ge=-(10**15), le=10**15)]  # exact as a float
_Side = Annotated[int, Meta(ge=1, le=10**9)]
_Index = Annotated[int, Meta(ge=0, le=10**9)]

Number = _Whole | _Finite
Box = tuple[Number, Number, Number, Number]
SizeHW = tuple[_Side, _Side]

AUTO = "auto"


@dataclass(frozen=True)
class Mask:
    """A binary mask on a grid of cells; `masks/grids.py` makes and reads it.

    size_hw: rows and columns of cells: the patches of the grid, or the pixels of a refined mask.
    counts: the runs of cells outside and inside, column by column, in COCO's compressed encoding.
    spans_hw: the height and width that the grid covers from the image's upper left corner, in pixels of the
        original image. A grid of patches covers the padding, too, so it can reach beyond the image.
    """

    size_hw: SizeHW
    counts: str
    spans_hw: tuple[Annotated[float, Meta(gt=0, le=1e15)], Annotated[float, Meta(gt=0, le=1e15)]]


@dataclass(frozen=True)
class FoundObject:
    """One object found in an image.

    box_xyxy: in pixels of the original image.
    score: the method's confidence, higher is better; None for a method without one. LOST's is the mean
        cosine between the seed's feature and those of the patches in the box.
    seed: (row, column) in the patch grid of the patch that the object was grown from.
    details: further numbers from the method, such as LOST's {"degree": 12, "positive_share": 0.4}.
    mask: which patches, or pixels, it consists of; None if it was not kept.
    label: its class: the name of a cluster, or of a class that a detector was trained on; None without
        classes.
    """

    box_xyxy: Box
    score: _Finite | None
    seed: tuple[_Index, _Index]
    details: dict[str, Number] = field(default_factory=dict)
    mask: Mask | None = None
    label: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    image: its name: the path relative to the input root, with forward slashes.
    objects: in the order in which they were found; none if nothing was found.
    note: what was tolerated in its file, such as "without its end marker"; None if nothing was.
    """

    image: str
    size_hw: SizeHW
    grid_hw: SizeHW
    objects: tuple[FoundObject, ...]
    note: str | None = None

    def __repr__(self) -> str:
        """One line for a person, such as "<Prediction 'a.jpg', 128 x 96 pixels: 2 objects, first ...>"."""
        height, width = self.size_hw
        found = counted(len(self.objects), "object") if self.objects else "nothing found"
        if self.objects:
            first = self.objects[0]
            corners = ", ".join(f"{side:g}" for side in first.box_xyxy)
            score = "" if first.score is None else f", score {first.score:g}"
            found += f", first ({corners}){score}"
        return f"<Prediction {one_line(self.image)!r}, {width} x {height} pixels: {found}>"

    @property
    def box_xyxy(self) -> Box | None:
        """The first object's box, which CorLoc scores; None if nothing was found."""
        return self.objects[0].box_xyxy if self.objects else None


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, or gave no usable features, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class ImageTruth:
    """The ground truth of one image.

    image: its name, relative to the dataset's image folder.
    image_id: the dataset's own ID for it ("000005" in VOC, "139" in COCO).
    size_hw: in pixels; None if the annotations do not give it.
    boxes_xyxy: of all objects that count in scoring; labels: their classes.
    hard: whether VOC marks each as difficult or truncated.
    difficult: whether as difficult; empty in datasets without such marks.
    """

    image: str
    image_id: str
    size_hw: SizeHW | None
    boxes_xyxy: tuple[Box, ...]
    labels: tuple[str, ...]
    hard: tuple[bool, ...]
    difficult: tuple[bool, ...] = ()
