"""All scores of runs: CorLoc, class-agnostic AP of boxes, and, where masks exist, scores of masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lost_reg.datasets.catalog import Dataset
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import Results, find_runs, read_run
from lost_reg.scoring import found_boxes
from lost_reg.scoring.average_precision import (
    BOXES,
    MASKS,
    AveragePrecision,
    average_precision,
    scored_objects,
)
from lost_reg.scoring.classes import ClassScores, score_classes
from lost_reg.scoring.corloc import objects_that_count
from lost_reg.scoring.found_boxes import FoundBoxes, ScoringOptions
from lost_reg.scoring.held_out import HeldOut, score_held_out
from lost_reg.scoring.mask_pairs import found_segmentation, mask_pairs, true_segmentations
from lost_reg.scoring.mask_scores import MaskScores, score_masks
from lost_reg.scoring.prediction_files import match_images, read_scored_boxes
from lost_reg.scoring.score_runs import ScoredRun, score_found
from lost_reg.types import Box, Prediction


@dataclass(frozen=True)
class AllScores:
    """One row of the table of all scores.

    run: CorLoc, and what the row is of.
    boxes: AP of all boxes.
    classes: scores of the objects' labels; None if they have none, or the dataset has no two classes.
    masks: scores of the first object's mask against that of the largest true object; mask_ap: AP of all
        masks. None if the dataset or the run has no masks.
    lacks_masks: whether the dataset has masks, but the run has none.
    lacks_true_masks: whether the run has masks, but the dataset has none.
    held_out: for a run of a head, how it compares with the run that it learned from.
    """

    run: ScoredRun
    boxes: AveragePrecision
    classes: ClassScores | None = None
    masks: MaskScores | None = None
    mask_ap: AveragePrecision | None = None
    lacks_masks: bool = False
    lacks_true_masks: bool = False
    held_out: HeldOut | None = None


def score_runs(paths: Sequence[Path], options: ScoringOptions) -> tuple[list[AllScores], list[LostRegError]]:
    """Score all runs at and below folders, and files of boxes.

    Returns:
        The rows, and the errors of the runs that could not be scored: one bad run does not hide the others.

    Raises:
        LostRegError: no such folder, or one without runs.
    """
    one_by_one = (one for path in paths for one in ([path] if path.is_file() else find_runs(path)))
    truth_of = found_boxes.GroundTruths(options)
    rows, errors = [], []
    for folder in dict.fromkeys(one_by_one):
        try:
            if folder.is_file():
                rows.append(score_file(folder, options))
                continue
            results = read_run(folder)
            found = FoundBoxes.of_results(results)
            dataset = truth_of(found)
            row = _score_run(results, found, dataset, options)
            rows.append(replace(row, held_out=score_held_out(results, dataset, options)))
        except LostRegError as error:
            errors.append(error)
    return rows, errors


def score_file(path: Path, options: ScoringOptions) -> AllScores:
    """Score a LOST pickle or COCO-style detections, such as a detector of another program writes.

    Detectors write nothing for an image without a detection: such images count as misses.

    Raises:
        LostRegError: a file that cannot be read, no `dataset`, or images that it does not have.
    """
    found_boxes.check_boxes_file(path)
    if not options.dataset:  # fail before reading the file
        raise found_boxes.unknown_dataset(path)
    found = read_scored_boxes(path)
    first = {key: of_image[0][1] if of_image else None for key, of_image in found.items()}
    of_file = FoundBoxes.of_boxes(path, first)
    dataset = found_boxes.ground_truth(of_file, options)
    matched = match_images(found, dataset.truths, dataset.left_out)
    best = {image: matched[image][0][1] if matched.get(image) else None for image in dataset.truths}
    run = score_found(FoundBoxes.of_boxes(path, best), dataset, options)
    return AllScores(run, average_precision(BOXES, _true_boxes(dataset.truths, dataset, options), matched))


def _score_run(results: Results, found: FoundBoxes, dataset: Dataset, options: ScoringOptions) -> AllScores:
    run = score_found(found, dataset, options)
    predictions = match_images(results.predictions, dataset.truths, dataset.left_out)
    failures = match_images(results.failures, dataset.truths, dataset.left_out)
    done = [image for image in dataset.truths if image in predictions or image in failures]
    dataset = dataset.with_sizes({image: one.size_hw for image, one in predictions.items()}, done)
    boxes = _box_ap(done, predictions, dataset, options)
    masks = [one.mask for prediction in predictions.values() for one in prediction.objects]
    classes = _class_scores(done, predictions, dataset, options)
    if dataset.masks_of is None:
        return AllScores(run, boxes, classes, lacks_true_masks=any(masks))
    if not all(masks):
        return AllScores(run, boxes, classes, lacks_masks=True)
    try:
        return AllScores(run, boxes, classes, *_mask_scores(done, predictions, dataset))
    except LostRegError as error:
        raise LostRegError(f"{results.folder}: {error}") from None


def _box_ap(
    done: Sequence[str], predictions: Mapping[str, Prediction], dataset: Dataset, options: ScoringOptions
) -> AveragePrecision:
    truths = _true_boxes(done, dataset, options)
    scored = scored_objects(predictions)
    found = {image: [(score, one.box_xyxy) for score, one in objects] for image, objects in scored.items()}
    return average_precision(BOXES, truths, found)


def _true_boxes(
    images: Iterable[str], dataset: Dataset, options: ScoringOptions
) -> dict[str, tuple[Box, ...]]:
    return {
        image: objects_that_count(dataset.truths[image], options.count_hard).boxes_xyxy for image in images
    }


def _class_scores(
    done: Sequence[str], predictions: Mapping[str, Prediction], dataset: Dataset, options: ScoringOptions
) -> ClassScores | None:
    if not any(one.label for prediction in predictions.values() for one in prediction.objects):
        return None
    truths = {image: dataset.truths[image] for image in done}
    if not options.count_hard:  # what does not count is neither right nor wrong
        truths = {image: replace(one, difficult=one.hard) for image, one in truths.items()}
    return score_classes(truths, predictions)


def _mask_scores(
    done: Sequence[str], predictions: Mapping[str, Prediction], dataset: Dataset
) -> tuple[MaskScores, AveragePrecision]:
    truths = {image: true_segmentations(image, dataset) for image in done}
    scores = score_masks(mask_pairs(truths, predictions, dataset))
    found = {
        image: [(score, found_segmentation(image, one, dataset)) for score, one in objects]
        for image, objects in scored_objects(predictions).items()
    }
    return scores, average_precision(MASKS, truths, found)
