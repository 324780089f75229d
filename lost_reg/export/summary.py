"""What an export wrote and what it left out, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lost_reg.export.boxes import Tally
from lost_reg.export.image_files import SkippedImages
from lost_reg.plausibility import IMPLAUSIBLE
from lost_reg.text import counted


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    beyond_first: boxes that the format has no room for.
    not_placed, not_cropped: images whose files could not be used.
    failed: images that the run could not use; not_done: images that it has not reached.
    notes: what else the user should know.
    """

    tally: Tally
    beyond_first: int
    not_placed: SkippedImages
    not_cropped: SkippedImages
    failed: int
    not_done: int
    notes: tuple[str, ...]


def summary_lines(summary: ExportSummary) -> list[str]:
    """What was written, and what was left out."""
    tally = summary.tally
    kinds = {kind: tally.implausible[kind] for kind in IMPLAUSIBLE}
    held = f"{_boxes(tally.boxes)} of {counted(tally.images, 'image')}"
    lines = [f"{held}; implausible among them: {listed(kinds)}"]
    if tally.dropped:
        lines.append(f"dropped: {_boxes(tally.dropped.total())} ({listed(tally.dropped)})")
    images = {
        "without a box": tally.without_box,
        "that the run could not use": summary.failed,
        "that the run has not reached": summary.not_done,
    }
    left_out = [f"{counted(number, 'image')} {which}" for which, number in images.items() if number]
    if summary.beyond_first:
        left_out.append(
            f"{_boxes(summary.beyond_first)} after the first of an image, which is all the format holds"
        )
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    return lines


def _boxes(number: int) -> str:
    return "1 box" if number == 1 else f"{number:,} boxes"


def warnings(summary: ExportSummary) -> list[str]:
    """What went wrong without ending the export."""
    lines = []
    for what, skipped in (
        ("are not there as files", summary.not_placed),
        ("gave no crops", summary.not_cropped),
    ):
        if skipped.count:
            lines.append(f"{skipped.count:,} of {summary.tally.images:,} images {what}: {skipped}")
    return [*lines, *summary.notes]


def listed(counts: Mapping[str, int]) -> str:
    """Counts in a row: "2 single patch, 1 border strip"."""
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())
