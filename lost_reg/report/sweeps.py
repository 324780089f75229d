"""The section on sweeps: CorLoc over the bias or another option, by method, layer and kind of registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lost_reg.backbones.zoo import register_pairs
from lost_reg.charts import COLOURS, chart, ordered_colour, percent_top, titled
from lost_reg.discovery.methods import describe_setting, main_option
from lost_reg.errors import one_line
from lost_reg.report.loading import ReportSweep
from lost_reg.report.page import Section, Table
from lost_reg.runs.sweep_folder import SCORES_FILE
from lost_reg.scoring.found_boxes import REGISTER_KINDS
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores
from lost_reg.scoring.sweep_text import baselines, choice_notes, choice_rows, title_of
from lost_reg.text import agreeing, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASELINES = {"centred box": "-", "whole image": (0, (1, 2))}
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
        f"{sweep.scores.folder} is incomplete: {counted(sweep.scores.not_done, 'image')} "
        f"{agreeing(sweep.scores.not_done, 'are')} not done and left out"
        for sweep in sweeps
        if sweep.scores.not_done
    ]
    notes += [f"{_name(one)}: {line}" for one in sweeps for line in choice_notes(one.scores)]
    panels = panels_of(sweeps)
    layers = sorted({curve.layer for panel in panels for curve in panel.curves}, key=layer_order)
    top = percent_top([height for sweep in sweeps for height in _heights(sweep.scores)] or [0])
    figures = [
        {"title": panel.title, "chart": _chart(panel, layers, top), "table": _values(panel)}
        for panel in panels
    ]
    data = {"figures": figures, "choices": _choices(sweeps) if sweeps else None, "notes": notes}
    return Section("sweeps", "Sweeps", data)


def _name(sweep: ReportSweep) -> str:
    """A sweep's backbone and images."""
    return f"{sweep.scores.backbone} on {sweep.scores.dataset} {sweep.scores.split}"


def _heights(scores: SweepScores) -> list[float]:
    """The largest CorLoc of a setting, and those of the baselines."""
    return [scores.corloc(scores.hindsight), *_baselines(scores).values()]


def _baselines(scores: SweepScores) -> dict[str, float]:
    """CorLoc of the trivial baselines, in percent."""
    return {name: 100 * found / scores.images_scored for name, found in baselines(scores).items()}


# --- from settings to curves --------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """The settings of one sweep that differ only in the option on the axis.

    axis: that option's name, or "" if there is none; settings: by its value.
    layer: None if the layer is on the axis.
    """

    sweep: ReportSweep
    axis: str
    layer: Any
    settings: dict[Any, SettingScore]

    @property
    def name(self) -> str:
        """The backbone, with the layer unless it is on the axis."""
        return self.sweep.scores.backbone + ("" if self.layer is None else f", layer {self.layer}")

    def corloc(self, value: Any) -> float:
        """The CorLoc at a value of the axis."""
        return self.sweep.scores.corloc(self.settings[value])


@dataclass(frozen=True)
class Panel:
    """The curves of a chart: one model, with and without registers, one dataset, method and features."""

    curves: tuple[Curve, ...]

    @property
    def axis(self) -> str:
        """The option on the axis of all its curves, or ""."""
        return self.curves[0].axis

    @property
    def title(self) -> str:
        """The backbone, the dataset, the method if there are several, and the features of all curves."""
        sweep = self.curves[0].sweep
        names = {curve.sweep.scores.backbone for curve in self.curves}
        name = names.pop() if len(names) == 1 else model_of(sweep) + self._in_common()
        one = next(iter(self.curves[0].settings.values()))
        method = f"{title_of(one)}, " if any(len(of.sweep.scores.methods) > 1 for of in self.curves) else ""
        return f"{name} on {sweep.scores.dataset} {sweep.scores.split}: {method}{_features(one, self.axis)}"

    def _in_common(self) -> str:
        """The conditions that all its curves share, such as " (RANDOM WEIGHTS, bf16)"."""
        first, *others = (curve.sweep.scores.conditions for curve in self.curves)
        shared = [one for one in first if all(one in other for other in others)]
        return f" ({', '.join(shared)})" if shared else ""

    @property
    def numbers(self) -> list[float]:
        """The values on the axis, ascending."""
        return sorted({one for curve in self.curves for one in curve.settings if is_number(one)})

    @property
    def words(self) -> list[Any]:
        """The values that are not numbers, such as "auto"."""
        values = {one for curve in self.curves for one in curve.settings if not is_number(one)}
        return sorted(values, key=str)

    @property
    def kinds(self) -> set[str]:
        """Which kinds of registers the sweeps had."""
        return {curve.sweep.kind for curve in self.curves}


def panels_of(sweeps: Sequence[ReportSweep]) -> list[Panel]:
    """The curves of each chart; two sweeps of a model and method with equal kinds of registers share none."""
    panels: dict[tuple, list[Curve]] = {}
    swept: Counter[tuple] = Counter()
    for sweep in sweeps:
        for method in sweep.scores.methods:
            key = model_of(sweep), _conditions(sweep), method
            repetition = swept[key, sweep.kind]
            swept[key, sweep.kind] += 1
            for features, curve in _curves(sweep, method):
                panels.setdefault((key, repetition, features), []).append(curve)
    return [Panel(tuple(curves)) for curves in panels.values()]


def _curves(sweep: ReportSweep, method: str) -> Iterator[tuple[tuple, Curve]]:
    """A method's curves in a sweep, each preceded by what it shares with the other curves of its chart."""
    of_method = [one for one in sweep.scores.settings if one.setting["method"] == method]
    options = [_options(one) for one in of_method]
    axis = _axis(options, main_option(method))
    curves: dict[tuple, dict[Any, SettingScore]] = {}
    for one, setting in zip(options, of_method):
        value, layer = one.pop(axis, ""), one.pop("layer", None)
        features = (axis, *sorted(one.items(), key=str))
        curves.setdefault((features, layer), {})[value] = setting
    for (features, layer), settings in curves.items():
        yield features, Curve(sweep, axis, layer, settings)


def _axis(options: Sequence[dict[str, Any]], main: str | None) -> str:
    """The option on the axis: the one with the most values, some of them numbers; "" if there is none.

    The method's main option is the first choice, and the layer the last.
    """
    values = {name: {one[name] for one in options} for name in options[0]}
    varying = [name for name, some in values.items() if len(some) > 1 and any(map(is_number, some))]
    rank = {main: 2, "layer": 0}
    return max(varying, key=lambda name: (rank.get(name, 1), len(values[name])), default="")


def _options(one: SettingScore) -> dict[str, Any]:
    """Features and options of a setting by name, with values that can be compared."""
    options = {**one.setting["features"], **one.setting["options"]}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def is_number(value: Any) -> bool:
    """Whether an option's value can be placed on a numeric axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def layer_order(layer: Any) -> tuple:
    """A key to sort layers by: single ones by number, then joined ones."""
    return (0, layer, "") if is_number(layer) else (1, 0, str(layer))


def model_of(sweep: ReportSweep) -> str:
    """A sweep's backbone, or its counterpart without registers."""
    without = {other: name for name, other in register_pairs().items()}
    backbone = sweep.settings["backbone"]
    return without.get(backbone, backbone)


def _conditions(sweep: ReportSweep) -> tuple:
    """What is equal between sweeps that differ only in their registers."""
    scores = sweep.scores
    same_images = scores.dataset, scores.split, scores.images_scored, scores.tune_fraction, scores.seed
    return (*same_images, sweep.settings["precision"], sweep.is_random)


def _features(one: SettingScore, axis: str) -> str:
    """The features and options that a chart's settings share, such as "k, normalised"."""
    _, *words = describe_setting(one.setting).split(", ")  # without the layer
    on_axis = f"{axis} ", f"{axis.replace('_', ' ')} "
    return ", ".join([one.setting["features"]["facet"], *(w for w in words if not w.startswith(on_axis))])


# --- charts -------------------------------------------------------------------------------------------


def _chart(panel: Panel, layers: Sequence[Any], top: float) -> Markup | None:
    """None if there is no option to draw curves over."""
    label = f"{panel.title}: CorLoc over {panel.axis}; the values are in the table below"
    return chart(partial(_draw, panel, layers, top), label) if panel.axis else None


def _draw(panel: Panel, layers: Sequence[Any], top: float, axes: Axes) -> None:
    places = _places(panel)
    _draw_baselines(panel, axes)
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


def _draw_baselines(panel: Panel, axes: Axes) -> None:
    """A line across for each trivial baseline; sweeps of the same images have the same ones."""
    drawn = {one for curve in panel.curves for one in _baselines(curve.sweep.scores).items()}
    for name, corloc in sorted(drawn):
        line = axes.axhline(corloc, color=COLOURS["baseline"], ls=_BASELINES[name], lw=1.5, label=name)
        titled(line, f"{name}: {corloc:.1f}")


def _places(panel: Panel) -> dict[Any, float]:
    """The position of each value on the axis: numbers at their value, words to the right of them."""
    low, high = (panel.numbers[0], panel.numbers[-1]) if panel.numbers else (0.0, 0.0)
    room = 0.16 * ((high - low) or 1.0)
    places = {value: float(value) for value in panel.numbers}
    return places | {word: high + room * number for number, word in enumerate(panel.words, start=1)}


def _set_ticks(panel: Panel, places: dict[Any, float], axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ticks = panel.numbers
    if len(ticks) > 1:
        low, high = ticks[0], ticks[-1]
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    labels = [f"{tick + 0.0:.6g}" for tick in ticks] + [one_line(str(word)) for word in panel.words]
    axes.set_xticks([*ticks, *(places[word] for word in panel.words)], labels)


def _draw_line(curve: Curve, values: list, places: dict[Any, float], axes: Axes, **style: Any) -> None:
    """A line, or a dot for a single value."""
    points = [(places[value], curve.corloc(value)) for value in values]
    title = curve.name
    if len(points) == 1:
        title += f": {points[0][1]:.1f}"
        style |= {"marker": "o", "ms": 6, "mfc": COLOURS["surface"], "mew": 2, "clip_on": False}
    if points:
        titled(axes.plot(*zip(*points), **style)[0], title)


_MARKS: dict[str, dict[str, Any]] = {
    "best in hindsight": {"marker": "D", "ms": 8, "mfc": "none", "mec": COLOURS["text"], "mew": 1.6},
    "chosen on other images": {
        "marker": "v", "ms": 8.5, "mfc": COLOURS["text"], "mec": COLOURS["surface"], "mew": 1.2,
    },
}  # fmt: skip


def _draw_marks(curve: Curve, places: dict[Any, float], axes: Axes) -> Iterator[str]:
    """Mark the sweep's best in hindsight and its choice if they are on this curve; yields those marked."""
    scores = curve.sweep.scores
    for (name, style), one in zip(_MARKS.items(), (scores.hindsight, scores.chosen)):
        for value, setting in curve.settings.items():
            if setting == one:
                corloc = curve.corloc(value)
                mark = axes.plot(places[value], corloc, ls="none", clip_on=False, zorder=3, **style)[0]
                titled(mark, f"{name}: {curve.name}, {curve.axis} {value}: {corloc:.1f}")
                yield name


# --- tables -------------------------------------------------------------------------------------------


def _values(panel: Panel) -> Table:
    """CorLoc of each value on the axis, a column for each curve."""
    rows = []
    for value in (*panel.numbers, *panel.words):
        heading = f"{value:g}" if is_number(value) else str(value) if panel.axis else "CorLoc"
        corlocs = {
            one.name: f"{one.corloc(value):.1f}" if value in one.settings else "-" for one in panel.curves
        }
        rows.append({panel.axis: heading, **corlocs})
    return Table(f"CorLoc over {panel.axis or 'settings'}, {panel.title}", "values", rows, rows[0])


def _choices(sweeps: Sequence[ReportSweep]) -> Table:
    """The choice of each sweep, its best in hindsight, and its methods as published."""
    rows = []
    for scores in (sweep.scores for sweep in sweeps):
        of_sweep = {"backbone": scores.backbone, "dataset": f"{scores.dataset} {scores.split}"}
        rows += [{**of_sweep, **row, "images": f"{scores.images_scored:,}"} for row in choice_rows(scores)]
    return Table("Table of sweeps", "choices", rows, ("CorLoc", "images"))
