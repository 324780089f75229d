"""The measurements of backbones, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from lost_reg.artifacts.records import (
    GROUPS,
    MEASURES,
    RULES,
    BackboneArtifacts,
    Measure,
    ProbeScores,
    SeedStatistics,
)
from lost_reg.text import text_table

NONE = "-"


def percent(share: float | None) -> str:
    """A share in [0, 1], or None if nothing was measured, as percent."""
    return NONE if share is None else f"{100 * share:.2f} %"


def summary_table(backbones: Sequence[BackboneArtifacts]) -> str:
    """A line for each backbone, for the layer where outliers are measured, for a terminal."""
    fixed = backbones[0].layers[0].cutoffs["fixed"]
    above = {"sigma": RULES["sigma"], "fixed": f"{fixed:g}", "reference": "reference"}
    return text_table(
        [
            {
                "backbone": one.label,
                "layer": str(one.outliers.layer),
                **{f"above {above[rule]}": percent(one.outlier_layer.shares[rule]) for rule in RULES},
                **_outlier_cells(one),
            }
            for one in backbones
        ]
    )


def outlier_rows(backbones: Sequence[BackboneArtifacts]) -> list[dict[str, str]]:
    """The cut-off of each backbone, how many outliers it has, and their statistics."""
    return [
        {
            "backbone": one.label,
            "layer": str(one.outliers.layer),
            "cut-off": f"{one.outliers.cutoff:.4g} ({RULES[one.outliers.rule]})",
            "outliers": percent(one.outliers.share),
            "images with any": f"{one.outliers.images_with_any:,} of {one.images:,}",
            **_outlier_cells(one),
        }
        for one in backbones
    ]


def _outlier_cells(one: BackboneArtifacts) -> dict[str, str]:
    seeds, cosines = one.outliers.seeds, one.outliers.neighbour_cosine
    means = [NONE if found is None else f"{found.mean:.2f}" for found in map(cosines.get, GROUPS)]
    return {
        "seeds on outliers": percent(seeds.share),
        "by chance": percent(seeds.share_by_chance),
        "images that tie": _tied(seeds),
        **dict(zip(("cosine: outliers", "rest"), means)),
    }


def _tied(seeds: SeedStatistics) -> str:
    """In how many images several patches tie for the lowest degree, and the share of these images."""
    if not seeds.images or seeds.ties is None:
        return NONE
    return f"{seeds.ties:,} of {seeds.images:,} ({percent(seeds.ties / seeds.images)})"


def probe_rows(backbones: Sequence[BackboneArtifacts]) -> list[dict[str, str]]:
    """What a linear probe reads from each group of patches of each backbone, with 95 % intervals."""
    return [
        {"backbone": one.label, "read from": name, **_probe_cells(one.outliers.probes[group])}
        for one in backbones
        for group, name in GROUPS.items()
    ]


def _probe_cells(probe: ProbeScores | None) -> dict[str, str]:
    """The numbers of a probe, or what there is too little of."""
    learned, tested = (f"{probe.learned_from:,}", f"{probe.tested_on:,}") if probe else (NONE, NONE)
    numbers = (
        {
            "position_top1": _with_interval(probe, "position_top1", 100, " %"),
            "position_distance": _with_interval(probe, "position_distance"),
            "pixel_l2": _with_interval(probe, "pixel_l2"),
        }
        if probe and not probe.too_few
        else {**dict.fromkeys(MEASURES, NONE), "position_top1": probe.too_few if probe else NONE}
    )
    cells = dict(zip(("position, top-1", "distance in cells", "pixels, L2"), numbers.values()))
    return {**cells, "learned from": learned, "tested on": tested}


def _with_interval(probe: ProbeScores, measure: Measure, scale: float = 1, unit: str = "") -> str:
    """Such as "25.00 % (20.12 to 30.50)"; without the interval in files that have none."""
    text = f"{scale * getattr(probe, measure):.2f}{unit}"
    if measure not in probe.intervals:
        return text
    low, high = probe.intervals[measure]
    return f"{text} ({scale * low:.2f} to {scale * high:.2f})"
