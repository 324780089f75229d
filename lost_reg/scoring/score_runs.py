"""From run folders and prediction files to rows of one CorLoc table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lost_reg import text as texts
from lost_reg.backbones import registers
from lost_reg.backbones.zoo import SPECS
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.errors import LostRegError, one_line
from lost_reg.runs.folder import RUN_FILE, Results, find_runs, read_run
from lost_reg.scoring.corloc import Score, score
from lost_reg.scoring.prediction_files import match_images, read_boxes
from lost_reg.scoring.published import Published, comparable_number
from lost_reg.types import Box, Protocol

NO_NUMBER = "no comparable number"
REGISTER_BACKBONES = frozenset(spec.name for spec in SPECS if spec.registers)


@dataclass(frozen=True)
class ScoredRun:
    """One row of the table.

    backbone: with what sets it apart from its published weights and from LOST as published.
    other_size: images that are not of the size that was annotated, so that their boxes cannot fit.
    """

    path: Path
    backbone: str
    dataset: str
    split: str
    score: Score
    published: Published | None
    other_size: int = 0


@dataclass(frozen=True)
class ScoringOptions:
    """What `lost-reg corloc` was asked for: see `score_path`."""

    dataset: str | None = None
    data_root: Path | None = None
    partial: bool = False
    count_hard: bool = True


def score_path(path: Path, options: ScoringOptions) -> tuple[list[ScoredRun], list[LostRegError]]:
    """Score all runs at and below a folder, or one prediction file.

    Returns:
        The rows, and the errors of the runs that could not be scored: one bad run does not hide the others.

    Raises:
        LostRegError: no such path, or a folder without runs.
    """
    if path.is_file():
        return [score_file(path, options)], []
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
            truth that is not there.
    """
    found = read_run_boxes(folder)
    dataset = ground_truth(found, options)
    found = found.on(dataset)
    scored = _score(found, dataset, options)
    is_published_split = dataset.is_full and not scored.not_done and options.count_hard
    published = comparable_number(found.settings, dataset.name, is_full_split=is_published_split)
    split = split_title(dataset, options)
    return ScoredRun(
        folder, found.title, dataset.title, split, scored, published, len(found.of_other_size(dataset))
    )


def score_file(path: Path, options: ScoringOptions) -> ScoredRun:
    """Score a LOST pickle or a COCO-style detections file.

    Raises:
        LostRegError: as `score_run`, and if no dataset is named.
    """
    if options.dataset is None:  # said before the file is read
        raise _no_dataset(path)
    found = read_file_boxes(path)
    dataset = ground_truth(found, options)
    scored = _score(found.on(dataset), dataset, options)
    return ScoredRun(path, found.title, dataset.title, split_title(dataset, options), scored, None)


def split_title(dataset: Dataset, options: ScoringOptions) -> str:
    """The split, and the objects of it that count, if not all do."""
    return dataset.split if options.count_hard else f"{dataset.split} no_hard"


def _score(found: FoundBoxes, dataset: Dataset, options: ScoringOptions) -> Score:
    if not options.partial:
        refuse_incomplete(found, dataset, "--partial scores those alone")
    return score(found.boxes, dataset.truths, unusable=found.failures, count_hard=options.count_hard)


# --- boxes and their ground truth --------------------------------------------------------------------


@dataclass(frozen=True)
class FoundBoxes:
    """One box per image, as a run or a prediction file has them.

    title: the backbone with what sets it apart (see `describe_backbone`), or the name of the file.
    settings, data_root: what the run recorded; None for a file.
    boxes, sizes_hw, failures: by what the source calls the image, or, after `on`, by the dataset's name.
        Files have no sizes and no failures.
    """

    path: Path
    title: str
    settings: dict[str, Any] | None
    data_root: str | None
    boxes: dict[str, Box]
    sizes_hw: dict[str, tuple[int, int]]
    failures: frozenset[str]

    @property
    def done(self) -> set[str]:
        """The images that have a box or failed."""
        return {*self.boxes, *self.failures}

    def on(self, dataset: Dataset) -> FoundBoxes:
        """The same by the image names of a dataset.

        Raises:
            LostRegError: images that the dataset does not have, or a name that fits several.
        """
        boxes = match_images(self.boxes, dataset.truths)
        sizes = dict(zip(boxes, self.sizes_hw.values()))  # in one order
        failures = frozenset(match_images(dict.fromkeys(self.failures), dataset.truths))
        return replace(self, boxes=boxes, sizes_hw=sizes, failures=failures)

    def of_other_size(self, dataset: Dataset) -> list[str]:
        """The images, by the dataset's names, that are not of the size that was annotated."""
        return [name for name, size in self.sizes_hw.items() if size != dataset.truths[name].size_hw]


def read_run_boxes(folder: Path) -> FoundBoxes:
    """The boxes of a run folder.

    Raises:
        LostRegError: a file that is missing or malformed.
    """
    results = read_run(folder)
    try:
        title, _ = describe_backbone(results), results.settings["dataset"]
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise LostRegError(f"{folder / RUN_FILE} does not hold the settings of a run: {reason}") from None
    return FoundBoxes(
        path=folder,
        title=title,
        settings=results.settings,
        data_root=results.record.get("data_root"),
        boxes={image: prediction.box_xyxy for image, prediction in results.predictions.items()},
        sizes_hw={image: prediction.size_hw for image, prediction in results.predictions.items()},
        failures=frozenset(results.failures),
    )


def read_file_boxes(path: Path) -> FoundBoxes:
    """The boxes of a LOST pickle or a COCO-style detections file; see `read_boxes`."""
    if (path.parent / RUN_FILE).is_file() and path.suffix == ".jsonl":
        raise LostRegError(f"{str(path)!r} is a part of a run: name its folder, {str(path.parent)!r}")
    return FoundBoxes(path, path.name, None, None, read_boxes(path), {}, frozenset())


def ground_truth(found: FoundBoxes, options: ScoringOptions) -> Dataset:
    """The dataset that the options name, or else the one of the run.

    Raises:
        LostRegError: neither names one, or it is not on this machine.
    """
    name = options.dataset or (found.settings and found.settings["dataset"])
    if name is None:
        raise _no_dataset(found.path)
    return find_dataset(name, data_root(options.data_root, found.data_root))


def _no_dataset(path: Path) -> LostRegError:
    if path.is_dir():
        return LostRegError(f"{path} is a run on files of your own: name its ground truth with --dataset")
    return LostRegError(f"name the ground truth of {str(path)!r} with --dataset, such as --dataset voc07")


def refuse_incomplete(found: FoundBoxes, dataset: Dataset, instead: str) -> None:
    """See that boxes cover all images of a dataset.

    Args:
        instead: what the user can do about it, for the message.

    Raises:
        LostRegError: images that neither have a box nor failed.
    """
    if len(found.done) < len(dataset.truths):
        resume = "; `lost-reg run` with --resume finishes a run" if found.settings else ""
        raise LostRegError(
            f"{found.path} covers {len(found.done):,} of the {len(dataset.truths):,} images of "
            f"{dataset.title}: {instead}{resume}"
        )


def describe_backbone(results: Results) -> str:
    """A backbone's name, with all that differs from its published weights and LOST as published."""
    settings = results.settings
    weights, protocol = settings["weights"], settings["protocol"]
    notes = []
    if weights["source"] == "random":
        notes.append("RANDOM WEIGHTS")
    elif weights["source"] == "file":
        notes.append(weights["name"])
    default = asdict(Protocol())
    notes += [f"{key}={protocol[key]}" for key in default if protocol.get(key, default[key]) != default[key]]
    if settings["precision"] != "fp32":
        notes.append(settings["precision"])
    if settings.get("test_time_registers"):
        notes.append(registers.describe(settings["test_time_registers"]))
    return settings["backbone"] + (f" ({', '.join(notes)})" if notes else "")


def register_kind(settings: dict[str, Any]) -> str:
    """What registers a run had, by its settings: "with" trained ones, "test-time" ones, or "without"."""
    if settings.get("test_time_registers"):
        return "test-time"
    return "with" if settings["backbone"] in REGISTER_BACKBONES else "without"


# --- tables ------------------------------------------------------------------------------------------

_COLUMNS: dict[str, Callable[[ScoredRun], str]] = {
    "backbone": lambda row: row.backbone,
    "dataset": lambda row: f"{row.dataset} {row.split}",
    "images": lambda row: f"{row.score.images:,}",
    "found": lambda row: f"{row.score.found:,}",
    "CorLoc": lambda row: f"{row.score.corloc:.1f}",
    "95 % interval": lambda row: "{:.1f} to {:.1f}".format(*row.score.interval),
    "centred box": lambda row: f"{row.score.centred:.1f}",
    "whole image": lambda row: f"{row.score.whole:.1f}",
    "published": lambda row: (
        f"{row.published.corloc:.1f} ({row.published.source})" if row.published else NO_NUMBER
    ),
}


def text_table(rows: Sequence[ScoredRun]) -> str:
    """The rows as a table for people, with what did not count below it."""
    lines = [
        texts.text_table(list(_COLUMNS), [[column(row) for column in _COLUMNS.values()] for row in rows])
    ]
    lines += [f"{one_line(str(row.path))}: {_counts(row.score)}" for row in rows]
    lines += [
        f"{one_line(str(row.path))}: {row.other_size:,} images are not of the size that was annotated: "
        "turned by EXIF?"
        for row in rows
        if row.other_size
    ]
    return "\n".join(lines)


def _counts(scored: Score) -> str:
    return (
        f"{scored.unusable:,} undecodable (counted as misses), "
        f"{scored.without_truth:,} without any box (left out), {scored.not_done:,} not done (left out)"
    )


def json_text(rows: Sequence[ScoredRun]) -> str:
    """The rows as JSON: a list of objects."""
    return json.dumps([_flat(row) for row in rows], indent=2)


def csv_text(rows: Sequence[ScoredRun]) -> str:
    """The rows as CSV, with a header."""
    return texts.csv_text([_flat(row) for row in rows])


def _flat(row: ScoredRun) -> dict[str, Any]:
    numbers = asdict(row.score)
    low, high = numbers.pop("interval")
    return {
        "path": str(row.path),
        "backbone": row.backbone,
        "dataset": row.dataset,
        "split": row.split,
        **numbers,
        "other_size": row.other_size,
        "interval_low": low,
        "interval_high": high,
        "published": row.published.corloc if row.published else None,
        "published_source": row.published.source if row.published else NO_NUMBER,
    }
