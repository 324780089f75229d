"""Published numbers of the class probe, and which of them a probe is comparable to."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from lost_reg.probing.records import ProbeRecord, ProbeScore


@cache
def published_classes() -> dict[str, Any]:
    """The table of published.json: by dataset and kind of token, in percent."""
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))["classes"]


def published_value(record: ProbeRecord, score: ProbeScore) -> float | None:
    """The published number, a share in [0, 1], for the same weights, token and setting, if there is one.

    It is comparable only on the official splits, on all images, and with outliers as published.
    """
    table = published_classes()
    of_kind = table["percent"].get(record.dataset, {}).get(score.tokens)
    settings = record.settings
    if of_kind is None or record.task != "classes" or score.classifier != table["classifier"]:
        return None
    weights = settings.get("weights")
    name = weights.get("name") if isinstance(weights, dict) else None
    if name not in table["weights"] or settings.get("test_time_registers"):
        return None
    if settings.get("limit") or record.dataset in table["other_splits"]:
        return None
    if score.tokens != "cls" and {key: settings.get(key) for key in table["outliers"]} != table["outliers"]:
        return None
    same_images = {key: settings.get(key) for key in table["images"]} == table["images"]
    return of_kind / 100 if same_images else None
