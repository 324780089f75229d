"""Published CorLoc numbers, and which of them a result may stand beside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lost_reg.backbones.zoo import TIMM_PREFIX

# What must agree before two numbers are compared; a row that does not know one of them (null) never does.
# Not max_objects: CorLoc is of the first object, which is the same however many follow it.
_SAME = ("facet", "layer", "normalize", "bias", "k_patches", "max_side")


@dataclass(frozen=True)
class Published:
    """A number from the literature: CorLoc in percent, and where it stands."""

    corloc: float
    source: str


@cache
def published_rows() -> list[dict[str, Any]]:
    """The rows of published.json."""
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))["rows"]


def comparable_number(settings: dict[str, Any], dataset: str, *, is_full_split: bool) -> Published | None:
    """The published number of the same weights, protocol and split as a run, if there is one.

    Args:
        settings: the settings of the run.
        dataset: the dataset it was scored on.
        is_full_split: whether every image of the published split was scored.
    """
    # LOST ignores the EXIF orientation, and timm resamples DINO's position embedding in its own way
    is_as_published = settings.get("apply_exif") is False and not settings["backbone"].startswith(TIMM_PREFIX)
    is_as_published &= not settings["protocol"].get("center")
    # the published numbers with test-time registers are of a layer, a bias and a rule that are not told
    is_plain = settings["precision"] == "fp32" and not settings.get("test_time_registers")
    if not is_full_split or not is_as_published or not is_plain:
        return None
    for row in published_rows():
        same_weights = settings["weights"]["name"] in (row["weights"] or ())
        same_protocol = (
            all(row["protocol"][key] == settings["protocol"][key] for key in _SAME)
            if row["protocol"]
            else False
        )
        if (
            row["method"] == "LOST"
            and same_weights
            and same_protocol
            and row["corloc"].get(dataset) is not None
        ):
            return Published(row["corloc"][dataset], row["source"])
    return None
