"""The section on artifacts: charts of norms, tables of outliers, controls and probes, of each measurement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lost_reg.artifacts.figures import limits_of, panels_of, shown_alone
from lost_reg.artifacts.growth_figures import growths_of
from lost_reg.artifacts.records import LOST_SETTINGS, Artifacts
from lost_reg.artifacts.tables import control_rows, outlier_rows, probe_rows, too_few_notes
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
    backbones, alone = artifacts.in_order, shown_alone(artifacts)
    limits = limits_of(alone)
    words = {"backbone", "cut-off", "read from", "tokens"}
    controls = control_rows(backbones)

    def table(title: str, name: str, rows: list[dict[str, str]]) -> Table:
        return Table(title, name, rows, set(rows[0]) - words)

    return {
        "unfinished": _unfinished(artifacts) if artifacts.missing else "",
        "reference": artifacts.about.reference if len(backbones) > 1 else "",
        "figures": [
            *(
                {
                    "title": growth.title,
                    "charts": [chart(panel.draw, panel.label) for panel in growth.panels],
                }
                for growth in growths_of(artifacts)
            ),
            *(
                {
                    "title": f"{one.title}: {counted(one.images, 'image')}",
                    "charts": [chart(panel.draw, panel.label) for panel in panels_of(one, limits).values()],
                }
                for one in alone
            ),
        ],
        "outliers": table("Outliers", "outliers", outlier_rows(backbones)),
        "controls": table("Controls", "changes", controls) if controls else None,
        "corloc_on": Path(artifacts.about.dataset).name if artifacts.about.dataset else "",
        "too_few": too_few_notes(backbones),
        "lost": LOST_SETTINGS[artifacts.about.lost],
        "probes": table(
            "Linear probes of position and pixels, with 95 % intervals", "probes", probe_rows(backbones)
        ),
    }


def _unfinished(artifacts: Artifacts) -> str:
    are = agreeing(artifacts.missing, "are")
    return (
        f"{artifacts.missing} of {counted(artifacts.about.models or 0, 'model')} {are} not measured yet: "
        "`lost-reg artifacts` did not come to its end"
    )
