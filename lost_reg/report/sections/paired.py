"""Paired differences: runs compared on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from markupsafe import Markup

from lost_reg.charts import COLOURS, chart
from lost_reg.errors import LostRegError
from lost_reg.report.loading import ReportRun, by_dataset
from lost_reg.report.page import Section, Table
from lost_reg.report.pairs import paired_by_registers
from lost_reg.scoring.compare import LEAST_P, Comparison, compare
from lost_reg.scoring.found_boxes import ScoringOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIFFERENCE = "B \N{MINUS SIGN} A"
_COLUMNS = ("A", "B", "dataset", "images", "A alone", "B alone", _DIFFERENCE, "95 % interval", "p", "")
_NUMERIC = ("images", "A alone", "B alone", _DIFFERENCE)


def paired_section(runs: Sequence[ReportRun], options: ScoringOptions) -> Section | None:
    """With registers minus without or, where there are no such pairs, each run minus the first."""
    compared, notes = [], []
    for a, b in _pairs_to_compare(runs):
        try:
            compared.append((a, b, compare(a.results.folder, b.results.folder, options)))
        except LostRegError as error:
            notes.append(f"{a.name} and {b.name}: {error}")
    if not compared:
        return None
    end = max(5.0, *(abs(bound) for *_, one in compared for bound in one.total.interval))
    table = Table("Paired differences", "paired", _COLUMNS, [_cells(*one, end) for one in compared], _NUMERIC)
    return Section("paired", "Paired differences", {"table": table, "notes": notes})


def _pairs_to_compare(runs: Sequence[ReportRun]) -> list[tuple[ReportRun, ReportRun]]:
    pairs = []
    for of_dataset in by_dataset(runs).values():
        pairs += paired_by_registers(of_dataset) or [(of_dataset[0], other) for other in of_dataset[1:]]
    return pairs


def _cells(a: ReportRun, b: ReportRun, comparison: Comparison, end: float) -> list[str]:
    total = comparison.total
    low, high = total.interval
    return [
        a.name,
        b.name,
        f"{comparison.dataset} {comparison.split}",
        f"{total.images:,}",
        f"{total.only_a:,}",
        f"{total.only_b:,}",
        f"{total.difference:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        f"{total.p:.4f}" if total.p >= LEAST_P else f"below {LEAST_P}",
        difference_mark(total.difference, total.interval, end),
    ]


def difference_mark(value: float, interval: tuple[float, float], end: float) -> Markup:
    """A difference with its interval on a line whose middle is 0 and whose ends are `end` points away."""
    return Markup(chart(partial(_draw, value, interval, end), "", height=26, width=112))


def _draw(value: float, interval: tuple[float, float], end: float, axes: Axes) -> None:
    axes.axvline(0, color=COLOURS["baseline"], lw=1)
    axes.plot(interval, (0, 0), color=COLOURS["text"], lw=1.5, clip_on=False)
    axes.plot(value, 0, "o", color=COLOURS["bar-with"], ms=9, clip_on=False)
    axes.set(xlim=(-end, end), ylim=(-1, 1))
    axes.set_axis_off()
