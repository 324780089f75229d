"""Charts of how artifacts grow: along the training of one model, and with the size of models.

Norms along training and by size are figures 4b and 4c of Darcet et al., "Vision Transformers Need Registers"
(ICLR 2024). Beside them are the share of outliers and, with ground truth, CorLoc of LOST.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lost_reg.artifacts.norm_charts import CUTOFF_LINES, Panel, draw_norms, norm_limits
from lost_reg.artifacts.records import RULES, Artifacts, BackboneArtifacts
from lost_reg.charts import COLOURS, log_scale, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_RATIO = 1.05  # of the numbers of parameters, for models to be of several sizes
_SHORTEST, _MOST_LETTERS = 3, 18  # models whose names fit below an axis; letters of a name that is slanted


@dataclass(frozen=True)
class Growth:
    """Charts along one thing. name: of their file, without suffix."""

    name: Literal["steps", "sizes"]
    title: str
    panels: list[Panel]


@dataclass(frozen=True)
class _Along:
    """What backbones are drawn along: the place of each, and what makes an axis of it."""

    words: str
    places: Sequence[float]
    make_axis: Callable[[Axes], None]


def growths_of(artifacts: Artifacts) -> list[Growth]:
    """The charts of a series of checkpoints, if there is one, and of models of several sizes."""
    growths = []
    checkpoints, models = artifacts.checkpoints, [one for one in artifacts.models if one.parameters]
    if len(checkpoints) > 1:
        steps = [float(one.step or 0) for one in checkpoints]
        axis = partial(_step_axis, steps, _step_words(artifacts))
        panels = _panels(checkpoints, _Along("by step of training", steps, axis))
        growths.append(Growth("steps", f"Along training: {checkpoints[0].backbone}", panels))
    models.sort(key=lambda one: one.parameters or 0)
    if len(models) > 1 and (models[-1].parameters or 0) > _LEAST_RATIO * (models[0].parameters or 0):
        axis = partial(_model_axis, models)
        panels = _panels(models, _Along("by model, the smallest first", range(len(models)), axis))
        growths.append(Growth("sizes", "By size of the model", panels))
    return growths


def _step_words(artifacts: Artifacts) -> str:
    steps = artifacts.about.steps or "step"
    return "step, by the file names" if steps == "file name" else steps.replace("_", " ")


def _panels(rows: Sequence[BackboneArtifacts], along: _Along) -> list[Panel]:
    medians = ", ".join(f"{one.outlier_layer.percentiles['50']:.3g}" for one in rows)
    largest = ", ".join(f"{one.outlier_layer.largest:.3g}" for one in rows)
    shares = ", ".join(f"{100 * one.outliers.share:.2f}" for one in rows)
    rule = RULES[rows[0].outliers.rule]
    panels = [
        Panel(
            partial(_draw_norms, rows, along),
            f"Norms of patch tokens {along.words}; median: {medians}; largest: {largest}",
        ),
        Panel(
            partial(_draw_shares, rows, along),
            f"Share of outliers {along.words}, by three cut-offs; in percent by {rule}: {shares}",
        ),
    ]
    found = [one.discovery for one in rows if one.discovery]
    if len(found) == len(rows):
        values = ", ".join(f"{one.corloc:.1f}" for one in found)
        draw = partial(_draw_corloc, rows, along)
        panels.append(Panel(draw, f"CorLoc of LOST {along.words}: {values}"))
    return panels


def _draw_norms(rows: Sequence[BackboneArtifacts], along: _Along, axes: Axes) -> None:
    layers = [one.outlier_layer for one in rows]
    draw_norms(axes, along.places, layers)
    log_scale(axes, "y", *norm_limits(layers))
    axes.set(title=f"Norm of patch tokens, {_layer_words(rows)}")
    along.make_axis(axes)


def _layer_words(rows: Sequence[BackboneArtifacts]) -> str:
    """Which layers the outliers are of; models of several depths have the same one from the last."""
    layers = {one.outliers.layer for one in rows}
    last = {one.outliers.layer - len(one.layers) for one in rows}
    return f"after layer {(layers if len(layers) == 1 else last).pop()}"


def _draw_shares(rows: Sequence[BackboneArtifacts], along: _Along, axes: Axes) -> None:
    fixed = rows[0].outlier_layer.cutoffs["fixed"]
    for rule, words in {**RULES, "fixed": f"{fixed:g}"}.items():
        shares = [one.outlier_layer.shares[rule] for one in rows]
        if None in shares:
            continue
        style: dict[str, Any] = {
            "color": COLOURS["text"],
            "ls": CUTOFF_LINES[rule],
            "marker": "o",
            "ms": 3,
            "clip_on": False,
        }
        percent = [100 * (share or 0.0) for share in shares]
        titled(axes.plot(along.places, percent, label=f"above {words}", **style)[0])
    axes.set(title="Outliers, % of patches")
    axes.set_ylim(bottom=0)
    along.make_axis(axes)


def _draw_corloc(rows: Sequence[BackboneArtifacts], along: _Along, axes: Axes) -> None:
    found = [one.discovery for one in rows if one.discovery]
    low, high = zip(*(one.interval for one in found))
    blue: dict[str, Any] = {"color": COLOURS["bar-with"]}
    titled(axes.fill_between(along.places, low, high, alpha=0.25, lw=0, label="95 % interval", **blue))
    values = [one.corloc for one in found]
    titled(axes.plot(along.places, values, marker="o", ms=3, clip_on=False, label="LOST", **blue)[0])
    line: dict[str, Any] = {"color": COLOURS["baseline"], "ls": ":"}
    titled(axes.axhline(found[-1].centred, label=f"a centred box: {found[-1].centred:.1f}", **line))
    axes.set(title="CorLoc, %", ylim=(0, max(5.0, *high, 1.1 * found[-1].centred)))
    along.make_axis(axes)


def _step_axis(steps: Sequence[float], words: str, axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set(xlabel=words, xlim=(min(steps), max(steps)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _model_axis(models: Sequence[BackboneArtifacts], axes: Axes) -> None:
    names = [f"{one.backbone[-_MOST_LETTERS:]}\n{(one.parameters or 0) / 1e6:,.1f} M" for one in models]
    slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(names) > _SHORTEST else {}
    axes.set_xticks(range(len(names)), names, fontsize="small", **slant)
    axes.set(xlim=(-0.3, len(names) - 0.7))
