"""What was measured of backbones, as tables: header and rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from lost_reg.artifacts.records import GROUPS, RULES, BackboneArtifacts, ProbeScores
from lost_reg.text import text_table

NONE = "-"


def percent(share: float | None) -> str:
    """A share of 1, or None where nothing was measured, in percent."""
    return NONE if share is None else f"{100 * share:.2f} %"


def summary_table(backbones: Sequence[BackboneArtifacts]) -> str:
    """A line for each backbone, of the layer where outliers are measured, for a terminal."""
    fixed = backbones[0].layers[0].cutoffs["fixed"]
    above = {"sigma": RULES["sigma"], "fixed": f"{fixed:g}", "reference": "reference"}
    header = ("backbone", "layer", *(f"above {above[rule]}" for rule in RULES), *_OUTLIER_COLUMNS)
    rows = [
        (
            one.label,
            str(one.outliers.layer),
            *(percent(one.outlier_layer.shares[rule]) for rule in RULES),
            *_outlier_cells(one),
        )
        for one in backbones
    ]
    return text_table(header, rows)


def outlier_table(backbones: Sequence[BackboneArtifacts]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the cut-off of each backbone, how many outliers it has, and their statistics."""
    columns = ["backbone", "layer", "cut-off", "outliers", "images with any", *_OUTLIER_COLUMNS]
    rows = []
    for one in backbones:
        outliers = one.outliers
        cutoff = f"{outliers.cutoff:.4g} ({RULES[outliers.rule]})"
        images = f"{outliers.images_with_any:,} of {one.images:,}"
        cells = [one.label, f"{outliers.layer}", cutoff, percent(outliers.share), images]
        rows.append([*cells, *_outlier_cells(one)])
    return columns, rows


_OUTLIER_COLUMNS = ("seeds on outliers", "by chance", "cosine: outliers", "rest")


def _outlier_cells(one: BackboneArtifacts) -> list[str]:
    seeds, cosines = one.outliers.seeds, one.outliers.neighbour_cosine
    means = (cosines[group] for group in GROUPS)
    return [
        percent(seeds.share),
        percent(seeds.share_by_chance),
        *(NONE if mean is None else f"{mean.mean:.2f}" for mean in means),
    ]


def probe_table(backbones: Sequence[BackboneArtifacts]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what a linear probe reads from each group of patches of each backbone."""
    columns = ["backbone", "read from", "position, top-1", "distance in cells", "pixels, L2", "tested on"]
    rows = [
        [one.label, name, *_probe_cells(one.outliers.probes[group])]
        for one in backbones
        for group, name in GROUPS.items()
    ]
    return columns, rows


def _probe_cells(probe: ProbeScores | None) -> list[str]:
    if probe is None:
        return [NONE] * 4
    distance, error = f"{probe.position_distance:.2f}", f"{probe.pixel_l2:.2f}"
    return [percent(probe.position_top1), distance, error, f"{probe.tested_on:,}"]
