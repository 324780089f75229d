"""The scores of a probe as a table, as JSON and as CSV."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lost_reg import text
from lost_reg.errors import one_line
from lost_reg.json_files import as_json
from lost_reg.probing.published import published_classes, published_value
from lost_reg.probing.records import Measure, ProbeRecord, ProbeScore

MEASURES: dict[Measure, str] = {
    "top1": "top-1",
    "mean_per_class": "per class",
    "map": "mAP",
    "miou": "mIoU",
    "rmse": "RMSE",
}
_NARROW = ("val", "train", "chosen", "without", "test")  # what may be left out, the first first
_OPTIONAL = ("published", "chosen", "val", "without")  # shown if any score has it


def text_table(record: ProbeRecord, width: int | None = None) -> str:
    """A line for each score, and the label of a backbone that is not as published; shares are in percent.

    width: see `text.text_table`.
    """
    published = [published_value(record, score) for score in record.scores]
    rows = [_row(score, number) for score, number in zip(record.scores, published)]
    empty = {name for name in _OPTIONAL if not any(row[name] for row in rows)}
    shown_rows = [{name: cell for name, cell in row.items() if name not in empty} for row in rows]
    lines = [text.text_table(shown_rows, width=width, drop=_NARROW)]
    if record.label != record.settings.get("backbone", record.label):
        lines.append(f"Backbone: {one_line(record.label)}")
    lines += dict.fromkeys(f"{score.tokens}: {score.too_few}" for score in record.scores if score.too_few)
    if any(number is not None for number in published):
        lines.append(f"Published: {published_classes()['source']}")
    return "\n".join(lines)


def _row(score: ProbeScore, published: float | None) -> dict[str, str]:
    return {
        "tokens": score.tokens,
        "classifier": score.classifier,
        "measure": MEASURES[score.measure],
        "value": "too few" if score.value is None else shown(score.measure, score.value),
        "95 % interval": " to ".join(shown(score.measure, end) for end in score.interval or ()),
        "published": "" if published is None else shown(score.measure, published),
        "chosen": _chosen(score),
        "train": f"{score.train:,}",
        "val": f"{score.val:,}" if score.val else "",
        "test": f"{score.test:,}",
        "without": f"{sum(score.without.values()):,}" if score.without else "",
    }


def _chosen(score: ProbeScore) -> str:
    """Such as "C 0.0316"."""
    return ", ".join(f"{name} {number:.3g}" for name, number in score.chosen.items())


def shown(measure: str, number: float, sign: str = "") -> str:
    """A number of a measure: a share in percent, but an error in the unit of the depths. sign: "" or "+"."""
    return f"{number:{sign}.3f}" if measure == "rmse" else f"{100 * number:{sign}.1f}"


def json_text(record: ProbeRecord) -> str:
    """The record, with the published numbers that are comparable."""
    content: dict[str, Any] = asdict(record)
    for row, score in zip(content["scores"], record.scores):
        row["published"] = published_value(record, score)
    return as_json(content, indent=2)


def csv_text(record: ProbeRecord) -> str:
    """A line for each score."""
    return text.csv_text([_csv_row(record, score) for score in record.scores])


def _csv_row(record: ProbeRecord, score: ProbeScore) -> dict[str, Any]:
    low, high = score.interval or (None, None)
    return {
        "dataset": record.dataset,
        "backbone": record.label,
        "task": record.task,
        "tokens": score.tokens,
        "classifier": score.classifier,
        "measure": score.measure,
        "value": score.value,
        "low": low,
        "high": high,
        "published": published_value(record, score),
        "chosen": _chosen(score),
        "train": score.train,
        "val": score.val,
        "test": score.test,
        "without": sum(score.without.values()),
        "too_few": score.too_few,
    }
