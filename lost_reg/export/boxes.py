"""Which boxes of a run are exported, and what is known about each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lost_reg.errors import LostRegError
from lost_reg.plausibility import Signals, implausible, signals
from lost_reg.types import Box, Mask, Prediction

COLUMNS = (
    *("image", "width", "height", "object", "xmin", "ymin", "xmax", "ymax"),
    *("area", "degree", "score", "borders", "implausible"),
)
_LIMITS = {  # the signal that each limit applies to, and its range
    "min_area": ("area", 0, 1),
    "max_area": ("area", 0, 1),
    "max_degree": ("degree", 0, 1),
    "min_score": ("score", -math.inf, math.inf),
    "max_borders": ("borders", 0, 4),
}


@dataclass(frozen=True)
class ExportedBox:
    """One box.

    index: its number among the objects of its image, from 0.
    implausible: which of `plausibility.IMPLAUSIBLE` it is, or None.
    mask: the object's; None if the run kept none.
    label: its class; None without classes.
    """

    index: int
    xyxy: Box
    signals: Signals
    implausible: str | None
    mask: Mask | None = None
    label: str | None = None


@dataclass(frozen=True)
class ExportedImage:
    """An image and its exported boxes, at least one."""

    name: str
    size_hw: tuple[int, int]
    boxes: tuple[ExportedBox, ...]


@dataclass(frozen=True)
class Filters:
    """Which boxes are left out; a limit of None leaves out none.

    drop_implausible: leave out boxes with implausible shapes.
    min_area, max_area, max_degree, min_score, max_borders: inclusive limits on the box's `Signals`.
    """

    drop_implausible: bool = False
    min_area: float | None = None
    max_area: float | None = None
    max_degree: float | None = None
    min_score: float | None = None
    max_borders: int | None = None

    def __post_init__(self) -> None:
        """Raises LostRegError for a limit that is out of range."""
        for name, (_, least, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # also refuses NaN
                within = f" from {least} to {most}" if math.isfinite(most) else ""
                raise LostRegError(f"expected `{name}` to be a number{within}, but got {value}")

    def dropped_for(self, box: ExportedBox) -> str | None:
        """The first reason to leave a box out, or None.

        Raises:
            LostRegError: a limit on a signal that the run's method does not provide.
        """
        if self.drop_implausible and box.implausible:
            return box.implausible
        for name, (signal, *_) in _LIMITS.items():
            limit, value = getattr(self, name), getattr(box.signals, signal)
            if limit is None:
                continue
            if value is None:
                raise LostRegError(f"the method of the run gives no {signal}: leave out `{name}`")
            if name.startswith("min") and value < limit:
                return f"{signal} below {limit:g}"
            if name.startswith("max") and value > limit:
                return f"{signal} above {limit:g}"
        return None


@dataclass
class Tally:
    """How many images and boxes a selection contains, and what it leaves out.

    implausible: how many of its boxes are of each implausible kind.
    dropped: how many boxes were left out, by reason.
    without_box: images with no box left, or none found.
    """

    images: int = 0
    boxes: int = 0
    implausible: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    without_box: int = 0


class Selection:
    """The boxes that pass the filters. It can be iterated over repeatedly, and stores no boxes itself."""

    def __init__(self, predictions: Iterable[Prediction], filters: Filters):
        self._predictions, self._filters = predictions, filters

    def __iter__(self) -> Iterator[ExportedImage]:
        for prediction in self._predictions:
            boxes = tuple(box for box in boxes_of(prediction) if not self._filters.dropped_for(box))
            if boxes:
                yield ExportedImage(prediction.image, prediction.size_hw, boxes)

    def without_box(self) -> list[str]:
        """The images of which no box passes the filters."""
        with_box = {image.name for image in self}
        return [one.image for one in self._predictions if one.image not in with_box]

    def tally(self) -> Tally:
        """Count everything in one pass."""
        tally = Tally()
        for prediction in self._predictions:
            kept = 0
            for box in boxes_of(prediction):
                if reason := self._filters.dropped_for(box):
                    tally.dropped[reason] += 1
                    continue
                kept += 1
                tally.implausible.update([box.implausible] if box.implausible else [])
            tally.boxes += kept
            tally.images += kept > 0
            tally.without_box += not kept
        return tally


def boxes_of(prediction: Prediction) -> Iterator[ExportedBox]:
    """All boxes of an image, in the order in which they were found."""
    for index, found in enumerate(prediction.objects):
        kind = implausible(found.box_xyxy, prediction.size_hw, prediction.grid_hw)
        yield ExportedBox(index, found.box_xyxy, signals(found, prediction), kind, found.mask, found.label)


def row(image: ExportedImage, box: ExportedBox) -> tuple[object, ...]:
    """The row of a box in a table, in the order of COLUMNS."""
    (height, width), known = image.size_hw, box.signals
    return (
        *(image.name, width, height, box.index, *box.xyxy),
        *(known.area, known.degree, known.score, known.borders, box.implausible),
    )
