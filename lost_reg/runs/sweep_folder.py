"""The files of a sweep folder. Without torch, so that scores are read and shown quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.runs.folder import SWEEP_FILE, Layout, Results, read_run
from lost_reg.types import Box, Protocol

BOXES_FILE = "boxes.jsonl"
SCORES_FILE = "corloc.json"


@dataclass(frozen=True)
class SweptImage:
    """The boxes of one image, [xmin, ymin, xmax, ymax] in pixels, in the order of the sweep's settings."""

    image: str
    size_hw: tuple[int, int]
    boxes_xyxy: tuple[Box, ...]


def _swept_image_from_json(row: dict) -> SweptImage:
    boxes = tuple(tuple(box) for box in row["boxes_xyxy"])
    numbers = [side for box in boxes for side in box]
    if (
        not isinstance(row["image"], str)
        or any(len(box) != 4 for box in boxes)
        or not all(isinstance(side, (int, float)) and math.isfinite(side) for side in numbers)
    ):
        raise ValueError("expected an image name and boxes of four numbers")
    return SweptImage(row["image"], tuple(row["size_hw"]), boxes)


SWEEP_LAYOUT = Layout(SWEEP_FILE, BOXES_FILE, _swept_image_from_json)


@dataclass(frozen=True)
class SweepResults:
    """A sweep folder, read: the settings that were tried, and their boxes by image."""

    results: Results
    protocols: tuple[Protocol, ...]

    @property
    def boxes(self) -> dict[str, tuple[Box, ...]]:
        return {name: one.boxes_xyxy for name, one in self.results.predictions.items()}


def read_sweep(folder: Path) -> SweepResults:
    """Read a sweep folder.

    Raises:
        LostRegError: a file that is missing or malformed, or an image with another number of boxes.
    """
    if not (folder / SWEEP_FILE).is_file():
        raise LostRegError(f"no sweep in {str(folder)!r}: no {SWEEP_FILE} in it; `lost-reg sweep` makes one")
    results = read_run(folder, SWEEP_LAYOUT)
    try:
        protocols = tuple(Protocol(**one) for one in results.settings["protocols"])
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise LostRegError(f"{folder / SWEEP_FILE} does not hold the settings of a sweep: {reason}") from None
    for name, one in results.predictions.items():
        if len(one.boxes_xyxy) != len(protocols):
            raise LostRegError(
                f"{folder / BOXES_FILE} has {len(one.boxes_xyxy)} boxes for {name}, "
                f"but there are {len(protocols)} settings"
            )
    return SweepResults(results, protocols)
