"""Sweeps: CorLoc over the bias, or another option, for each layer, with and without registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lost_reg.charts import COLOURS, chart, ordered_colour, percent_top, titled
from lost_reg.discovery.methods import describe_setting
from lost_reg.report.curves import Curve, Panel, is_number, layer_order, panels_of
from lost_reg.report.loading import ReportSweep
from lost_reg.report.page import Section, Table
from lost_reg.report.pairs import REGISTER_KINDS
from lost_reg.runs.sweep_folder import SCORES_FILE
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = {"without": "--", "with": "-", "test-time": ":"}


def sweeps_section(sweeps: Sequence[ReportSweep], unscored: Sequence[Path]) -> Section | None:
    """Charts with their values, the choice of each sweep, and notes on what is left out."""
    if not sweeps and not unscored:
        return None
    notes = [
        f"{folder} is left out: it has no {SCORES_FILE}; `lost-reg sweep --resume` finishes and scores it"
        for folder in unscored
    ]
    notes += [
        f"{sweep.scores.folder} is incomplete: {sweep.scores.not_done:,} images are not done and left out"
        for sweep in sweeps
        if sweep.scores.not_done
    ]
    panels = panels_of(sweeps)
    layers = sorted({curve.layer for panel in panels for curve in panel.curves}, key=layer_order)
    top = percent_top([sweep.scores.corloc(sweep.scores.hindsight) for sweep in sweeps] or [0])
    figures = [
        {"title": panel.title, "chart": _chart(panel, layers, top), "table": _values(panel)}
        for panel in panels
    ]
    data = {"figures": figures, "choices": _choices(sweeps) if sweeps else None, "notes": notes}
    return Section("sweeps", "Sweeps", data)


# --- charts -------------------------------------------------------------------------------------------


def _chart(panel: Panel, layers: Sequence[Any], top: float) -> Markup | None:
    """None if there is no option to draw curves over."""
    if not panel.axis:
        return None
    label = f"{panel.title}: CorLoc over {panel.axis}; the values are in the table below"
    return Markup(chart(partial(_draw, panel, layers, top), label))


def _draw(panel: Panel, layers: Sequence[Any], top: float, axes: Axes) -> None:
    places = _places(panel)
    colours = {layer: ordered_colour(index, len(layers)) for index, layer in enumerate(layers)}
    is_mixed = len(panel.kinds) > 1
    for curve in panel.curves:
        line = _LINES[curve.sweep.kind] if is_mixed else "-"
        numbers = sorted(filter(is_number, curve.settings))
        for values in (numbers, *([word] for word in panel.words if word in curve.settings)):
            _draw_line(curve, values, places, axes, color=colours[curve.layer], ls=line)
    marks = {mark for curve in panel.curves for mark in _draw_marks(curve, places, axes)}
    for layer in dict.fromkeys(curve.layer for curve in panel.curves if curve.layer is not None):
        axes.plot([], [], color=colours[layer], label=f"layer {layer}")
    for kind in REGISTER_KINDS:
        if is_mixed and kind in panel.kinds:
            axes.plot([], [], color=COLOURS["text"], ls=_LINES[kind], label=REGISTER_KINDS[kind])
    for name, style in _MARKS.items():
        if name in marks:
            axes.plot([], [], ls="none", label=name, **style)
    axes.set(title="CorLoc, %", xlabel=panel.axis, ylim=(0, top))
    _set_ticks(panel, places, axes)


def _places(panel: Panel) -> dict[Any, float]:
    """Where each value stands on the axis: numbers where they are, words beyond them."""
    low, high = (panel.numbers[0], panel.numbers[-1]) if panel.numbers else (0.0, 0.0)
    room = 0.16 * ((high - low) or 1.0)
    places = {value: float(value) for value in panel.numbers}
    return places | {word: high + room * number for number, word in enumerate(panel.words, start=1)}


def _set_ticks(panel: Panel, places: dict[Any, float], axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = (panel.numbers[0], panel.numbers[-1]) if panel.numbers else (0.0, 0.0)
    ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    ticks = ticks if len(panel.numbers) > 1 else panel.numbers
    labels = [f"{tick + 0.0:.6g}" for tick in ticks] + list(map(str, panel.words))
    axes.set_xticks([*ticks, *(places[word] for word in panel.words)], labels)


def _draw_line(curve: Curve, values: list, places: dict[Any, float], axes: Axes, **style: Any) -> None:
    """A line, or a dot for a single value."""
    if not values:
        return
    points = [(places[value], curve.corloc(value)) for value in values]
    is_dot = len(points) == 1
    dot: dict[str, Any] = (
        {"marker": "o", "ms": 6, "mfc": COLOURS["surface"], "mew": 2, "clip_on": False} if is_dot else {}
    )
    (line,) = axes.plot(*zip(*points), **style, **dot)
    titled(line, f"{curve.name}: {points[0][1]:.1f}" if is_dot else curve.name)


_MARKS: dict[str, dict[str, Any]] = {
    "best in hindsight": {"marker": "D", "ms": 8, "mfc": "none", "mec": COLOURS["text"], "mew": 1.6},
    "chosen on other images": {
        "marker": "v", "ms": 8.5, "mfc": COLOURS["text"], "mec": COLOURS["surface"], "mew": 1.2,
    },
}  # fmt: skip


def _draw_marks(curve: Curve, places: dict[Any, float], axes: Axes) -> Iterator[str]:
    """Mark the sweep's best in hindsight and its choice where they are on this curve; gives which were."""
    scores = curve.sweep.scores
    for (name, style), one in zip(_MARKS.items(), (scores.hindsight, scores.chosen)):
        for value, setting in curve.settings.items():
            if setting == one:
                corloc = curve.corloc(value)
                (mark,) = axes.plot(places[value], corloc, ls="none", clip_on=False, zorder=3, **style)
                titled(mark, f"{name}: {curve.name}, {curve.axis} {value}: {corloc:.1f}")
                yield name


# --- tables -------------------------------------------------------------------------------------------


def _values(panel: Panel) -> Table:
    """CorLoc of each value on the axis, a column for each curve."""
    columns = [panel.axis, *(curve.name for curve in panel.curves)]
    rows = []
    for value in (*panel.numbers, *panel.words):
        heading = f"{value:g}" if is_number(value) else str(value) if panel.axis else "CorLoc"
        corlocs = (f"{one.corloc(value):.1f}" if value in one.settings else "-" for one in panel.curves)
        rows.append([heading, *corlocs])
    return Table(f"CorLoc over {panel.axis or 'settings'}, {panel.title}", "values", columns, rows, columns)


def _choices(sweeps: Sequence[ReportSweep]) -> Table:
    """The choice of each sweep, its best in hindsight, and LOST as published."""
    columns = ("backbone", "dataset", "which", "setting", "CorLoc", "95 % interval", "images")
    rows = []
    for sweep in sweeps:
        scores = sweep.scores
        settings = (
            (f"chosen on {scores.images_tuned:,} other images", scores.chosen),
            ("best in hindsight", scores.hindsight),
            ("LOST as published", scores.as_published),
        )
        rows += [_choice(scores, which, one) for which, one in settings if one]
    return Table("Sweeps", "choices", columns, rows, ("CorLoc", "images"))


def _choice(scores: SweepScores, which: str, one: SettingScore) -> list[str]:
    low, high = scores.interval(one)
    return [
        scores.backbone,
        f"{scores.dataset} {scores.split}",
        which,
        describe_setting(one.setting),
        f"{scores.corloc(one):.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{scores.images_scored:,}",
    ]
