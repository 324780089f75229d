"""What linear evaluation found, as a table, JSON or CSV. Does not import torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lost_reg.json_files import as_json
from lost_reg.probing.records import ProbeRecord, ProbeScore
from lost_reg.text import csv_text as lines_of_csv
from lost_reg.text import text_table as table_of

_TITLES = {"miou": "mIoU", "rmse": "RMSE"}


def text_table(record: ProbeRecord, width: int | None = None) -> str:
    """A line for each score: mIoU in percent, RMSE in metres, with 95 % intervals over the test images."""
    rows = [
        {
            "backbone": record.label,
            "measure": _TITLES[one.measure],
            "value": _shown(one, one.value),
            "95 % interval": " to ".join(_shown(one, end) for end in one.interval),
            "training images": f"{one.train:,}",
            "test images": f"{one.test:,}",
        }
        for one in record.scores
    ]
    return table_of(rows, width=width, drop=("training images", "test images"))


def json_text(record: ProbeRecord, width: int | None = None) -> str:
    """All that probe.json holds."""
    return as_json(asdict(record), indent=2)


def csv_text(record: ProbeRecord, width: int | None = None) -> str:
    """A line for each score, as they are in probe.json."""
    return lines_of_csv([_csv_row(record, one) for one in record.scores])


def _csv_row(record: ProbeRecord, one: ProbeScore) -> dict[str, Any]:
    low, high = one.interval
    return {
        "task": record.task,
        "dataset": record.dataset,
        "backbone": record.label,
        "measure": one.measure,
        "value": one.value,
        "low": low,
        "high": high,
        "train": one.train,
        "test": one.test,
    }


def _shown(score: ProbeScore, value: float) -> str:
    return f"{100 * value:.1f} %" if score.measure == "miou" else f"{value:.3f} m"
