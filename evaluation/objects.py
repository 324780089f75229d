"""Several boxes per image: how good they are, and which signals predict a good one (results/objects.md).

    python evaluation/objects.py RUN [RUN ...] [--dataset NAME_OR_PATH]

RUN is a folder of `lost-reg run --max-objects N`; its name stands in the tables. Fewer objects would be the
first of the same ones, so one run gives the figures of every number. The signals are those of the first RUN.
Intervals are 95 %, by bootstrap over images.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detection import (
    Counts,
    auroc,
    best_ious,
    bootstrap_interval,
    count_images,
    matches,
    spearman,
    total,
)

from lost_reg.boxes import IOU_THRESHOLD, centred_box, is_found
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.plausibility import IMPLAUSIBLE, implausible, signals
from lost_reg.runs.folder import read_run
from lost_reg.scoring.prediction_files import match_images
from lost_reg.types import Box, Prediction

SIGNALS = ("area", "degree", "score", "borders")
PLAIN_BOXES = {"a centred box of 80 % side": 0.8, "the whole image": 1.0}


@dataclass(frozen=True)
class Run:
    """A run folder with its predictions by the dataset's image names."""

    title: str
    most: int
    predictions: dict[str, Prediction]

    def boxes(self, most: int) -> dict[str, list[Box]]:
        """The first `most` of each image."""
        return {name: boxes_of(one)[:most] for name, one in self.predictions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--dataset", help="its ground truth; default: that of the first run")
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    results = read_run(options.runs[0])
    name = options.dataset or results.settings["dataset"]
    dataset = find_dataset(name, data_root(options.data_root, results.record.get("data_root")))
    runs = [read(folder, dataset) for folder in options.runs]
    print("\n".join(report(runs, dataset)))


def read(folder: Path, dataset: Dataset) -> Run:
    results = read_run(folder)
    most = results.settings["options"].get("max_objects", 1)
    return Run(folder.name, most, match_images(results.predictions, dataset.truths))


def boxes_of(prediction: Prediction) -> list[Box]:
    return [one.box_xyxy for one in prediction.objects]


def report(runs: Sequence[Run], dataset: Dataset) -> list[str]:
    objects = sum(len(truth.boxes_xyxy) for truth in dataset.truths.values())
    return [
        f"{len(dataset.truths)} images of {dataset.title} {dataset.split}, with {objects} objects.",
        "",
        *table_by_number(runs, dataset),
        "",
        *table_by_order(runs, dataset),
        "",
        *table_of_signals(runs[0], dataset),
        "",
        *table_of_implausible(runs, dataset),
    ]


def table_by_number(runs: Sequence[Run], dataset: Dataset) -> list[str]:
    """Precision and recall by the number of objects asked for."""
    lines = ["| boxes of | N | boxes | matched | precision | recall |", "|---|---|---|---|---|---|"]
    for title, side in PLAIN_BOXES.items():
        boxes = {name: [centred_box(truth.size_hw, side)] for name, truth in dataset.truths.items()}
        lines.append(detection_row(title, 1, count_images(boxes, dataset.truths)))
    for run in runs:
        for most in range(1, run.most + 1):
            lines.append(detection_row(run.title, most, count_images(run.boxes(most), dataset.truths)))
    return lines


def detection_row(title: str, most: int, images: Sequence[Counts]) -> str:
    counts = total(images)
    shares = " | ".join(
        with_interval(100 * of(counts), lambda sample, of=of: 100 * of(total(sample)), images, "{:.1f}")
        for of in (lambda one: one.precision, lambda one: one.recall)
    )
    return f"| {title} | {most} | {counts.boxes} | {counts.matched} | {shares} |"


def with_interval(value: float, statistic: Callable, images: Sequence, form: str) -> str:
    low, high = bootstrap_interval(statistic, images)
    return f"{form} ({form} to {form})".format(value, low, high)


def table_by_order(runs: Sequence[Run], dataset: Dataset) -> list[str]:
    """The share of boxes that match an object: of the first ones, of the second, and so on."""
    lines = ["| boxes of | place | boxes | matched | share |", "|---|---|---|---|---|"]
    for run in runs:
        boxes, matched = Counter(), Counter()
        for name, prediction in run.predictions.items():
            found = matches(boxes_of(prediction), dataset.truths[name].boxes_xyxy)
            boxes.update(range(1, len(found) + 1))
            matched.update(place for place, one in enumerate(found, start=1) if one is not None)
        for place in sorted(boxes):
            share = 100 * matched[place] / boxes[place]
            lines.append(f"| {run.title} | {place} | {boxes[place]} | {matched[place]} | {share:.1f} |")
    return lines


def table_of_signals(run: Run, dataset: Dataset) -> list[str]:
    """How well each signal predicts a good box: of the first ones, and of those after them."""
    lines = [
        f"| boxes of {run.title} | number | signal | rank correlation with the IoU | AUROC of IoU >= 0.5 |",
        "|---|---|---|---|---|",
    ]
    for title, places in (("first", slice(1)), ("further", slice(1, None))):
        for signal in SIGNALS:
            images = [one for one in signal_and_iou(run, dataset, signal, places) if len(one)]
            if images and not np.isnan(np.concatenate(images)).any():  # a method may lack a signal
                number = sum(map(len, images))
                correlation = with_interval(rank_correlation(images), rank_correlation, images, "{:+.2f}")
                area = with_interval(area_under_curve(images), area_under_curve, images, "{:.2f}")
                lines.append(f"| {title} | {number} | {signal} | {correlation} | {area} |")
    return lines


def signal_and_iou(run: Run, dataset: Dataset, signal: str, places: slice) -> list[np.ndarray]:
    """For each image, (boxes, 2): a signal of its boxes at these places, and their highest IoU."""
    images = []
    for name, prediction in run.predictions.items():
        values = [getattr(signals(found, prediction), signal) for found in prediction.objects]
        ious = best_ious(boxes_of(prediction), dataset.truths[name].boxes_xyxy)
        images.append(np.array([values, ious], dtype=float).T[places])
    return images


def rank_correlation(images: Sequence[np.ndarray]) -> float:
    """Spearman's, over the boxes of all images."""
    values, ious = np.concatenate(images).T
    return spearman(values, ious)


def area_under_curve(images: Sequence[np.ndarray]) -> float:
    values, ious = np.concatenate(images).T
    return auroc(values, ious >= IOU_THRESHOLD)


def table_of_implausible(runs: Sequence[Run], dataset: Dataset) -> list[str]:
    lines = ["| first boxes of | kind | boxes | IoU >= 0.5 |", "|---|---|---|---|"]
    for run in runs:
        boxes, right = Counter(), Counter()
        for name, prediction in run.predictions.items():
            box = prediction.box_xyxy
            if box is None:
                continue
            kind = implausible(box, prediction.size_hw, prediction.grid_hw) or "plausible"
            boxes[kind] += 1
            right[kind] += is_found(box, dataset.truths[name].boxes_xyxy)
        for kind in ("plausible", *IMPLAUSIBLE):
            if boxes[kind]:
                lines.append(f"| {run.title} | {kind} | {boxes[kind]} | {right[kind]} |")
    return lines


if __name__ == "__main__":
    main()
