"""CorLoc of runs as bars, a chart for each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lost_reg.charts import COLOURS, chart, percent_top, titled
from lost_reg.errors import one_line
from lost_reg.report.loading import ReportRun, by_dataset
from lost_reg.report.page import Section
from lost_reg.report.pairs import REGISTER_KINDS, paired_by_registers
from lost_reg.scoring.corloc import Score
from lost_reg.scoring.found_boxes import register_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABEL, _BAR, _GAP = 14, 16, 9  # heights in pixels: of a line of a label, of a bar, and below it
_BASELINES = (("centred", "a centred box of 80 % side", "-"), ("whole", "the whole image", ":"))
_DIAMOND: dict[str, Any] = {
    "ls": "none",
    "marker": "D",
    "ms": 7,
    "mew": 1.2,
    "mfc": COLOURS["published"],
    "mec": COLOURS["surface"],
}

Bar = tuple[ReportRun, str]  # a scored run, and its kind: of REGISTER_KINDS if it is in a pair, or "plain"


def bars_section(runs: Sequence[ReportRun]) -> Section | None:
    """A chart for each dataset; runs with registers stand below their counterparts without."""
    charts = [
        {"title": " ".join(title), "chart": bar_chart(" ".join(title), of_dataset)}
        for title, of_dataset in by_dataset(runs).items()
    ]
    if not charts:
        return None
    has_pairs = bool(paired_by_registers([run for run in runs if run.row]))
    heading = "With and without registers" if has_pairs else "CorLoc by backbone"
    return Section("bars", heading, {"charts": charts})


def bar_chart(title: str, runs: Sequence[ReportRun]) -> Markup:
    """Horizontal bars with intervals, baselines across them, and published values as diamonds."""
    bars = in_pairs(runs)
    labels = [wrap(one_line(run.name), 50) for run, _ in bars]
    described = "; ".join(_describe(run) for run, _ in bars)
    height = 30 + sum(_LABEL * len(lines) + _BAR + _GAP for lines in labels)
    return Markup(chart(partial(_draw, bars, labels), f"CorLoc on {title}: {described}", height=height))


def in_pairs(runs: Sequence[ReportRun]) -> list[Bar]:
    """Those without and with registers after each other, then all other runs."""
    paired = {id(run): run for run in chain.from_iterable(paired_by_registers(runs))}
    bars = [(run, register_kind(run.results.settings)) for run in paired.values()]
    return bars + [(run, "plain") for run in runs if id(run) not in paired]


def _describe(run: ReportRun) -> str:
    low, high = run.row.score.interval
    text = f"{run.name} {run.row.score.corloc:.1f}, 95 % interval {low:.1f} to {high:.1f}"
    return f"{text}, published {run.row.published.corloc:.1f}" if run.row.published else text


def _draw(bars: Sequence[Bar], labels: Sequence[list[str]], axes: Axes) -> None:
    """Bars from the top, each below its label; vertical positions are in pixels from the top."""
    y, heights = 0.0, []
    for (run, kind), lines in zip(bars, labels):
        axes.text(0, y, "\n".join(lines), va="top", linespacing=1.05)
        y += _LABEL * len(lines) + _BAR / 2
        _draw_bar(run, kind, y, axes)
        heights.append(y)
        y += _BAR / 2 + _GAP
    axes.containers[-1].set_label("95 % interval")  # one key, after those of the bars
    _draw_baselines([run.row.score for run, _ in bars], heights, axes)
    top = percent_top([max(run.row.score.interval[1], _published(run)) for run, _ in bars])
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set(xlim=(0, top), ylim=(y, -2), yticks=[], xticks=range(0, int(top) + 1, 20 if top > 50 else 10))
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)


def _draw_bar(run: ReportRun, kind: str, y: float, axes: Axes) -> None:
    value, (low, high) = run.row.score.corloc, run.row.score.interval
    (bar,) = axes.barh(y, value, height=_BAR, color=COLOURS[f"bar-{kind}"], label=REGISTER_KINDS.get(kind))
    titled(bar, _describe(run))
    interval = [[value - low], [high - value]]
    style: dict[str, Any] = {"fmt": "none", "ecolor": COLOURS["text"], "lw": 1.3, "capsize": 3}
    axes.errorbar(value, y, xerr=interval, **style)
    if run.row.published:
        (mark,) = axes.plot(_published(run), y, label="published", **_DIAMOND)
        titled(mark, f"published: {run.row.published.corloc:.1f}")
    end = max(high, _published(run))
    text: dict[str, Any] = {"va": "center_baseline", "weight": "bold"}
    axes.annotate(f"{value:.1f}", (end, y), (7, 0), textcoords="offset points", **text)


def _published(run: ReportRun) -> float:
    return run.row.published.corloc if run.row.published else 0.0


def _draw_baselines(scores: Sequence[Score], heights: Sequence[float], axes: Axes) -> None:
    """The trivial boxes, across each bar, where they are the same for all runs: on the same images."""
    for name, label, style in _BASELINES:
        values = {getattr(score, name) for score in scores}
        if len(values) == 1:
            (value,) = values
            low, high = ([height + side * (_BAR / 2 + 3) for height in heights] for side in (-1, 1))
            label = f"{label}, {value:.1f}"
            at = [value] * len(heights)
            titled(
                axes.vlines(at, low, high, colors=COLOURS["baseline"], lw=1.8, ls=style, label=label), label
            )
