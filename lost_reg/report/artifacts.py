"""Artifacts of backbones: charts of norms, tables of outliers and probes, from each artifacts.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lost_reg.artifacts.figures import norm_limits, panels_of
from lost_reg.artifacts.records import Artifacts, BackboneArtifacts
from lost_reg.artifacts.tables import outlier_table, probe_table
from lost_reg.charts import chart
from lost_reg.report.page import Section, Table


def artifacts_section(artifacts: Mapping[str, Artifacts]) -> Section | None:
    """The charts and tables of each file; several have their folder's name as a heading."""
    if not artifacts:
        return None
    files = [
        {"heading": name if len(artifacts) > 1 else "", **_shown(one)} for name, one in artifacts.items()
    ]
    return Section("artifacts", "Artifacts", {"files": files})


def _shown(artifacts: Artifacts) -> dict[str, Any]:
    backbones = artifacts.backbones
    limits = norm_limits(backbones)
    columns, rows = outlier_table(backbones)
    outliers = Table("Outliers", "outliers", columns, rows, ("layer", *columns[3:]))
    columns, rows = probe_table(backbones)
    return {
        "reference": artifacts.about.reference if len(backbones) > 1 else "",
        "figures": [_figure(one, limits) for one in backbones],
        "outliers": outliers,
        "probes": Table("Linear probes", "probes", columns, rows, columns[2:]),
    }


def _figure(one: BackboneArtifacts, limits: tuple[float, float]) -> dict[str, Any]:
    charts = [chart(panel.draw, panel.label) for panel in panels_of(one, limits).values()]
    return {"title": f"{one.label}: {one.images:,} images", "charts": charts}
