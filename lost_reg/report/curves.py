"""From the settings of sweeps to curves: what is on the axis of a chart, and which curves share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lost_reg.backbones.zoo import register_pairs
from lost_reg.discovery.methods import describe_setting
from lost_reg.report.loading import ReportSweep
from lost_reg.scoring.sweep_scores import SettingScore


@dataclass(frozen=True)
class Curve:
    """The settings of one sweep that differ only in the option on the axis.

    axis: its name, or "" if there is none; settings: by its value.
    layer: None if that is the option on the axis.
    """

    sweep: ReportSweep
    axis: str
    layer: Any
    settings: dict[Any, SettingScore]

    @property
    def name(self) -> str:
        return self.sweep.scores.backbone + ("" if self.layer is None else f", layer {self.layer}")

    def corloc(self, value: Any) -> float:
        return self.sweep.scores.corloc(self.settings[value])


@dataclass(frozen=True)
class Panel:
    """The curves of one chart: one model, with and without registers, one dataset, one kind of features."""

    curves: tuple[Curve, ...]

    @property
    def axis(self) -> str:
        return self.curves[0].axis

    @property
    def title(self) -> str:
        sweep = self.curves[0].sweep
        names = {curve.sweep.scores.backbone for curve in self.curves}
        name = names.pop() if len(names) == 1 else model_of(sweep) + " (RANDOM WEIGHTS)" * sweep.is_random
        one = next(iter(self.curves[0].settings.values()))
        return f"{name} on {sweep.scores.dataset} {sweep.scores.split}: {_features(one, self.axis)}"

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
        """Which registers the sweeps had."""
        return {curve.sweep.kind for curve in self.curves}


def panels_of(sweeps: Sequence[ReportSweep]) -> list[Panel]:
    """The curves of each chart; two sweeps of one model and of the same kind of registers share none."""
    panels: dict[tuple, list[Curve]] = {}
    keys = [(model_of(sweep), _conditions(sweep)) for sweep in sweeps]
    kinds = [(*key, sweep.kind) for key, sweep in zip(keys, sweeps)]
    for index, (sweep, key) in enumerate(zip(sweeps, keys)):
        repetition = kinds[:index].count(kinds[index])
        for features, curve in _curves(sweep):
            panels.setdefault((*key, repetition, features), []).append(curve)
    return [Panel(tuple(curves)) for curves in panels.values()]


def _curves(sweep: ReportSweep) -> Iterator[tuple[tuple, Curve]]:
    """The curves of a sweep, each after what it shares with the others of its chart."""
    options = [_options(one) for one in sweep.scores.settings]
    axis = _axis(options)
    curves: dict[tuple, dict[Any, SettingScore]] = {}
    for one, setting in zip(options, sweep.scores.settings):
        value, layer = one.pop(axis, ""), one.pop("layer", None)
        features = (axis, *sorted(one.items(), key=str))
        curves.setdefault((features, layer), {})[value] = setting
    for (features, layer), settings in curves.items():
        yield features, Curve(sweep, axis, layer, settings)


def _axis(options: Sequence[dict[str, Any]]) -> str:
    """The option that curves are drawn over: the one with the most values, numbers among them, or "".

    If the bias varies, it is the bias; the layer is the last choice.
    """
    values = {name: {one[name] for one in options} for name in options[0]}
    varying = [name for name, some in values.items() if len(some) > 1 and any(map(is_number, some))]
    first = {"bias": 2, "layer": 0}
    return max(varying, key=lambda name: (first.get(name, 1), len(values[name])), default="")


def _options(one: SettingScore) -> dict[str, Any]:
    """Features and options of a setting by name, with values that can be compared."""
    options = {**one.setting["features"], **one.setting["options"]}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def is_number(value: Any) -> bool:
    """Whether a value of an option can stand on an axis of numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def layer_order(layer: Any) -> tuple:
    """A key to sort layers by: single ones by their number, then joined ones."""
    return (0, layer, "") if is_number(layer) else (1, 0, str(layer))


def model_of(sweep: ReportSweep) -> str:
    """A sweep's backbone, or that one's counterpart without registers."""
    without = {other: name for name, other in register_pairs().items()}
    backbone = sweep.settings["backbone"]
    return without.get(backbone, backbone)


def _conditions(sweep: ReportSweep) -> tuple:
    """What sweeps share that differ only in their registers."""
    scores = sweep.scores
    same_images = scores.dataset, scores.split, scores.images_scored, scores.tune_fraction, scores.seed
    return (*same_images, sweep.settings["method"], sweep.settings["precision"], sweep.is_random)


def _features(one: SettingScore, axis: str) -> str:
    """What a chart's settings share, such as "k, normalised"."""
    _, *words = describe_setting(one.setting).split(", ")  # without the layer
    on_axis = f"{axis} ", f"{axis.replace('_', ' ')} "
    return ", ".join([one.setting["features"]["facet"], *(w for w in words if not w.startswith(on_axis))])
