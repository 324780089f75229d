"""How norms are drawn in charts of artifacts, whatever they are drawn along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lost_reg.artifacts.records import PERCENTILES, LayerNorms, Percentile, Rule
from lost_reg.charts import COLOURS, Draw, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CUTOFF_LINES: dict[Rule, str] = {"sigma": "--", "fixed": ":", "reference": "-."}
LEAST_NORM = 1e-3
_SHARES: tuple[tuple[Percentile, Percentile, float, str], ...] = (
    ("1", "99", 0.25, "98 % of patches"),
    ("25", "75", 0.4, "50 % of patches"),
)


@dataclass(frozen=True)
class Panel:
    """A chart. label: a description of it in words."""

    draw: Draw
    label: str


def norm_limits(layers: Sequence[LayerNorms]) -> tuple[float, float]:
    """The limits of a norm axis on which all of these are, so that they can be compared."""
    low = min(layer.percentiles["1"] for layer in layers)
    return max(low, LEAST_NORM), max(1.1 * max(layer.largest for layer in layers), 2 * LEAST_NORM)


def draw_norms(axes: Axes, places: Sequence[float], layers: Sequence[LayerNorms]) -> None:
    """Distributions of norms along the x axis: shares of the patches, the median and the largest."""
    by_name = {name: [layer.percentiles[name] for layer in layers] for name in PERCENTILES}
    grey: dict[str, Any] = {"color": COLOURS["bar-plain"], "lw": 0}
    for low, high, alpha, label in _SHARES:
        titled(axes.fill_between(places, by_name[low], by_name[high], alpha=alpha, label=label, **grey))
    titled(axes.plot(places, by_name["50"], color=COLOURS["text"], label="median")[0])
    largest = [layer.largest for layer in layers]
    titled(axes.plot(places, largest, color=COLOURS["published"], label="largest")[0])
