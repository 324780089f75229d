"""Boxes to be scored, from a run folder or a prediction file, and their ground truth."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.backbones.zoo import SPECS, backbone_label, backbone_notes
from lost_reg.datasets.base import LEAVE_OUT, REFUSE
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset, is_known
from lost_reg.discovery.lost import LOST
from lost_reg.discovery.methods import departures
from lost_reg.discovery.presets import preset_of
from lost_reg.errors import IncompleteRun, LostRegError
from lost_reg.runs.folder import RUN_FILE, Results, read_failures, read_outcomes, read_run_record
from lost_reg.runs.seals import foreign, is_own
from lost_reg.scoring.columns import AlignedBoxes, Columns
from lost_reg.scoring.prediction_files import image_names, read_boxes
from lost_reg.text import counted
from lost_reg.types import Box

REGISTER_KINDS = {
    "without": "without registers",
    "with": "with registers",
    "test-time": "test-time register",
}
_TRAINED_WITH_REGISTERS = frozenset(spec.name for spec in SPECS if spec.registers)


@dataclass(frozen=True)
class ScoringOptions:
    """How results are scored.

    dataset: the ground truth, for results that name none; overrides the one that results name.
    data_root: the folder of datasets; None for the recorded one, or the default.
    partial: score incomplete results on the images that are done.
    count_hard: False drops difficult and truncated objects (LOST's `no_hard`).
    unannotated: one of `UNANNOTATED`: refuse a dataset with images that have no annotations, or leave these
        images out.
    """

    dataset: str | None = None
    data_root: Path | None = None
    partial: bool = False
    count_hard: bool = True
    unannotated: str = REFUSE


class WithoutTruth(LostRegError):
    """A run on a user's own images, for which no ground truth is named."""

    def __init__(self, path: Path):
        super().__init__(f"{path} was run on files of your own: name its ground truth with `dataset`")
        self.path = path


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of a run, a sweep or a prediction file.

    title: the backbone's label (see `describe_backbone`), or the name of the file.
    settings, data_root: as recorded; None for a file. unused_data_root: that of another user, which is not
        used.
    load: reads the boxes; called once.
    is_own: whether this user made it, so that the dataset that it names may be read from any folder.
    """

    path: Path
    title: str
    settings: dict[str, Any] | None
    data_root: str | None
    load: Callable[[], Columns]
    is_own: bool = True
    unused_data_root: str | None = None

    @classmethod
    def of_run(cls, folder: Path) -> FoundBoxes:
        """The first box of each image of a run. The boxes are read when they are asked for.

        Raises:
            LostRegError: a record that is missing or malformed; when boxes are read, a malformed line.
        """

        def load() -> Columns:
            return Columns.of_outcomes(read_outcomes(folder), (one.image for one in read_failures(folder)))

        return cls._of_record(folder, read_run_record(folder), load)

    @classmethod
    def of_results(cls, results: Results) -> FoundBoxes:
        """The boxes in a results folder: the first box of each image of a run, or all of a sweep's."""

        def load() -> Columns:
            return Columns.of_outcomes(results.predictions.values(), results.failures)

        return cls._of_record(results.folder, results.record, load)

    @classmethod
    def of_boxes(cls, path: Path, boxes: Mapping[str, Box | None]) -> FoundBoxes:
        """The boxes of a prediction file."""
        return cls(path, path.name, None, None, lambda: Columns.of_boxes(boxes))

    @classmethod
    def _of_record(cls, folder: Path, record: dict[str, Any], load: Callable[[], Columns]) -> FoundBoxes:
        settings, own = record["settings"], is_own(record)
        recorded = record.get("data_root")
        return cls(
            path=folder,
            title=describe_backbone(settings),
            settings=settings,
            data_root=recorded if own else None,
            load=load,
            is_own=own,
            unused_data_root=None if own else recorded,
        )

    def on(self, dataset: Dataset) -> AlignedBoxes:
        """The boxes in the rows of a dataset.

        Raises:
            LostRegError: images that the dataset does not have, or a name that matches several.
        """
        columns, truths = self.load(), dataset.truths
        images, failures = (
            image_names(names, truths, dataset.left_out) for names in (columns.names, columns.failures)
        )
        return AlignedBoxes.align(columns, truths, images, failures)


def with_sizes(dataset: Dataset, *found: AlignedBoxes) -> Dataset:
    """The dataset with the sizes that runs recorded; see `Dataset.with_sizes`."""
    if dataset.truths.is_sized.all():
        return dataset
    names = dataset.truths.names
    sizes = {
        name: (size[0], size[1])
        for one in found
        for name, size in zip(names, one.sizes_hw.tolist())
        if size[0]
    }
    done = np.logical_or.reduce([one.done for one in found])
    return dataset.with_sizes(sizes, compress(names, done))


def check_boxes_file(path: Path) -> None:
    """Check that a file can hold boxes, by its name.

    Raises:
        LostRegError: a part of a run, or an image.
    """
    if (path.parent / RUN_FILE).is_file() and (path.suffix == ".jsonl" or path.name == RUN_FILE):
        raise LostRegError(f"{str(path)!r} is a part of a run: name its folder, {str(path.parent)!r}")
    if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
        raise LostRegError(
            f"{str(path)!r} is an image: name the folder of a run, a LOST pickle or a COCO file"
        )


def read_file_boxes(path: Path) -> FoundBoxes:
    """The boxes of a LOST pickle or a COCO-style detections file.

    Raises:
        LostRegError: see `check_boxes_file` and `read_boxes`.
    """
    check_boxes_file(path)
    return FoundBoxes.of_boxes(path, read_boxes(path))


def ground_truth(found: FoundBoxes, options: ScoringOptions) -> Dataset:
    """The dataset that the options name, or else the recorded one.

    Raises:
        LostRegError: neither names one, or it is not on this machine; or another user's results name a path.
    """
    name = options.dataset or (found.settings and found.settings["dataset"])
    if not name and found.settings:
        raise WithoutTruth(found.path)
    if not name:
        raise unknown_dataset(found.path)
    if not (options.dataset or found.is_own or is_known(name)):
        why = foreign(found.path, f"its ground truth is not read from {name!r}")
        raise LostRegError(f"{why}: name it with `dataset`")
    root = data_root(options.data_root, found.data_root)
    try:
        dataset = find_dataset(name, root)
    except LostRegError as error:
        unused = found.unused_data_root
        if unused is None or root == data_root(options.data_root, unused):
            raise  # none is named, or it makes no difference
        why = foreign(found.path, f"the data root that it names, {unused!r}, is not used")
        raise LostRegError(f"{error}; {why}: name it with `data_root`") from None
    return dataset.annotated() if options.unannotated == LEAVE_OUT else dataset


class GroundTruths:
    """The ground truth of several runs; that of runs on one dataset is read once."""

    def __init__(self, options: ScoringOptions):
        self._options = options
        self._read: dict[tuple[str | None, str | None, bool], Dataset] = {}

    def __call__(self, found: FoundBoxes) -> Dataset:
        """See `ground_truth`."""
        recorded = found.settings["dataset"] if found.settings else None
        # of a run that is not the user's, less is read
        key = (self._options.dataset or recorded, found.data_root, found.is_own)
        if key not in self._read:
            self._read[key] = ground_truth(found, self._options)
        return self._read[key]


def unknown_dataset(file: Path) -> LostRegError:
    """The error for a file of boxes whose dataset is not named."""
    return LostRegError(f"name the ground truth of {str(file)!r} with `dataset`, such as voc07")


def check_complete(found: FoundBoxes, aligned: AlignedBoxes, dataset: Dataset, alternative: str) -> None:
    """Check that all images of a dataset were processed.

    Args:
        aligned: the boxes of `found` on the dataset.
        alternative: advice for the user if not all were.

    Raises:
        IncompleteRun: images that neither were processed nor failed.
    """
    done = int(np.count_nonzero(aligned.done))
    if done < len(dataset.truths):
        command = "sweep" if found.settings and "tried" in found.settings else "run"
        of_dataset = found.settings and found.settings["dataset"]
        resume = f"; `lost-reg {command}` with `resume` finishes it" if of_dataset else ""
        raise IncompleteRun(
            f"{found.path} covers {done:,} of the {counted(len(dataset.truths), 'image')} of "
            f"{dataset.title}: {alternative}{resume}"
        )


def split_title(dataset: Dataset, options: ScoringOptions) -> str:
    """The split, and whether hard objects were dropped."""
    return dataset.split if options.count_hard else f"{dataset.split} no_hard"


def describe_backbone(settings: dict[str, Any]) -> str:
    """A backbone's name, with all differences from its published weights and from LOST as published.

    The name of a preset across methods stands for what it differs in.

    The settings of a sweep have no single features and options, and may have several methods: the label has
    none of these.
    """
    method = settings.get("method") or LOST.name
    record = {"features": {}, "options": {}, **settings, "method": method}
    preset = preset_of(record)
    refined = [f"refine={settings['refine']}"] if settings.get("refine") else []
    notes = [f"preset {preset}", *refined] if preset else departures(record)
    return backbone_label(*_of_backbone(settings), [*notes, *_precision(settings)])


def backbone_conditions(settings: dict[str, Any]) -> list[str]:
    """How the backbone of a run or a sweep differs from that of its name as it is published."""
    name = settings["weights"]["name"]
    notes = backbone_notes(*_of_backbone(settings), _precision(settings))
    return [f"weights {note}" if note == name else note for note in notes]


def _of_backbone(settings: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    return settings["backbone"], settings["weights"], settings.get("test_time_registers")


def _precision(settings: dict[str, Any]) -> list[str]:
    return [settings["precision"]] if settings["precision"] != "fp32" else []


def register_kind(settings: dict[str, Any]) -> str:
    """Which of `REGISTER_KINDS` a run or a sweep is, judged by its settings."""
    if settings.get("test_time_registers"):
        return "test-time"
    return "with" if settings["backbone"] in _TRAINED_WITH_REGISTERS else "without"
