"""The section on probes: a table and charts of the scores of each task and dataset, from each probe.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lost_reg.charts import COLOURS, chart, percent_top, titled
from lost_reg.errors import one_line
from lost_reg.probing.published import published_classes, published_value
from lost_reg.probing.records import Measure, ProbeRecord, ProbeScore
from lost_reg.probing.tables import MEASURES, shown
from lost_reg.report.page import Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUMERIC = {"value", "95 % interval", "published", "test images", "without"}
_ROW = 22  # pixels: the height of a score in a chart
_Entry = tuple[str, ProbeRecord, ProbeScore]  # its folder, the probe, a score of it


def probes_section(probes: Mapping[str, ProbeRecord]) -> Section | None:
    """The scores of each probe, by its folder's name; those of one task and dataset stand together."""
    groups: dict[tuple[str, str], list[_Entry]] = {}
    for name, record in probes.items():
        entries = [(name, record, score) for score in record.scores]
        groups.setdefault((record.dataset, record.task), []).extend(entries)
    if not groups:
        return None
    tables = [_group(f"{dataset}: {task}", entries) for (dataset, task), entries in groups.items()]
    has_published = any(row["published"] for group in tables for row in group["table"].rows)
    source = published_classes()["source"] if has_published else ""
    return Section("probes", "Probes", {"groups": tables, "source": source})


def _group(title: str, entries: Sequence[_Entry]) -> dict[str, Any]:
    measures = dict.fromkeys(score.measure for *_, score in entries if score.value is not None)
    charts = [_chart(title, measure, entries) for measure in measures]
    rows = [_row(*entry) for entry in entries]
    return {"title": title, "charts": charts, "table": Table(f"Scores of {title}", "probes", rows, _NUMERIC)}


def _row(name: str, record: ProbeRecord, score: ProbeScore) -> dict[str, str]:
    published = published_value(record, score)
    return {
        "folder": name,
        "backbone": record.label,
        "tokens": score.tokens,
        "classifier": score.classifier,
        "measure": MEASURES[score.measure],
        "value": score.too_few or "-" if score.value is None else shown(score.measure, score.value),
        "95 % interval": " to ".join(shown(score.measure, end) for end in score.interval or ()),
        "published": "" if published is None else shown(score.measure, published),
        "test images": f"{score.test:,}",
        "without": f"{sum(score.without.values()):,}",
    }


def _scaled(measure: Measure, number: float) -> float:
    """Shares in percent, errors as they are."""
    return number if measure == "rmse" else 100 * number


def _chart(title: str, measure: Measure, entries: Sequence[_Entry]) -> Markup:
    """The scores of one measure, each a point with its interval, from the top."""
    of_it = [entry for entry in entries if entry[2].measure == measure and entry[2].value is not None]
    described = "; ".join(_describe(*entry) for entry in of_it)
    height = 50 + 2 * _ROW * len(of_it)
    return chart(
        partial(_draw, measure, of_it), f"{MEASURES[measure]} of {title}: {described}", height=height
    )


def _name(record: ProbeRecord, score: ProbeScore) -> str:
    return one_line(f"{record.label}: {score.tokens}, {score.classifier}")


def _describe(name: str, record: ProbeRecord, score: ProbeScore) -> str:
    low, high = score.interval or (score.value, score.value)
    value, low_end, high_end = (shown(score.measure, number) for number in (score.value, low, high))
    return f"{_name(record, score)} {value}, 95 % interval {low_end} to {high_end}"


def _draw(measure: Measure, entries: Sequence[_Entry], axes: Axes) -> None:
    highest = 0.0
    for place, (name, record, score) in enumerate(entries):
        value, *ends = (
            _scaled(measure, number) for number in (score.value, *(score.interval or (score.value,) * 2))
        )
        highest = max(highest, *ends)
        y = 2 * place + 1
        axes.text(0, y - 0.55, _name(record, score), va="center")
        axes.plot(ends, (y, y), color=COLOURS["text"], lw=1.5, label="95 % interval")
        (mark,) = axes.plot(value, y, "o", color=COLOURS["bar-with"], ms=7, label="value")
        titled(mark, _describe(name, record, score))
        published = published_value(record, score)
        if published is not None:
            at = _scaled(measure, published)
            highest = max(highest, at)
            axes.plot(at, y, "D", color=COLOURS["published"], ms=6, label="published")
    top = highest * 1.05 or 1.0 if measure == "rmse" else percent_top([highest])
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    unit = "" if measure == "rmse" else ", %"
    axes.set(xlim=(0, top), ylim=(2 * len(entries), -0.2), yticks=[], title=f"{MEASURES[measure]}{unit}")
