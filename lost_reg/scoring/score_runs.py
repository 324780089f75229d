"""CorLoc of run folders and prediction files, each beside a published number if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lost_reg.datasets.catalog import Dataset
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import find_runs
from lost_reg.scoring.corloc import Score, score
from lost_reg.scoring.found_boxes import (
    FoundBoxes,
    ScoringOptions,
    check_complete,
    ground_truth,
    read_file_boxes,
    read_run_boxes,
    split_title,
)
from lost_reg.scoring.published import Published, comparable_number


@dataclass(frozen=True)
class ScoredRun:
    """One row of the CorLoc table.

    backbone: with what sets it apart from its published weights and from LOST as published.
    other_size: images whose size differs from the annotated one, so that their boxes cannot fit.
    """

    path: Path
    backbone: str
    dataset: str
    split: str
    score: Score
    published: Published | None
    other_size: int = 0


def score_path(path: Path, options: ScoringOptions) -> tuple[list[ScoredRun], list[LostRegError]]:
    """Score all runs at and below a folder, or one prediction file.

    Returns:
        The rows, and the errors of the runs that could not be scored: one bad run does not hide the others.

    Raises:
        LostRegError: no such path, a folder without runs, or a file that cannot be scored.
    """
    if path.is_file():
        return [_scored(read_file_boxes(path), options)], []
    rows, errors = [], []
    for folder in find_runs(path):
        try:
            rows.append(score_run(folder, options))
        except LostRegError as error:
            errors.append(error)
    return rows, errors


def score_run(folder: Path, options: ScoringOptions) -> ScoredRun:
    """Score one run folder on the dataset it was run on, or on the one that the options name.

    Raises:
        LostRegError: a run that is incomplete without `partial`, of no dataset, or malformed; ground
            truth that is missing.
    """
    return _scored(read_run_boxes(folder), options)


def _scored(found: FoundBoxes, options: ScoringOptions) -> ScoredRun:
    dataset = ground_truth(found, options)
    found = found.on(dataset)
    if not options.partial:
        check_complete(found, dataset, "`partial` scores those alone")
    result = score(found.boxes, dataset.truths, unusable=found.failures, count_hard=options.count_hard)
    return ScoredRun(
        path=found.path,
        backbone=found.title,
        dataset=dataset.title,
        split=split_title(dataset, options),
        score=result,
        published=_published(found, dataset, result, options),
        other_size=len(found.of_other_size(dataset)),
    )


def _published(
    found: FoundBoxes, dataset: Dataset, result: Score, options: ScoringOptions
) -> Published | None:
    if found.settings is None:
        return None
    is_full_split = dataset.is_full and not result.not_done and options.count_hard
    return comparable_number(found.settings, dataset.name, is_full_split=is_full_split)
