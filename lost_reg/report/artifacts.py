"""The section on artifacts: charts of norms, tables of outliers and probes, from each artifacts.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lost_reg.artifacts.figures import norm_limits, panels_of
from lost_reg.artifacts.records import Artifacts
from lost_reg.artifacts.tables import outlier_rows, probe_rows
from lost_reg.charts import chart
from lost_reg.report.page import Section, Table
from lost_reg.text import agreeing, counted


def artifacts_section(artifacts: Mapping[str, Artifacts]) -> Section | None:
    """The charts and tables of each file; if there are several, each has its folder's name as heading."""
    if not artifacts:
        return None
    files = [
        {"heading": name if len(artifacts) > 1 else "", **_shown(one)} for name, one in artifacts.items()
    ]
    return Section("artifacts", "Artifacts", {"files": files})


def _shown(artifacts: Artifacts) -> dict[str, Any]:
    backbones = artifacts.backbones
    limits = norm_limits(backbones)
    outliers, probes = outlier_rows(backbones), probe_rows(backbones)
    return {
        "unfinished": _unfinished(artifacts) if artifacts.missing else "",
        "reference": artifacts.about.reference if len(backbones) > 1 else "",
        "figures": [
            {
                "title": f"{one.label}: {counted(one.images, 'image')}",
                "charts": [chart(panel.draw, panel.label) for panel in panels_of(one, limits).values()],
            }
            for one in backbones
        ],
        "outliers": Table("Outliers", "outliers", outliers, set(outliers[0]) - {"backbone", "cut-off"}),
        "probes": Table(
            "Linear probes, with 95 % intervals", "probes", probes, set(probes[0]) - {"backbone", "read from"}
        ),
    }


def _unfinished(artifacts: Artifacts) -> str:
    are = agreeing(artifacts.missing, "are")
    return (
        f"{artifacts.missing} of {counted(artifacts.about.models or 0, 'model')} {are} not measured yet: "
        "`lost-reg artifacts` did not come to its end"
    )
