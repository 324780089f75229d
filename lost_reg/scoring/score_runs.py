"""The CorLoc table: run folders and prediction files, each next to a published number if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lost_reg import text
from lost_reg.datasets.catalog import Dataset
from lost_reg.errors import LostRegError, one_line
from lost_reg.json_files import as_json
from lost_reg.runs.folder import find_runs
from lost_reg.scoring import found_boxes
from lost_reg.scoring.columns import AlignedBoxes
from lost_reg.scoring.corloc import Score, score_aligned
from lost_reg.scoring.found_boxes import FoundBoxes, GroundTruths, ScoringOptions
from lost_reg.scoring.published import Published, comparable_number

NO_NUMBER = "no comparable number"


@dataclass(frozen=True)
class ScoredRun:
    """One row of the CorLoc table.

    backbone: with all differences from its published weights and from LOST as published.
    other_size: images whose size differs from the annotated one, so their boxes cannot match.
    notes: what the user should know about the ground truth.
    """

    path: Path
    backbone: str
    dataset: str
    split: str
    score: Score
    published: Published | None
    other_size: int = 0
    notes: tuple[str, ...] = ()


def score_path(path: Path, options: ScoringOptions) -> tuple[list[ScoredRun], list[LostRegError]]:
    """Score all runs at and below a folder, or one prediction file.

    Returns:
        The rows, and the errors of the runs that could not be scored: one bad run does not hide the others.

    Raises:
        LostRegError: no such path, a folder without runs, or a file that cannot be scored.
    """
    if path.is_file():
        found_boxes.check_boxes_file(path)
        if not options.dataset:  # fail before reading the file
            raise found_boxes.unknown_dataset(path)
        found = found_boxes.read_file_boxes(path)
        return [score_found(found, found_boxes.ground_truth(found, options), options)], []
    rows, errors = [], []
    truth_of = GroundTruths(options)
    for folder in find_runs(path):
        try:
            found = FoundBoxes.of_run(folder)
            rows.append(score_found(found, truth_of(found), options))
        except LostRegError as error:
            errors.append(error)
    return rows, errors


def score_found(found: FoundBoxes, dataset: Dataset, options: ScoringOptions) -> ScoredRun:
    """Score the boxes of a run or a file on a dataset.

    Raises:
        LostRegError: incomplete boxes without `partial`, boxes of another dataset, or nothing to score.
    """
    return score_on(found, found.on(dataset), dataset, options)


def score_on(
    found: FoundBoxes, aligned: AlignedBoxes, dataset: Dataset, options: ScoringOptions
) -> ScoredRun:
    """The same, of boxes that are in the rows of the dataset already."""
    dataset = found_boxes.with_sizes(dataset, aligned)
    if not options.partial:
        found_boxes.check_complete(found, aligned, dataset, "`partial` scores those alone")
    try:
        result = score_aligned(aligned, dataset.truths, count_hard=options.count_hard)
    except LostRegError as error:
        raise LostRegError("; ".join([str(error), *dataset.notes])) from None
    is_full = dataset.is_full and not result.not_done and options.count_hard
    return ScoredRun(
        path=found.path,
        backbone=found.title,
        dataset=dataset.title,
        split=found_boxes.split_title(dataset, options),
        score=result,
        published=comparable_number(found.settings, dataset.name, is_full_split=is_full),
        other_size=aligned.of_other_size(dataset.truths),
        notes=dataset.notes,
    )


# --- text, JSON, CSV ---------------------------------------------------------------------------------

_DROPPED = ("whole image", "images", "95 % interval", "dataset", "centred box", "backbone")
_SHORTENED = ("run", "backbone")  # both for want of width


def cells(row: ScoredRun) -> dict[str, str]:
    """A row of the table, by column."""
    score, published = row.score, row.published
    return {
        "backbone": row.backbone,
        "dataset": f"{row.dataset} {row.split}",
        "images": f"{score.images:,}",
        "found": f"{score.found:,}",
        "CorLoc": f"{score.corloc:.1f}",
        "95 % interval": "{:.1f} to {:.1f}".format(*score.interval),
        "centred box": f"{score.centred:.1f}",
        "whole image": f"{score.whole:.1f}",
        "published": f"{published.corloc:.1f} ({published.source})" if published else NO_NUMBER,
    }


def text_table(rows: Sequence[ScoredRun], width: int | None = None) -> str:
    """The rows as a table, of a width if one is given, followed by counts of misses and left-out images."""
    names = text.short_names([row.path for row in rows])
    shown = [{"run": name, **cells(row)} for name, row in zip(names, rows)]
    comparable = any(row.published for row in rows)
    drop = ["found", *_DROPPED, "published"] if comparable else ["published", "found", *_DROPPED]
    lines = [text.text_table(shown, width=width, drop=drop, shorten=_SHORTENED)]
    lines += [
        f"{one_line(str(row.path))}: {row.score.unusable:,} undecodable (counted as misses), "
        f"{row.score.without_truth:,} without any box (left out), {row.score.not_done:,} not done (left out)"
        for row in rows
    ]
    lines += [
        f"{one_line(str(row.path))}: the size of {text.counted(row.other_size, 'image')} differs from the "
        "annotated one: rotated by EXIF?"
        for row in rows
        if row.other_size
    ]
    return "\n".join(lines)


def json_text(rows: Sequence[ScoredRun]) -> str:
    """The rows as JSON: a list of objects."""
    return as_json([flat(row) for row in rows], indent=2)


def csv_text(rows: Sequence[ScoredRun]) -> str:
    """The rows as CSV, with a header."""
    return text.csv_text([flat(row) for row in rows])


def flat(row: ScoredRun) -> dict[str, Any]:
    numbers = asdict(row.score)
    low, high = numbers.pop("interval")
    return {
        "path": str(row.path),
        "backbone": row.backbone,
        "dataset": row.dataset,
        "split": row.split,
        **numbers,
        "other_size": row.other_size,
        "dataset_notes": "; ".join(row.notes),
        "interval_low": low,
        "interval_high": high,
        "published": row.published.corloc if row.published else None,
        "published_source": row.published.source if row.published else NO_NUMBER,
    }
