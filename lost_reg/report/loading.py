"""What a report shows: runs, sweeps and artifacts, read from a folder and all folders below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, compress
from pathlib import Path
from typing import Any, TypeVar

from lost_reg.artifacts.records import ARTIFACTS_FILE, Artifacts, read_artifacts
from lost_reg.datasets.catalog import Dataset
from lost_reg.errors import LostRegError, one_line
from lost_reg.files import folders_with
from lost_reg.json_files import MALFORMED, convert, reason_of
from lost_reg.probing.records import PROBE_FILE, ProbeRecord, read_probe
from lost_reg.runs.folder import (
    RUN_FILE,
    SWEEP_FILE,
    CommonSettings,
    find_runs,
    read_failures,
    read_outcomes,
    read_record,
    read_run_record,
)
from lost_reg.runs.sweep_folder import SCORES_FILE
from lost_reg.scoring.columns import AlignedBoxes
from lost_reg.scoring.found_boxes import FoundBoxes, GroundTruths, ScoringOptions, register_kind
from lost_reg.scoring.score_runs import ScoredRun, score_on
from lost_reg.scoring.sweep_scores import SweepScores
from lost_reg.scoring.sweep_text import read_scores
from lost_reg.text import short_names
from lost_reg.types import Failure, Prediction

T = TypeVar("T")


@dataclass(frozen=True)
class ReportRun:
    """One run of a report. Of its predictions, only those are kept that the report shows.

    short: its folder's name, with as much of its path as tells it from the report's other runs.
    name: its backbone, with all that distinguishes it from the report's other runs on the dataset.
    record: its run.json.
    names: of the images that were processed or failed, by the source's names, of a run on the user's own
        files. boxes, dataset, row: those of any other, its ground truth and its score; else None.
    """

    short: str
    name: str
    record: dict[str, Any]
    found: FoundBoxes
    names: tuple[str, ...] = ()
    boxes: AlignedBoxes | None = None
    dataset: Dataset | None = None
    row: ScoredRun | None = None

    @property
    def label(self) -> str:
        """What charts, notes and tables of pairs call it."""
        title = self.found.title  # the name without the folder, which it may have to differ by
        return title if self.short == title else f"{self.short}: {title}"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.found.path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in its run.json."""
        return self.record["settings"]

    @property
    def title(self) -> tuple[str, str] | None:
        """The dataset and split it is scored on; None if it is not scored."""
        return (self.row.dataset, self.row.split) if self.row else None

    @property
    def images(self) -> Iterable[str]:
        """The images that were processed or failed, by the dataset's names if it has one."""
        return compress(self.dataset.truths.names, self.boxes.done) if self.dataset else self.names

    def predictions(self) -> Iterator[Prediction]:
        """Stream the prediction of each image from the run's folder."""
        read: set[str] = set()
        for one in read_outcomes(self.folder):
            if one.image not in read:  # one that is listed twice counts once
                read.add(one.image)
                yield one

    def outcomes(self, images: Iterable[str]) -> dict[str, Prediction | Failure]:
        """What became of some images, by their names in `images`."""
        names = self.boxes.names if self.boxes else {}
        wanted = {names.get(image, image): image for image in images}
        outcomes = chain(read_failures(self.folder), read_outcomes(self.folder))
        return {wanted[one.image]: one for one in outcomes if one.image in wanted}


@dataclass(frozen=True)
class ReportSweep:
    """A sweep of a report. settings: those in its sweep.json."""

    scores: SweepScores
    settings: dict[str, Any]

    @property
    def kind(self) -> str:
        """Which kind of registers it had."""
        return register_kind(self.settings)

    @property
    def is_random(self) -> bool:
        """Whether its backbone had random weights."""
        return self.settings["weights"]["source"] == "random"


@dataclass(frozen=True)
class Content:
    """All that a report shows.

    unscored: folders of sweeps that have no scores yet.
    artifacts: the content of each artifacts.json, by its folder relative to the loaded one.
    probes: the content of each probe.json, likewise.
    errors: for everything that cannot be shown and is left out.
    """

    runs: list[ReportRun]
    sweeps: list[ReportSweep]
    unscored: list[Path]
    artifacts: dict[str, Artifacts]
    probes: dict[str, ProbeRecord]
    errors: list[LostRegError]


def load(top: Path, options: ScoringOptions) -> Content:
    """Read all runs, sweeps, artifacts and probes at and below a folder.

    Raises:
        LostRegError: no such folder, or nothing in it that can be shown.
    """
    sweeps, unscored, sweep_errors = load_sweeps(top)
    folders = folders_with(top, ARTIFACTS_FILE)
    files, file_errors = _read_each(folders, lambda folder: (folder, read_artifacts(folder / ARTIFACTS_FILE)))
    artifacts = {str(folder.relative_to(top)): content for folder, content in files}
    records, probe_errors = _read_each(folders_with(top, PROBE_FILE), lambda at: (at, read_probe(at)))
    probes = {str(folder.relative_to(top)): record for folder, record in records}
    runs: list[ReportRun] = []
    errors = [*sweep_errors, *file_errors, *probe_errors]
    if not (sweeps or artifacts or probes or errors) or folders_with(top, RUN_FILE):
        runs, run_errors = load_runs(top, options)
        errors = [*run_errors, *errors]
    if not (runs or sweeps or artifacts or probes):
        raise errors[0]
    return Content(runs, sweeps, unscored, artifacts, probes, errors)


def load_runs(top: Path, options: ScoringOptions) -> tuple[list[ReportRun], list[LostRegError]]:
    """The runs at and below a folder with their scores, and the errors of those that cannot be scored.

    Raises:
        LostRegError: no such folder, or no run in it.
    """
    truth_of = GroundTruths(options)

    def load_run(folder: Path) -> ReportRun:
        found, record = FoundBoxes.of_run(folder), read_run_record(folder)
        if options.dataset is None and record["settings"]["dataset"] is None:
            columns = found.load()
            return ReportRun("", found.title, record, found, (*columns.names, *columns.failures))
        dataset = truth_of(found)
        boxes = found.on(dataset)
        row = score_on(found, boxes, dataset, options)
        return ReportRun("", found.title, record, found, boxes=boxes, dataset=dataset, row=row)

    runs, errors = _read_each(find_runs(top), load_run)
    keys = [(run.name, run.title, run.record.get("root")) for run in runs]
    named = []
    for run, key, short in zip(runs, keys, short_names([run.folder for run in runs])):
        name = f"{run.name}, {run.folder.relative_to(top)}" if keys.count(key) > 1 else run.name
        named.append(replace(run, short=one_line(short), name=name))
    return named, errors


def load_sweeps(top: Path) -> tuple[list[ReportSweep], list[Path], list[LostRegError]]:
    """The sweeps at and below a folder that have scores, the folders of those without, and errors."""
    folders = folders_with(top, SWEEP_FILE)
    unscored = [folder for folder in folders if not (folder / SCORES_FILE).is_file()]
    sweeps, errors = _read_each([folder for folder in folders if folder not in unscored], _load_sweep)
    return sweeps, unscored, errors


def _load_sweep(folder: Path) -> ReportSweep:
    scores, settings = read_scores(folder), read_record(folder / SWEEP_FILE)["settings"]
    try:
        convert(settings, CommonSettings)
    except MALFORMED as error:
        reason = reason_of(error)
        raise LostRegError(f"{folder / SWEEP_FILE} does not hold the settings of a sweep: {reason}") from None
    return ReportSweep(scores, settings)


def _read_each(folders: Iterable[Path], read: Callable[[Path], T]) -> tuple[list[T], list[LostRegError]]:
    """The content of each folder, and the errors for those that cannot be read."""
    contents, errors = [], []
    for folder in folders:
        try:
            contents.append(read(folder))
        except LostRegError as error:
            errors.append(error)
    return contents, errors
