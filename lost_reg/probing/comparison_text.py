"""A comparison of two probes as plain text, JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lost_reg import text as texts
from lost_reg.errors import one_line
from lost_reg.json_files import as_json
from lost_reg.probing.compare import ComparedProbe, PairedScore, ProbeComparison
from lost_reg.probing.tables import shown
from lost_reg.scoring.compare import SIGNIFICANT
from lost_reg.scoring.comparison_text import setting_lines, shown_p


def text(comparison: ProbeComparison, width: int | None = None) -> str:
    """The comparison as text: settings that differ, a table within `width`, what is significant."""
    return "\n".join(
        [
            *(one_line(f"{side}: {one.label}, {one.path}") for side, one in _sides(comparison)),
            one_line(
                f"{comparison.dataset}, {comparison.task}: "
                f"{texts.counted(comparison.test_images, 'test image')}"
            ),
            "",
            *setting_lines(comparison.differences),
            "",
            texts.text_table([_cells(one) for one in comparison.scores], width=width, drop=("images", "p")),
            *_notes(comparison),
            "",
            _verdict(comparison),
        ]
    )


def _sides(comparison: ProbeComparison) -> tuple[tuple[str, ComparedProbe], ...]:
    return ("A", comparison.a), ("B", comparison.b)


def _cells(score: PairedScore) -> dict[str, str]:
    low, high = score.interval
    return {
        "score": score.name,
        "images": f"{score.images:,}",
        "A": shown(score.measure, score.a),
        "B": shown(score.measure, score.b),
        "B - A": shown(score.measure, score.difference, "+"),
        "95 % interval": f"{shown(score.measure, low, '+')} to {shown(score.measure, high, '+')}",
        "p": shown_p(score.p),
        "p (Holm)": shown_p(score.p_holm),
    }


def _notes(comparison: ProbeComparison) -> Iterator[str]:
    for one in comparison.scores:
        if one.only_a + one.only_b:
            yield (
                f"{one.name}: left out: {texts.counted(one.only_a, 'image')} that only A covers, "
                f"{one.only_b:,} that only B covers."
            )
    yield from (one_line(f"{note}.") for note in comparison.notes)


def _verdict(comparison: ProbeComparison) -> str:
    scores = comparison.scores
    significant = [one for one in scores if one.p_holm < SIGNIFICANT]
    named = ", ".join(f"{one.name} ({shown(one.measure, one.difference, '+')})" for one in significant)
    if len(scores) == 1:
        return f"Significant: {named}." if named else "No significant difference between A and B."
    return f"Of {len(scores)} scores, these differ significantly after Holm's correction: {named or 'none'}."


def json_text(comparison: ProbeComparison) -> str:
    """The comparison as a JSON object; values are as in probe.json: shares, or in the unit of the depths."""
    content = {**asdict(comparison), "scores": list(map(_numbers, comparison.scores))}
    return as_json(content, indent=2, default=str)


def _numbers(score: PairedScore) -> dict[str, Any]:
    numbers = asdict(score)
    low, high = numbers.pop("interval")
    return {**numbers, "interval_low": low, "interval_high": high}


def csv_text(comparison: ProbeComparison) -> str:
    """A row for each score as CSV, with a header."""
    return texts.csv_text(list(map(_numbers, comparison.scores)))
