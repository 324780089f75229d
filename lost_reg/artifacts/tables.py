"""The measurements of backbones, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from lost_reg.artifacts.records import GROUPS, RULES, BackboneArtifacts
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
        "ties": NONE if seeds.ties is None else f"{seeds.ties:,} of {seeds.images:,}",
        **dict(zip(("cosine: outliers", "rest"), means)),
    }


def probe_rows(backbones: Sequence[BackboneArtifacts]) -> list[dict[str, str]]:
    """What a linear probe reads from each group of patches of each backbone."""
    return [
        {
            "backbone": one.label,
            "read from": name,
            "position, top-1": percent(probe.position_top1) if probe else NONE,
            "distance in cells": f"{probe.position_distance:.2f}" if probe else NONE,
            "pixels, L2": f"{probe.pixel_l2:.2f}" if probe else NONE,
            "tested on": f"{probe.tested_on:,}" if probe else NONE,
        }
        for one in backbones
        for name, probe in ((name, one.outliers.probes[group]) for group, name in GROUPS.items())
    ]
