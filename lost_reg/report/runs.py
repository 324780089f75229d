"""The sections on runs: the CorLoc table, bars with and without registers, and paired differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lost_reg.backbones.zoo import register_pairs
from lost_reg.charts import COLOURS, chart, percent_top, titled
from lost_reg.errors import LostRegError, one_line
from lost_reg.report.loading import ReportRun
from lost_reg.report.page import Section, Table
from lost_reg.runs.degenerate import degenerate_line
from lost_reg.scoring.compare import Comparison, check_same_dataset, compare_found
from lost_reg.scoring.comparison_text import paired_cells
from lost_reg.scoring.corloc import Score
from lost_reg.scoring.found_boxes import REGISTER_KINDS, ScoringOptions, register_kind
from lost_reg.scoring.score_runs import ScoredRun, cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def corloc_section(runs: Sequence[ReportRun], errors: Sequence[LostRegError]) -> Section | None:
    """The table, notes on images that did not count, and what is left out of the report."""
    scored = [(run.label, run.row) for run in runs if run.row]
    if not scored and not errors:
        return None
    rows = [{"run": run.short, **cells(run.row), "backbone": run.found.title} for run in runs if run.row]
    numeric = ("images", "found", "CorLoc", "centred box", "whole image")
    table = Table("CorLoc table", "corloc", rows, numeric)
    notes = [note for name, row in scored for note in _uncounted(name, row)]
    notes += dict.fromkeys(note for _, row in scored for note in row.notes)
    notes += degenerate_notes([run for run in runs if run.row])
    left_out = [str(error) for error in errors]
    return Section("corloc", "CorLoc", {"table": table, "notes": notes, "left_out": left_out})


def degenerate_notes(runs: Sequence[ReportRun]) -> list[str]:
    """A note on each run whose boxes are mostly the whole image, a single patch or a strip."""
    lines = ((run.label, degenerate_line(run.predictions, run.settings)) for run in runs)
    return [f"{name}: {line}" for name, line in lines if line]


def _uncounted(name: str, row: ScoredRun) -> Iterator[str]:
    """A note on the images of a run that did not count, if any."""
    counts = {
        "undecodable, counted as misses": row.score.unusable,
        "without any box, left out": row.score.without_truth,
        "not done, left out": row.score.not_done,
        "not of the size that was annotated": row.other_size,
    }
    if counted := "; ".join(f"{count:,} {what}" for what, count in counts.items() if count):
        yield f"{name} on {row.dataset} {row.split}: {counted}"


# --- runs that belong together ------------------------------------------------------------------------


def _by_dataset(runs: Iterable[ReportRun]) -> dict[tuple[str, str], list[ReportRun]]:
    """The runs that are scored, by dataset and split."""
    by_title: dict[tuple[str, str], list[ReportRun]] = {}
    for run in runs:
        if run.title:
            by_title.setdefault(run.title, []).append(run)
    return by_title


def paired_by_registers(runs: Sequence[ReportRun]) -> list[tuple[ReportRun, ReportRun]]:
    """Pairs of a run without registers and one with trained or test-time ones, otherwise identical.

    They share backbone, dataset and settings; with test-time registers, also the weights. For each run
    without, the pair with trained registers comes first.
    """
    return [
        (one, other)
        for one in runs
        if register_kind(one.settings) == "without"
        for kind in ("with", "test-time")
        for other in runs
        if register_kind(other.settings) == kind and _differ_in_registers(one, other)
    ]


def _differ_in_registers(one: ReportRun, other: ReportRun) -> bool:
    """Whether a run with registers has the same model, data and settings as a run without."""
    settings, others = one.settings, other.settings
    if _conditions(one) != _conditions(other):
        return False
    if others.get("test_time_registers"):
        same_weights = settings["weights"]["sha256"] == others["weights"]["sha256"]
        return settings["backbone"] == others["backbone"] and same_weights
    return register_pairs().get(settings["backbone"]) == others["backbone"]


def _conditions(run: ReportRun) -> tuple:
    """What is equal between runs that differ only in their registers."""
    settings = run.settings
    same = [settings[name] for name in ("method", "features", "options", "precision")]
    return run.title or run.record.get("root"), same, settings["weights"]["source"] == "random"


# --- bars ---------------------------------------------------------------------------------------------

_LABEL, _BAR, _GAP = 14, 16, 9  # heights in pixels: of a label's line, of a bar, of the gap below it
_BASELINES = (("centred", "a centred box of 80 % side", "-"), ("whole", "the whole image", ":"))
_DIAMOND: dict[str, Any] = {
    "marker": "D", "ms": 7, "mfc": COLOURS["published"], "mec": COLOURS["surface"], "mew": 1.2,
    "clip_on": False,  # at the end of the axis, too, it is whole
}  # fmt: skip


class _Lines(TextWrapper):
    """Breaks text also after "_", as names of runs and backbones have few other places."""

    wordsep_re = re.compile(r"(\s+|[^\s_-]*[_-]+)")


Bar = tuple[ReportRun, str]  # a scored run, and its kind: one of REGISTER_KINDS in a pair, else "plain"


def bars_section(runs: Sequence[ReportRun]) -> Section | None:
    """A chart for each dataset; runs with registers come below their counterparts without."""
    charts = [
        {"title": " ".join(title), "chart": bar_chart(" ".join(title), of_dataset)}
        for title, of_dataset in _by_dataset(runs).items()
    ]
    if not charts:
        return None
    has_pairs = bool(paired_by_registers([run for run in runs if run.row]))
    heading = "With and without registers" if has_pairs else "CorLoc by backbone"
    return Section("bars", heading, {"charts": charts})


def bar_chart(title: str, runs: Sequence[ReportRun]) -> Markup:
    """Horizontal bars with intervals, baselines across them, and published values as diamonds."""
    bars = in_pairs(runs)
    labels = [_Lines(50).wrap(one_line(run.label)) for run, _ in bars]
    described = "; ".join(_describe(run) for run, _ in bars)
    height = 30 + sum(_LABEL * len(lines) + _BAR + _GAP for lines in labels)
    return chart(partial(_draw_bars, bars, labels), f"CorLoc on {title}: {described}", height=height)


def in_pairs(runs: Sequence[ReportRun]) -> list[Bar]:
    """The paired runs, each without registers followed by with, then all other runs."""
    paired = {id(run): run for run in chain.from_iterable(paired_by_registers(runs))}
    bars = [(run, register_kind(run.settings)) for run in paired.values()]
    return bars + [(run, "plain") for run in runs if id(run) not in paired]


def _describe(run: ReportRun) -> str:
    low, high = run.row.score.interval
    text = f"{run.label} {run.row.score.corloc:.1f}, 95 % interval {low:.1f} to {high:.1f}"
    return f"{text}, published {run.row.published.corloc:.1f}" if run.row.published else text


def _draw_bars(bars: Sequence[Bar], labels: Sequence[list[str]], axes: Axes) -> None:
    """Draw bars from the top, each below its label; vertical positions are in pixels from the top."""
    top = percent_top([max(run.row.score.interval[1], _published(run)) for run, _ in bars])
    y, heights = 0.0, []
    for (run, kind), lines in zip(bars, labels):
        axes.text(0, y, "\n".join(lines), va="top", linespacing=1.05)
        y += _LABEL * len(lines) + _BAR / 2
        _draw_bar(run, kind, y, axes)
        text: dict[str, Any] = {"va": "center_baseline", "weight": "bold"}
        axes.annotate(f"{run.row.score.corloc:.1f}", (top, y), (9, 0), textcoords="offset points", **text)
        heights.append(y)
        y += _BAR / 2 + _GAP
    axes.containers[-1].set_label("95 % interval")  # one legend entry, after those of the bars
    _draw_baselines([run.row.score for run, _ in bars], heights, axes)
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
    axes.errorbar(value, y, xerr=interval, clip_on=False, **style)
    if run.row.published:
        (mark,) = axes.plot(_published(run), y, ls="none", label="published", **_DIAMOND)
        titled(mark, f"published: {run.row.published.corloc:.1f}")


def _published(run: ReportRun) -> float:
    return run.row.published.corloc if run.row.published else 0.0


def _draw_baselines(scores: Sequence[Score], heights: Sequence[float], axes: Axes) -> None:
    """Draw the trivial baselines across each bar if they are equal for all runs, as on the same images."""
    for name, label, style in _BASELINES:
        values = {getattr(score, name) for score in scores}
        if len(values) == 1:
            (value,) = values
            low, high = (
                [height + side for height in heights] for side in (-_BAR / 2, _BAR / 2 + 3)
            )  # below labels
            key = f"{label}, {value:.1f}"
            at = [value] * len(heights)
            titled(axes.vlines(at, low, high, colors=COLOURS["baseline"], lw=1.8, ls=style, label=key))


# --- paired differences -------------------------------------------------------------------------------


def paired_section(runs: Sequence[ReportRun], options: ScoringOptions) -> Section | None:
    """With registers minus without or, if there are no such pairs, each run minus the first."""
    compared, notes = [], []
    for a, b in _pairs_to_compare(runs):
        try:
            compared.append((a, b, _compared(a, b, options)))
        except LostRegError as error:
            notes.append(f"{a.label} and {b.label}: {error}")
    if not compared:
        return None
    end = max(5.0, *(abs(bound) for *_, one in compared for bound in one.total.interval))
    columns = ("images", "A alone", "B alone", "B - A", "95 % interval", "p")
    rows = []
    for a, b, one in compared:
        row = {"A": a.label, "B": b.label, "dataset": f"{one.dataset} {one.split}"}
        shown, mark = paired_cells(one.total), difference_mark(one.total.difference, one.total.interval, end)
        rows.append({**row, **{name: shown[name] for name in columns}, "chart": mark})
    table = Table("Table of paired differences", "paired", rows, columns[:4])
    return Section("paired", "Paired differences", {"table": table, "notes": notes})


def _compared(a: ReportRun, b: ReportRun, options: ScoringOptions) -> Comparison:
    check_same_dataset(a.found, b.found, options)
    of_b = b.boxes if b.dataset is a.dataset else b.found.on(a.dataset)
    return compare_found(a.found, b.found, (a.boxes, of_b), a.dataset, options)


def _pairs_to_compare(runs: Sequence[ReportRun]) -> list[tuple[ReportRun, ReportRun]]:
    pairs = []
    for of_dataset in _by_dataset(runs).values():
        pairs += paired_by_registers(of_dataset) or [(of_dataset[0], other) for other in of_dataset[1:]]
    return pairs


def difference_mark(value: float, interval: tuple[float, float], end: float) -> Markup:
    """A difference with its interval on an axis centred on 0 that extends `end` points to each side."""
    return chart(partial(_draw_difference, value, interval, end), "", height=26, width=112)


def _draw_difference(value: float, interval: tuple[float, float], end: float, axes: Axes) -> None:
    axes.axvline(0, color=COLOURS["baseline"], lw=1)
    axes.plot(interval, (0, 0), color=COLOURS["text"], lw=1.5, clip_on=False)
    axes.plot(value, 0, "o", color=COLOURS["bar-with"], ms=9, clip_on=False)
    axes.set(xlim=(-end, end), ylim=(-1, 1))
    axes.set_axis_off()
