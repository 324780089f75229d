"""A head beside the run that it learned from, on the images that were held out of its training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.boxes import is_found
from lost_reg.datasets.catalog import Dataset
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import Results, read_run
from lost_reg.runs.heads import is_held_out
from lost_reg.runs.seals import foreign, is_own
from lost_reg.scoring.corloc import objects_that_count
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.scoring.paired import Paired
from lost_reg.scoring.prediction_files import match_images
from lost_reg.types import Box


@dataclass(frozen=True)
class HeldOut:
    """How a head compares with the run that it learned from.

    run: the folder of that run. method: its method.
    paired: CorLoc on the images that were held out, A of that run, B of the head; None if not known.
    reason: why it is not known.
    """

    run: str
    method: str
    paired: Paired | None = None
    reason: str = ""


def score_held_out(results: Results, dataset: Dataset, options: ScoringOptions) -> HeldOut | None:
    """Compare a run of a head with the one that the head learned from, on held-out images.

    Returns:
        None for a run of another method.
    """
    head = results.settings["options"].get("head") if results.settings["method"] == "head" else None
    trained_on = head.get("trained_on") if isinstance(head, dict) else None
    if not isinstance(trained_on, dict) or not trained_on.get("run"):
        return None
    teacher = HeldOut(str(trained_on["run"]), str(trained_on.get("method")))
    if not is_own(results.record):
        return _unknown(teacher, foreign(results.folder, "the run that it names is not read"))
    if trained_on.get("root") != results.record.get("root"):
        return _unknown(teacher, "it learned from images in another folder")
    try:
        of_teacher = read_run(Path(teacher.run))
    except LostRegError as error:
        return _unknown(teacher, str(error))
    if of_teacher.record.get("created") != trained_on.get("run_created"):
        return _unknown(teacher, "the run in its folder is another one by now")
    try:
        names = _held_out_names(results, of_teacher, trained_on)
    except (KeyError, TypeError):
        return _unknown(teacher, "which images were held out is not recorded")
    paired = _paired(names, of_teacher, results, dataset, options)
    return HeldOut(teacher.run, teacher.method, paired) if paired else _unknown(teacher, "no such image")


def _unknown(teacher: HeldOut, reason: str) -> HeldOut:
    return HeldOut(teacher.run, teacher.method, reason=reason)


def _held_out_names(results: Results, of_teacher: Results, trained_on: Mapping[str, Any]) -> list[str]:
    """The images of both runs that the head was not trained on."""
    both = (name for name in results.predictions if name in of_teacher.predictions)
    return [name for name in both if is_held_out(name, trained_on)]


def _paired(
    names: list[str], a: Results, b: Results, dataset: Dataset, options: ScoringOptions
) -> Paired | None:
    boxes = {name: (a.predictions[name].box_xyxy, b.predictions[name].box_xyxy) for name in names}
    outcomes: Counter[tuple[bool, ...]] = Counter()
    for image, pair in match_images(boxes, dataset.truths, dataset.left_out).items():
        truths = objects_that_count(dataset.truths[image], options.count_hard).boxes_xyxy
        if truths:
            outcomes[tuple(_is_found(box, truths) for box in pair)] += 1
    if not outcomes:
        return None
    return Paired(*(outcomes[one] for one in ((True, True), (True, False), (False, True), (False, False))))


def _is_found(box: Box | None, truths: tuple[Box, ...]) -> bool:
    return box is not None and bool(is_found(box, truths))
