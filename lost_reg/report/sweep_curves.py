"""The sweeps of a report: CorLoc over bias for each layer, with and without registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lost_reg.backbones.zoo import register_pairs
from lost_reg.errors import LostRegError
from lost_reg.files import folders_with
from lost_reg.report.charts import REGISTER_KINDS, axis_top
from lost_reg.report.markup import notes, table, text
from lost_reg.report.plots import Plot, dot, legend, linear_axis
from lost_reg.runs.folder import read_record
from lost_reg.runs.sweep_folder import SCORES_FILE, SWEEP_FILE
from lost_reg.scoring.score_runs import register_kind
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores, describe_setting, read_scores
from lost_reg.types import AUTO, Protocol

CHOSEN = '<path class="chosen" d="M-6-5H6L0 6z"/>'
HINDSIGHT = '<path class="hindsight" d="M-6.5 0 0-6.5 6.5 0 0 6.5z"/>'


@dataclass(frozen=True)
class ReportSweep:
    """A sweep of a report.

    model: its backbone, or that one's counterpart without registers; kind: which registers it had.
    conditions: what sweeps share that differ in their registers alone.
    """

    scores: SweepScores
    model: str
    kind: str
    conditions: tuple
    is_random: bool

    @property
    def shared_name(self) -> str:
        """What sweeps that differ in their registers alone are called together."""
        return self.model + " (RANDOM WEIGHTS)" * self.is_random


@dataclass(frozen=True)
class Curve:
    """The settings of one sweep that differ in their bias alone."""

    sweep: ReportSweep
    layer: int
    settings: tuple[SettingScore, ...]

    @property
    def name(self) -> str:
        return f"{self.sweep.scores.backbone}, layer {self.layer}"

    @property
    def over_bias(self) -> list[tuple[float, float]]:
        """(bias, CorLoc), in order of the biases that are numbers."""
        numbers = [one for one in self.settings if one.protocol.bias != AUTO]
        return sorted((float(one.protocol.bias), self.sweep.scores.corloc(one)) for one in numbers)

    @property
    def at_auto(self) -> list[float]:
        """CorLoc at the bias `auto`, if it was among the settings."""
        return [self.sweep.scores.corloc(one) for one in self.settings if one.protocol.bias == AUTO]


def load_sweeps(top: Path) -> tuple[list[ReportSweep], list[Path], list[LostRegError]]:
    """The sweeps at and below a folder that have scores, the folders of those that have none, and errors."""
    sweeps, unscored, errors = [], [], []
    for folder in folders_with(top, SWEEP_FILE):
        if not (folder / SCORES_FILE).is_file():
            unscored.append(folder)
            continue
        try:
            sweeps.append(_load(folder))
        except LostRegError as error:
            errors.append(error)
    return sweeps, unscored, errors


def _load(folder: Path) -> ReportSweep:
    scores = read_scores(folder)
    settings = read_record(folder / SWEEP_FILE)["settings"]
    try:
        backbone, kind = settings["backbone"], register_kind(settings)
        precision, is_random = settings["precision"], settings["weights"]["source"] == "random"
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise LostRegError(f"{folder / SWEEP_FILE} does not hold the settings of a sweep: {reason}") from None
    without = {other: name for name, other in register_pairs().items()}
    same_images = scores.dataset, scores.split, scores.images_scored, scores.tune_fraction, scores.seed
    conditions = (*same_images, precision, is_random)
    return ReportSweep(scores, without.get(backbone, backbone), kind, conditions, is_random)


def curves_html(sweeps: Sequence[ReportSweep], unscored: Sequence[Path]) -> str:
    """The figure and its tables; for the sweeps without scores a note."""
    left_out = [
        f"{folder} is left out: it has no {SCORES_FILE}; `lost-reg sweep --resume` finishes and scores it"
        for folder in unscored
    ]
    if not sweeps:
        return notes(left_out)
    left_out += [
        f"{sweep.scores.folder} is incomplete: {sweep.scores.not_done:,} images are not done and left out"
        for sweep in sweeps
        if sweep.scores.not_done
    ]
    panels = _panels(sweeps)
    layers = sorted({curve.layer for curves in panels for curve in curves})
    top = axis_top([sweep.scores.corloc(sweep.scores.hindsight) for sweep in sweeps])
    figures = "\n".join(_figure(curves, layers, top) for curves in panels)
    return (
        '<p class="lead">CorLoc over the bias, for each layer. A triangle marks the setting that was chosen '
        "on other images; a diamond the best in hindsight, which was chosen on the very images that it is "
        "scored on and is too high to be compared.</p>\n"
        f'<div class="plots">{figures}</div>\n{_legend(panels, layers)}\n{_choices(sweeps)}{notes(left_out)}'
    )


def _panels(sweeps: Sequence[ReportSweep]) -> list[list[Curve]]:
    """The curves of each panel: of one model, dataset and kind of features; of no kind two sweeps."""
    panels: dict[tuple, list[Curve]] = {}
    for index, sweep in enumerate(sweeps):
        alike = [(one.model, one.kind, one.conditions) for one in sweeps[:index]]
        number = alike.count((sweep.model, sweep.kind, sweep.conditions))
        lines: dict[Protocol, list[SettingScore]] = {}
        for setting in sweep.scores.settings:
            lines.setdefault(_without_bias(setting.protocol), []).append(setting)
        for protocol, settings in lines.items():
            features = _features(protocol)
            key = sweep.model, sweep.conditions, number, features
            panels.setdefault(key, []).append(Curve(sweep, protocol.layer, tuple(settings)))
    return list(panels.values())


def _without_bias(protocol: Protocol) -> Protocol:
    return replace(protocol, bias=0.0)


def _features(protocol: Protocol) -> str:
    """What a panel's settings share, such as "k, normalised"."""
    words = describe_setting(protocol).split(", ")
    words[0] = protocol.facet
    size = [f"max side {protocol.max_side}"] * (protocol.max_side is not None)
    return ", ".join([word for word in words if not word.startswith("bias")] + size)


def _figure(curves: Sequence[Curve], layers: Sequence[int], top: float) -> str:
    scores, protocol = curves[0].sweep.scores, curves[0].settings[0].protocol
    names = {curve.sweep.scores.backbone for curve in curves}
    name = names.pop() if len(names) == 1 else curves[0].sweep.shared_name
    title = f"{name} on {scores.dataset} {scores.split}: {_features(protocol)}"
    biases = [bias for curve in curves for bias, _ in curve.over_bias] or [0.0]
    is_mixed = _is_mixed(curves)
    has_auto = any(curve.at_auto for curve in curves)
    plot = Plot(
        x=linear_axis(min(biases), max(biases), end=0.86 if has_auto else 1.0),
        y=linear_axis(0, top),
        x_name="bias",
        label=f"{title}: CorLoc over bias; the values are in the table below",
    )
    marks = [mark for curve in curves for mark in _marks(plot, curve, layers)]
    marks += [mark for curve in curves for mark in _highlights(plot, curve)]
    drawn = plot.svg(
        [
            plot.line(
                curve.over_bias, curve.sweep.kind if is_mixed else "plain", _colour(curve.layer, layers)
            )
            for curve in curves
        ],
        marks,
        beyond=AUTO if has_auto else "",
    )
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>\n'
        f'<p class="of-plot">CorLoc, %</p>{drawn}\n'
        f"<details><summary>All values</summary>{_values(title, curves)}</details></figure>"
    )


def _marks(plot: Plot, curve: Curve, layers: Sequence[int]) -> list[str]:
    """A dot at `auto`, and for a curve of a single bias."""
    places = [(None, corloc) for corloc in curve.at_auto]
    places += curve.over_bias if len(curve.over_bias) == 1 else []
    shape = dot(_colour(curve.layer, layers), curve.sweep.kind)
    return [plot.mark(place, shape, f"{curve.name}: {place[1]:.1f}") for place in places]


def _highlights(plot: Plot, curve: Curve) -> list[str]:
    scores, marks = curve.sweep.scores, []
    for which, one, shape in (
        ("best in hindsight", scores.hindsight, HINDSIGHT),
        ("chosen", scores.chosen, CHOSEN),
    ):
        if one in curve.settings:
            bias = None if one.protocol.bias == AUTO else float(one.protocol.bias)
            said = f"{which}: {curve.name}, bias {one.protocol.bias}: {scores.corloc(one):.1f}"
            marks.append(plot.mark((bias, scores.corloc(one)), shape, said))
    return marks


def _colour(layer: int, layers: Sequence[int]) -> str:
    """From orange for the first layer to purple for the last; legible on light and on dark."""
    hue = 50 + 250 * layers.index(layer) / max(1, len(layers) - 1)
    return f"oklch(.63 .15 {hue:.0f})"


def _legend(panels: Sequence[Sequence[Curve]], layers: Sequence[int]) -> str:
    kinds = {curve.sweep.kind for curves in panels if _is_mixed(curves) for curve in curves}
    items = [
        (f'<path class="line" stroke="{_colour(layer, layers)}" d="M-12 0H12"/>', f"layer {layer}")
        for layer in layers
    ]
    items += [
        (f'<path class="line {kind} uncoloured" d="M-12 0H12"/>', said)
        for kind, said in REGISTER_KINDS.items()
        if kind in kinds
    ]
    return legend([*items, (CHOSEN, "chosen on other images"), (HINDSIGHT, "best in hindsight")])


def _is_mixed(curves: Sequence[Curve]) -> bool:
    """Whether a panel's curves differ in their registers, which the style of their lines then tells."""
    return len({curve.sweep.kind for curve in curves}) > 1


def _values(title: str, curves: Sequence[Curve]) -> str:
    """CorLoc of each bias, a column for each curve."""
    columns = ["bias", *(curve.name for curve in curves)]
    by_curve: list[dict[Any, str]] = [
        {one.protocol.bias: f"{curve.sweep.scores.corloc(one):.1f}" for one in curve.settings}
        for curve in curves
    ]
    biases = {bias for values in by_curve for bias in values}
    ordered = [*sorted(biases - {AUTO}), *({AUTO} & biases)]
    rows = [
        [text(f"{bias:g}" if bias != AUTO else AUTO), *(values.get(bias, "-") for values in by_curve)]
        for bias in ordered
    ]
    return table(f"CorLoc over bias, {title}", columns, rows, columns, "values")


def _choices(sweeps: Sequence[ReportSweep]) -> str:
    """The choice of each sweep, its best in hindsight, and LOST as published."""
    columns = ("backbone", "dataset", "which", "setting", "CorLoc", "95 % interval", "images")
    rows = []
    for sweep in sweeps:
        scores = sweep.scores
        settings = [
            (f"chosen on {scores.images_tuned:,} other images", scores.chosen),
            ("best in hindsight", scores.hindsight),
            ("LOST as published", scores.as_published),
        ]
        rows += [_choice(scores, which, one) for which, one in settings if one]
    return table("Sweeps", columns, rows, ("CorLoc", "images"), "choices")


def _choice(scores: SweepScores, which: str, one: SettingScore) -> list[str]:
    low, high = scores.interval(one)
    cells = (
        scores.backbone,
        f"{scores.dataset} {scores.split}",
        which,
        describe_setting(one.protocol),
        f"{scores.corloc(one):.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{scores.images_scored:,}",
    )
    return [text(cell) for cell in cells]
