"""Charts of artifacts: of each backbone, and of how they grow with training and with a model's size.

For artifact folders and for reports. The norms along layers, along training and by size are figures 4a, b and
c of Darcet et al., "Vision Transformers Need Registers" (ICLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.artifacts.growth_figures import growths_of
from lost_reg.artifacts.norm_charts import CUTOFF_LINES, LEAST_NORM, Panel, draw_norms, norm_limits
from lost_reg.artifacts.records import (
    GROUPS,
    RULES,
    Artifacts,
    BackboneArtifacts,
    CosineDistribution,
    Rule,
)
from lost_reg.charts import COLOURS, chart_file, log_scale, titled
from lost_reg.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = tuple(f"{name}.svg" for name in ("layers", "norms", "neighbours", "steps", "sizes"))
_GROUP_COLOURS = {"outliers": "published", "rest": "bar-plain"}


def write_figures(artifacts: Artifacts, folder: Path) -> list[str]:
    """Write the figures into a folder; returns their files' names, which are among `FIGURES`.

    They are layers.svg, norms.svg and neighbours.svg, with a panel for each backbone; steps.svg, for a series
    of checkpoints; and sizes.svg, for several backbones.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    shown = shown_alone(artifacts)
    limits = limits_of(shown)
    panels = [(one.title, panels_of(one, limits)) for one in shown]
    figures = {
        name: [(title, of_backbone[name].draw) for title, of_backbone in panels]
        for name in ("layers", "norms", "neighbours")
    }
    for growth in growths_of(artifacts):
        figures[growth.name] = [("", panel.draw) for panel in growth.panels]
    for name, beside in figures.items():
        with whole_file(folder / f"{name}.svg", "the figure") as part:
            part.write_text(chart_file(beside), encoding="utf-8")
    return [f"{name}.svg" for name in figures]


def shown_alone(artifacts: Artifacts) -> list[BackboneArtifacts]:
    """The backbones with charts of their own: of a series, only the last checkpoint."""
    return [*artifacts.models, *artifacts.checkpoints[-1:]]


def limits_of(backbones: Sequence[BackboneArtifacts]) -> tuple[float, float]:
    """The limits of one axis for the norms of all backbones."""
    return norm_limits([layer for one in backbones for layer in one.layers])


def panels_of(one: BackboneArtifacts, limits: tuple[float, float]) -> dict[str, Panel]:
    """The panels of a backbone by name; limits: of its axis of norms by layer."""
    at = one.outlier_layer
    cutoffs = "; ".join(f"{RULES[rule]}: {cutoff:.4g}" for rule, cutoff in near_cutoffs(one).items())
    cosines = one.outliers.neighbour_cosine.items()
    means = ", ".join(f"{GROUPS[group]} {found.mean:.2f}" for group, found in cosines if found)
    return {
        "layers": Panel(
            partial(_draw_layers, one, limits),
            f"Norms of patch tokens of {one.title} by layer; after layer {at.layer} their median is "
            f"{at.percentiles['50']:.3g}, their 98th percentile {at.percentiles['98']:.3g} and the largest "
            f"{at.largest:.3g}",
        ),
        "norms": Panel(
            partial(_draw_norms, one),
            f"Distribution of norms of {one.title} after layer {at.layer}; cut-offs: {cutoffs}",
        ),
        "neighbours": Panel(
            partial(_draw_neighbours, one),
            f"Cosine of patches to their four neighbours in {one.title}; means: {means}",
        ),
    }


def _draw_layers(one: BackboneArtifacts, limits: tuple[float, float], axes: Axes) -> None:
    """The distribution of patch-token norms after each layer."""
    from matplotlib.ticker import MaxNLocator

    draw_norms(axes, [layer.layer for layer in one.layers], one.layers)
    at = one.outliers.layer
    titled(axes.axvline(at, color=COLOURS["accent"], ls=":", label="layer of the outliers"))
    log_scale(axes, "y", *limits)
    axes.set(title="Norm of patch tokens", xlabel="layer", xlim=(0, max(1, len(one.layers) - 1)))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _draw_norms(one: BackboneArtifacts, axes: Axes) -> None:
    """The histogram of norms after the outlier layer, with the cut-offs."""
    edges, shares = norm_histogram(one)
    cutoffs = near_cutoffs(one)
    low = 10 ** math.floor(math.log10(min(share for share in shares if share)))
    heights = [max(share, low) for share in shares]
    style: dict[str, Any] = {"fill": True, "color": COLOURS["bar-with"], "alpha": 0.75}
    titled(axes.stairs(heights, edges, baseline=low, **style), "patches")
    for rule, cutoff in cutoffs.items():
        label = f"{RULES[rule]}: {cutoff:.4g}"
        titled(axes.axvline(cutoff, color=COLOURS["text"], ls=CUTOFF_LINES[rule], lw=1.5, label=label))
    log_scale(axes, "x", min([edges[0], *cutoffs.values()]), max([edges[-1], *cutoffs.values()]))
    log_scale(axes, "y", low, max(100.0, *shares))
    axes.set(title="Patches, %", xlabel=f"norm after layer {one.outliers.layer}")


def near_cutoffs(one: BackboneArtifacts) -> dict[Rule, float]:
    """The cut-offs to draw: those near the norms, since others would squeeze the norms to one side."""
    layer = one.outlier_layer
    return {
        rule: max(cutoff, LEAST_NORM)
        for rule, cutoff in layer.cutoffs.items()
        if cutoff is not None and cutoff <= 3 * layer.largest
    }


def norm_histogram(one: BackboneArtifacts) -> tuple[list[float], list[float]]:
    """Edges, and the percentage of patches between them: the used bins, merged into about fifty."""
    histogram = one.norm_histograms
    counts = histogram.counts[one.outliers.layer]
    used = [index for index, count in enumerate(counts) if count]
    first, last = used[0], used[-1] + 1
    wide = max(1, math.ceil((last - first) / 50))
    starts = range(first, last, wide)
    shares = [100 * sum(counts[start : start + wide]) / sum(counts) for start in starts]
    edges = [histogram.first_edge * histogram.ratio**start for start in [*starts, starts[-1] + wide]]
    return edges, shares


def _draw_neighbours(one: BackboneArtifacts, axes: Axes) -> None:
    """How similar outliers and other patches are to their neighbours."""
    for group, cosines in reversed(one.outliers.neighbour_cosine.items()):
        if cosines is not None:
            shares = _cosine_shares(cosines)
            edges = [-1 + 2 * index / len(shares) for index in range(len(shares) + 1)]
            colour = COLOURS[_GROUP_COLOURS[group]]
            titled(axes.stairs(shares, edges, fill=True, color=colour, alpha=0.6, label=GROUPS[group]))
    axes.set(
        title="Patches, %", xlabel="cosine to the neighbours", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1)
    )
    axes.set_ylim(bottom=0)


def _cosine_shares(cosines: CosineDistribution) -> list[float]:
    """Shares in percent, in 25 bins of [-1, 1], or fewer if the record has fewer."""
    counts = cosines.counts
    wide = max(1, len(counts) // 25)
    sums = [0, *accumulate(counts)]
    ends = range(0, len(counts) + 1, wide)
    return [100 * (sums[end] - sums[end - wide]) / cosines.count for end in ends[1:]]
