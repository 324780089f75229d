"""CorLoc of several runs: as a table for people, as JSON and as CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from lost_reg import text as texts
from lost_reg.errors import one_line
from lost_reg.scoring.corloc import Score
from lost_reg.scoring.score_runs import ScoredRun

NO_NUMBER = "no comparable number"

_COLUMNS: dict[str, Callable[[ScoredRun], str]] = {
    "backbone": lambda row: row.backbone,
    "dataset": lambda row: f"{row.dataset} {row.split}",
    "images": lambda row: f"{row.score.images:,}",
    "found": lambda row: f"{row.score.found:,}",
    "CorLoc": lambda row: f"{row.score.corloc:.1f}",
    "95 % interval": lambda row: "{:.1f} to {:.1f}".format(*row.score.interval),
    "centred box": lambda row: f"{row.score.centred:.1f}",
    "whole image": lambda row: f"{row.score.whole:.1f}",
    "published": lambda row: (
        f"{row.published.corloc:.1f} ({row.published.source})" if row.published else NO_NUMBER
    ),
}


def text_table(rows: Sequence[ScoredRun]) -> str:
    """The rows as a table, with the images that did not count below it."""
    cells = [[column(row) for column in _COLUMNS.values()] for row in rows]
    lines = [texts.text_table(list(_COLUMNS), cells)]
    lines += [f"{one_line(str(row.path))}: {_counts(row.score)}" for row in rows]
    lines += [
        f"{one_line(str(row.path))}: the size of {row.other_size:,} images differs from the annotated one: "
        "rotated by EXIF?"
        for row in rows
        if row.other_size
    ]
    return "\n".join(lines)


def _counts(score: Score) -> str:
    return (
        f"{score.unusable:,} undecodable (counted as misses), "
        f"{score.without_truth:,} without any box (left out), {score.not_done:,} not done (left out)"
    )


def json_text(rows: Sequence[ScoredRun]) -> str:
    """The rows as JSON: a list of objects."""
    return json.dumps([_flat(row) for row in rows], indent=2)


def csv_text(rows: Sequence[ScoredRun]) -> str:
    """The rows as CSV, with a header."""
    return texts.csv_text([_flat(row) for row in rows])


def _flat(row: ScoredRun) -> dict[str, Any]:
    numbers = asdict(row.score)
    low, high = numbers.pop("interval")
    return {
        "path": str(row.path),
        "backbone": row.backbone,
        "dataset": row.dataset,
        "split": row.split,
        **numbers,
        "other_size": row.other_size,
        "interval_low": low,
        "interval_high": high,
        "published": row.published.corloc if row.published else None,
        "published_source": row.published.source if row.published else NO_NUMBER,
    }
