"""What a report shows: runs, sweeps and artifacts, read from the folders at and below one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lost_reg.artifacts.records import ARTIFACTS_FILE, Artifacts, read_artifacts
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.errors import LostRegError
from lost_reg.files import folders_with
from lost_reg.json_files import MALFORMED, convert, reason_of
from lost_reg.runs.folder import (
    RUN_FILE,
    SWEEP_FILE,
    CommonSettings,
    Results,
    find_runs,
    read_record,
    read_run,
)
from lost_reg.runs.sweep_folder import SCORES_FILE
from lost_reg.scoring.found_boxes import ScoringOptions, describe_backbone, register_kind
from lost_reg.scoring.score_runs import ScoredRun, score_found
from lost_reg.scoring.sweep_scores import SweepScores, read_scores


@dataclass(frozen=True)
class ReportRun:
    """One run of a report.

    name: its backbone with all that sets it apart from the report's other runs on the dataset.
    dataset, row: its ground truth and its score; None for a run on files of the user's own.
    """

    name: str
    results: Results
    dataset: Dataset | None
    row: ScoredRun | None

    @property
    def title(self) -> tuple[str, str] | None:
        """The dataset and split it is scored on; None if it is not scored."""
        return (self.row.dataset, self.row.split) if self.row else None


@dataclass(frozen=True)
class ReportSweep:
    """A sweep of a report. settings: what its sweep.json holds of how it was run."""

    scores: SweepScores
    settings: dict

    @property
    def kind(self) -> str:
        """Which registers it had."""
        return register_kind(self.settings)

    @property
    def is_random(self) -> bool:
        return self.settings["weights"]["source"] == "random"


@dataclass(frozen=True)
class Content:
    """All that a report shows.

    unscored: folders of sweeps that have no scores yet.
    artifacts: what each artifacts.json holds, by its folder's name below the report's.
    errors: of what cannot be shown and is left out.
    """

    runs: list[ReportRun]
    sweeps: list[ReportSweep]
    unscored: list[Path]
    artifacts: dict[str, Artifacts]
    errors: list[LostRegError]


def load(top: Path, options: ScoringOptions) -> Content:
    """Read all runs, sweeps and artifacts at and below a folder.

    Raises:
        LostRegError: no such folder, or nothing in it that can be shown.
    """
    sweeps, unscored, errors = load_sweeps(top)
    artifacts, more_errors = load_artifacts(top)
    errors += more_errors
    runs: list[ReportRun] = []
    if not (sweeps or artifacts) or folders_with(top, RUN_FILE):
        runs, more_errors = load_runs(top, options)
        errors = more_errors + errors
    if not (runs or sweeps or artifacts):
        raise errors[0]
    return Content(runs, sweeps, unscored, artifacts, errors)


# --- runs ---------------------------------------------------------------------------------------------


def load_runs(top: Path, options: ScoringOptions) -> tuple[list[ReportRun], list[LostRegError]]:
    """The runs at and below a folder with their scores, and the errors of those that cannot be scored.

    Raises:
        LostRegError: no such folder, or no run in it.
    """
    runs, errors = [], []
    datasets: dict[tuple[str, Path], Dataset] = {}
    for folder in find_runs(top):
        try:
            runs.append(_load_run(folder, options, datasets))
        except LostRegError as error:
            errors.append(error)
    return _with_distinct_names(runs, top), errors


def _load_run(folder: Path, options: ScoringOptions, datasets: dict) -> ReportRun:
    results = read_run(folder)
    name, title = describe_backbone(results.settings), options.dataset or results.settings["dataset"]
    if title is None:
        return ReportRun(name, results, None, None)
    row = score_run(folder, options)
    root = data_root(options.data_root, results.record.get("data_root"))
    if (title, root) not in datasets:  # its annotations are read once for all runs
        datasets[title, root] = find_dataset(title, root)
    return ReportRun(name, results, datasets[title, root], row)


def _with_distinct_names(runs: list[ReportRun], top: Path) -> list[ReportRun]:
    """The runs; those of one name on one dataset have their folder's name after it."""
    keys = [(run.name, run.title, run.results.record.get("root")) for run in runs]
    return [
        replace(run, name=f"{run.name}, {run.results.folder.relative_to(top)}")
        if keys.count(key) > 1
        else run
        for run, key in zip(runs, keys)
    ]


def by_dataset(runs: Iterable[ReportRun]) -> dict[tuple[str, str], list[ReportRun]]:
    """The runs that are scored, by dataset and split."""
    by_title: dict[tuple[str, str], list[ReportRun]] = {}
    for run in runs:
        if run.title:
            by_title.setdefault(run.title, []).append(run)
    return by_title


# --- sweeps and artifacts -----------------------------------------------------------------------------


def load_sweeps(top: Path) -> tuple[list[ReportSweep], list[Path], list[LostRegError]]:
    """The sweeps at and below a folder that have scores, the folders of those that have none, and errors."""
    sweeps, unscored, errors = [], [], []
    for folder in folders_with(top, SWEEP_FILE):
        if not (folder / SCORES_FILE).is_file():
            unscored.append(folder)
            continue
        try:
            sweeps.append(_load_sweep(folder))
        except LostRegError as error:
            errors.append(error)
    return sweeps, unscored, errors


def _load_sweep(folder: Path) -> ReportSweep:
    scores, settings = read_scores(folder), read_record(folder / SWEEP_FILE)["settings"]
    try:
        convert(settings, CommonSettings)
    except MALFORMED as error:
        reason = reason_of(error)
        raise LostRegError(f"{folder / SWEEP_FILE} does not hold the settings of a sweep: {reason}") from None
    return ReportSweep(scores, settings)


def load_artifacts(top: Path) -> tuple[dict[str, Artifacts], list[LostRegError]]:
    """What each artifacts.json at and below a folder holds, by its folder's name, and errors."""
    artifacts, errors = {}, []
    for folder in folders_with(top, ARTIFACTS_FILE):
        try:
            artifacts[str(folder.relative_to(top))] = read_artifacts(folder / ARTIFACTS_FILE)
        except LostRegError as error:
            errors.append(error)
    return artifacts, errors
