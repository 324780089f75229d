"""Boxes to be scored, from a run folder or a prediction file, and their ground truth."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lost_reg.backbones.zoo import SPECS, backbone_label, backbone_notes
from lost_reg.datasets.base import LEAVE_OUT, REFUSE
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset, is_known
from lost_reg.discovery.lost import LOST
from lost_reg.discovery.methods import departures
from lost_reg.discovery.presets import preset_of
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import RUN_FILE, Results
from lost_reg.runs.seals import foreign, is_own
from lost_reg.scoring.prediction_files import match_images, read_boxes
from lost_reg.text import counted

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


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of a run, a sweep or a prediction file.

    title: the backbone's label (see `describe_backbone`), or the name of the file.
    settings, data_root: as recorded; None for a file. Another user's data root is left out.
    is_own: whether this user made it, so that the dataset that it names may be read from any folder.
    boxes, sizes_hw, failures: by the source's name for the image, or, after `on`, by the dataset's. A box is
        None if nothing was found; a sweep has a tuple of boxes. Files have no sizes or failures.
    """

    path: Path
    title: str
    settings: dict[str, Any] | None
    data_root: str | None
    boxes: Mapping[str, Any]
    sizes_hw: Mapping[str, tuple[int, int]]
    failures: frozenset[str]
    is_own: bool = True

    @classmethod
    def of_results(cls, results: Results, boxes: Mapping[str, Any] | None = None) -> FoundBoxes:
        """The boxes in a results folder; without `boxes`, the first box of each image of a run."""
        if boxes is None:
            boxes = {image: one.box_xyxy for image, one in results.predictions.items()}
        own = is_own(results.record)
        return cls(
            path=results.folder,
            title=describe_backbone(results.settings),
            settings=results.settings,
            data_root=results.record.get("data_root") if own else None,
            boxes=boxes,
            sizes_hw={image: one.size_hw for image, one in results.predictions.items()},
            failures=frozenset(results.failures),
            is_own=own,
        )

    @property
    def done(self) -> set[str]:
        """The images that were processed, or failed."""
        return {*self.boxes, *self.failures}

    def on(self, dataset: Dataset) -> FoundBoxes:
        """The same, keyed by a dataset's image names.

        Raises:
            LostRegError: images that the dataset does not have, or a name that matches several.
        """
        boxes, sizes, failures = (
            match_images(one, dataset.truths, dataset.left_out)
            for one in (self.boxes, self.sizes_hw, dict.fromkeys(self.failures))
        )
        return replace(self, boxes=boxes, sizes_hw=sizes, failures=frozenset(failures))

    def of_other_size(self, dataset: Dataset) -> list[str]:
        """The images, by the dataset's names, whose size differs from the annotated one."""
        return [name for name, size in self.sizes_hw.items() if size != dataset.truths[name].size_hw]


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
    return FoundBoxes(path, path.name, None, None, read_boxes(path), {}, frozenset())


def ground_truth(found: FoundBoxes, options: ScoringOptions) -> Dataset:
    """The dataset that the options name, or else the recorded one.

    Raises:
        LostRegError: neither names one, or it is not on this machine; or another user's results name a path.
    """
    name = options.dataset or (found.settings and found.settings["dataset"])
    if not name and found.settings:
        raise LostRegError(f"{found.path} was run on files of your own: name its ground truth with `dataset`")
    if not name:
        raise unknown_dataset(found.path)
    if not (options.dataset or found.is_own or is_known(name)):
        why = foreign(found.path, f"its ground truth is not read from {name!r}")
        raise LostRegError(f"{why}: name it with `dataset`")
    dataset = find_dataset(name, data_root(options.data_root, found.data_root))
    return dataset.annotated() if options.unannotated == LEAVE_OUT else dataset


def unknown_dataset(file: Path) -> LostRegError:
    """The error for a file of boxes whose dataset is not named."""
    return LostRegError(f"name the ground truth of {str(file)!r} with `dataset`, such as voc07")


def check_complete(found: FoundBoxes, dataset: Dataset, alternative: str) -> None:
    """Check that all images of a dataset were processed; `alternative`: advice for the user if not.

    Raises:
        LostRegError: images that neither were processed nor failed.
    """
    if len(found.done) < len(dataset.truths):
        command = "sweep" if found.settings and "tried" in found.settings else "run"
        of_dataset = found.settings and found.settings["dataset"]
        resume = f"; `lost-reg {command}` with `resume` finishes it" if of_dataset else ""
        raise LostRegError(
            f"{found.path} covers {len(found.done):,} of the {counted(len(dataset.truths), 'image')} of "
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
