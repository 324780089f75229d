"""Published CorLoc numbers, and which of them a result is comparable to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lost_reg.backbones.zoo import TIMM_PREFIX


@dataclass(frozen=True)
class Published:
    """A number from the literature: CorLoc in percent, and its source."""

    corloc: float
    source: str


@cache
def published_rows() -> list[dict[str, Any]]:
    """The rows of published.json."""
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))["rows"]


def comparable_number(
    settings: dict[str, Any] | None, dataset: str, *, is_full_split: bool
) -> Published | None:
    """The published number for the same weights, method, features, options and split, if there is one.

    Args:
        settings: those of the run; None for a prediction file, which has no comparable number.
        dataset: the dataset it was scored on.
        is_full_split: whether every image of the published split was scored.
    """
    if settings is None or not is_full_split or not _runs_as_published(settings):
        return None
    for row in published_rows():
        same_weights = settings["weights"]["name"] in (row["weights"] or ())
        if same_weights and _same_setting(row, settings) and row["corloc"].get(dataset) is not None:
            return Published(row["corloc"][dataset], row["source"])
    return None


def _runs_as_published(settings: dict[str, Any]) -> bool:
    """Whether the result depends on nothing but weights and setting.

    LOST ignores the EXIF orientation, and timm resamples DINO's position embedding in its own way. The
    numbers published for test-time registers use a layer, a bias and a rule that were not reported. Refined
    masks have other boxes.
    """
    return (
        settings["apply_exif"] is False
        and not settings["backbone"].startswith(TIMM_PREFIX)
        and settings["precision"] == "fp32"
        and not settings.get("test_time_registers")
        and not settings.get("refine")
    )


def _same_setting(row: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether method, features and options agree; what a row leaves open (null) agrees with nothing.

    CorLoc scores only the first object, which is the same however many follow it.
    """
    options = {key: value for key, value in settings["options"].items() if key != "max_objects"}
    return (
        row["method"] == settings["method"]
        and row["features"] == settings["features"]
        and row["options"] == options
    )
