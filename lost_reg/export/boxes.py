"""Which boxes of a run are exported, and what is known of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lost_reg.errors import LostRegError
from lost_reg.plausibility import Signals, implausible, signals
from lost_reg.types import Box, FoundObject, Prediction

COLUMNS = (
    *("image", "width", "height", "object", "xmin", "ymin", "xmax", "ymax"),
    *("area", "degree", "affinity", "borders", "implausible"),
)
_LIMITS = {"min_area": 0, "max_area": 0, "max_degree": 0, "min_affinity": -1}  # to 1


@dataclass(frozen=True)
class ExportedBox:
    """One box.

    index: which of the objects of its image it is; 0 is LOST's one.
    implausible: which of `confidence.IMPLAUSIBLE` it is, or None.
    """

    index: int
    xyxy: Box
    signals: Signals
    implausible: str | None

    @property
    def score(self) -> float:
        """LOST has none, so the affinity, from 0 up; 1 where it was not recorded."""
        affinity = self.signals.affinity
        return 1.0 if affinity is None else min(1.0, max(0.0, affinity))


@dataclass(frozen=True)
class ExportedImage:
    """An image and those of its boxes that are exported, of which there is at least one."""

    name: str
    size_hw: tuple[int, int]
    boxes: tuple[ExportedBox, ...]


@dataclass(frozen=True)
class Filters:
    """Which boxes are left out; None leaves out none.

    min_area, max_area, max_degree, min_affinity, max_borders: limits of the box's `Signals`, which it may
        reach.
    drop_implausible: leave out the boxes of shapes that no object has.
    """

    drop_implausible: bool = False
    min_area: float | None = None
    max_area: float | None = None
    max_degree: float | None = None
    min_affinity: float | None = None
    max_borders: int | None = None

    def __post_init__(self) -> None:
        """Raises LostRegError for a limit that is out of range."""
        for name, least in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= 1:  # which nan is not, either
                shown = name.replace("_", "-")
                raise LostRegError(f"expected a --{shown} of {least} to 1, but got {value}")

    def dropped_for(self, box: ExportedBox) -> str | None:
        """The first reason to leave a box out, or None.

        Raises:
            LostRegError: a limit on affinities that were not recorded.
        """
        if self.drop_implausible and box.implausible:
            return box.implausible
        known = box.signals
        if self.min_affinity is not None and known.affinity is None:
            raise LostRegError(
                "the run is of a version that recorded no affinities: leave out --min-affinity, or run again"
            )
        return (
            _below("area", known.area, self.min_area)
            or _above("area", known.area, self.max_area)
            or _above("degree", known.degree, self.max_degree)
            or _below("affinity", known.affinity, self.min_affinity)
            or _above("borders", known.borders, self.max_borders)
        )


def _below(what: str, value: float | None, limit: float | None) -> str | None:
    return None if limit is None or value >= limit else f"{what} below {limit:g}"


def _above(what: str, value: float, limit: float | None) -> str | None:
    return None if limit is None or value <= limit else f"{what} above {limit:g}"


@dataclass(frozen=True)
class Tally:
    """How many images and boxes a selection holds, and what it leaves out.

    implausible: of the boxes that it holds, how many are of each kind.
    dropped: how many boxes were left out, by the reason.
    without_box: images that no box is left of.
    """

    images: int = 0
    boxes: int = 0
    implausible: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    without_box: int = 0


class Selection:
    """The boxes that pass filters. It can be gone through again and again, and keeps nothing itself."""

    def __init__(self, predictions: Iterable[Prediction], filters: Filters):
        self._predictions, self._filters = predictions, filters

    def __iter__(self) -> Iterator[ExportedImage]:
        for prediction in self._predictions:
            boxes = tuple(box for box in boxes_of(prediction) if not self._filters.dropped_for(box))
            if boxes:
                yield ExportedImage(prediction.image, prediction.size_hw, boxes)

    def tally(self) -> Tally:
        """Count it all, in one pass."""
        images = boxes = predictions = 0
        kinds: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for prediction in self._predictions:
            predictions += 1
            before = boxes
            for box in boxes_of(prediction):
                reason = self._filters.dropped_for(box)
                if reason:
                    dropped[reason] += 1
                    continue
                boxes += 1
                kinds.update([box.implausible] if box.implausible else [])
            images += boxes > before
        return Tally(images, boxes, kinds, dropped, predictions - images)


def boxes_of(prediction: Prediction) -> Iterator[ExportedBox]:
    """All boxes of an image, in the order in which they were found."""
    for index, found in enumerate(prediction.objects):
        yield _exported(index, found, prediction)


def _exported(index: int, found: FoundObject, prediction: Prediction) -> ExportedBox:
    return ExportedBox(index, found.box_xyxy, signals(found, prediction), implausible(found, prediction))


def row(image: ExportedImage, box: ExportedBox) -> tuple:
    """What a table says of a box, in the order of COLUMNS."""
    (height, width), known = image.size_hw, box.signals
    return (
        *(image.name, width, height, box.index, *box.xyxy),
        *(known.area, known.degree, known.affinity, known.borders, box.implausible),
    )
