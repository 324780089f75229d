"""The files of a sweep folder. Does not import torch, so that scores are read and shown quickly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.discovery.features import FeatureConfig
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import SWEEP_FILE, CommonSettings, Layout, Results, read_run
from lost_reg.text import counted
from lost_reg.types import Box, SizeHW

BOXES_FILE = "boxes.jsonl"
SCORES_FILE = "corloc.json"


@dataclass(frozen=True)
class SweptImage:
    """The boxes of one image, in the order of the sweep's settings; None if a setting found nothing."""

    image: str
    size_hw: SizeHW
    boxes_xyxy: tuple[Box | None, ...]


@dataclass(frozen=True)
class Tried:
    """A setting of a sweep as recorded.

    method: None if it is recorded once, for all settings. refine: see `Setting`.
    """

    features: FeatureConfig
    options: dict[str, Any]
    method: str | None = None
    refine: str | None = None


@dataclass(frozen=True)
class SweepSettings(CommonSettings):
    """Settings of a sweep in sweep.json, which may hold more.

    method: that of all settings; None if each has its own.
    """

    tried: list[Tried]
    method: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a setting without a method."""
        if not all(one.method or self.method for one in self.tried):
            raise ValueError("a setting has no method")


SWEEP_LAYOUT = Layout(SWEEP_FILE, BOXES_FILE, SweptImage, SweepSettings)


@dataclass(frozen=True)
class SweepResults:
    """The contents of a sweep folder.

    settings: those that were tried, as returned by `Setting.recorded`.
    """

    results: Results
    settings: tuple[dict[str, Any], ...]

    @property
    def boxes(self) -> dict[str, tuple[Box | None, ...]]:
        """The boxes of each image, in the order of the settings."""
        return {name: one.boxes_xyxy for name, one in self.results.predictions.items()}


def read_sweep(folder: Path) -> SweepResults:
    """Read a sweep folder.

    Raises:
        LostRegError: a file that is missing or malformed, or an image with the wrong number of boxes.
    """
    if not (folder / SWEEP_FILE).is_file():
        raise LostRegError(f"no sweep in {str(folder)!r}: no {SWEEP_FILE} in it; `lost-reg sweep` makes one")
    results = read_run(folder, SWEEP_LAYOUT)
    method = results.settings.get("method")
    settings = tuple({"method": method, **one} for one in results.settings["tried"])
    for name, one in results.predictions.items():
        if len(one.boxes_xyxy) != len(settings):
            raise LostRegError(
                f"{folder / BOXES_FILE} has {counted(len(one.boxes_xyxy), 'box')} for {name}, "
                f"but the sweep has {counted(len(settings), 'setting')}"
            )
    return SweepResults(results, settings)
