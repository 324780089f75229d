"""CorLoc of each run as a table."""

from __future__ import annotations

from collections.abc import Sequence

from lost_reg.errors import LostRegError
from lost_reg.report.loading import ReportRun
from lost_reg.report.page import Section, Table
from lost_reg.scoring.score_runs import NO_NUMBER, ScoredRun


def corloc_section(runs: Sequence[ReportRun], errors: Sequence[LostRegError]) -> Section | None:
    """The table, what did not count in it, and what is left out of the report."""
    rows = [(run.name, run.row) for run in runs if run.row]
    if not rows and not errors:
        return None
    numeric = ("images", "found", "CorLoc", "centred box", "whole image")
    columns = ("backbone", "dataset", *numeric[:3], "95 % interval", *numeric[3:], "published")
    table = Table("CorLoc table", "corloc", columns, [_cells(name, row) for name, row in rows], numeric)
    left_out = [str(error) for error in errors]
    return Section("corloc", "CorLoc", {"table": table, "notes": _uncounted(rows), "left_out": left_out})


def _cells(name: str, row: ScoredRun) -> list[str]:
    low, high = row.score.interval
    return [
        name,
        f"{row.dataset} {row.split}",
        f"{row.score.images:,}",
        f"{row.score.found:,}",
        f"{row.score.corloc:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{row.score.centred:.1f}",
        f"{row.score.whole:.1f}",
        f"{row.published.corloc:.1f} ({row.published.source})" if row.published else NO_NUMBER,
    ]


def _uncounted(rows: Sequence[tuple[str, ScoredRun]]) -> list[str]:
    """What did not count, of each run where anything did not."""
    lines = []
    for name, row in rows:
        counts = {
            "undecodable, counted as misses": row.score.unusable,
            "without any box, left out": row.score.without_truth,
            "not done, left out": row.score.not_done,
            "not of the size that was annotated": row.other_size,
        }
        if counted := "; ".join(f"{count:,} {what}" for what, count in counts.items() if count):
            lines.append(f"{name} on {row.dataset} {row.split}: {counted}")
    return lines
