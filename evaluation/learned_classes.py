"""Clusters of a run's objects against the classes of its dataset: tables of results/learned.md.

    python evaluation/methods.py scenes DATA --count 400          writes scenes, whose classes are their kinds
    python evaluation/learned_classes.py OUT --dataset DATASET    runs, clusters by several k, and scores

A run that OUT holds already is only clustered and scored. The true boxes are clustered in the same way, which
shows the errors that discovery does not cause.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import argument_parser, describe_machine, markdown_table, run_script

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import load_backbone
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.discovery.methods import preset_setting
from lost_reg.runs.folder import RUN_FILE, read_run
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_dataset
from lost_reg.runs.writer import RunWriter
from lost_reg.scoring.all_scores import score_runs
from lost_reg.scoring.classes import Agreement, ClassScores
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.training.cluster_run import ClusterOptions, cluster_run
from lost_reg.types import FoundObject, Prediction

HEADER = (
    "boxes", "class token", "k", "with a true object", "purity", "by chance", "above it",
    "NMI", "by chance", "above it", "AP50", "COCO AP50", "COCO AP",
)  # fmt: skip


def main() -> None:
    options = parse()
    dataset = find_dataset(options.dataset, data_root())
    backbone = load_backbone(options.backbone, weights=options.weights, device="cpu")
    of_crops = backbone
    if options.crops_backbone:
        of_crops = load_backbone(options.crops_backbone, weights=options.crops_weights, device="cpu")
    found, true = options.folder / "found", options.folder / "true"
    if not (found / RUN_FILE).exists():
        setting = preset_setting(options.method)
        run(source_of_dataset(dataset), backbone, found, setting, RunOptions(LoaderOptions(batch_size=4)))
    if not (true / RUN_FILE).exists():
        write_true_boxes(found, true, dataset)
    rows = [
        [name, of_crops.name, str(k), *scored(folder, of_crops, k)]
        for name, folder in {"found": found, "true": true}.items()
        if name in options.boxes
        for k in options.k
    ]
    print(f"{describe_machine()}\n")
    print(markdown_table(list(HEADER), rows))


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", required=True, help="as `lost-reg run` takes it")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--weights")
    parser.add_argument("--crops-backbone", help="whose class token describes a crop; default: the run's")
    parser.add_argument("--crops-weights")
    parser.add_argument("--boxes", choices=["found", "true"], nargs="+", default=["found", "true"])
    parser.add_argument("--method", default="lost", help="of the run, as published or as its preset")
    parser.add_argument("--k", type=int, nargs="+", default=[4, 10, 20])
    return parser.parse_args()


def write_true_boxes(found: Path, folder: Path, dataset: Dataset) -> None:
    """A run folder like another one, whose objects are the true ones."""
    results = read_run(found)
    record = {key: value for key, value in results.record.items() if key not in ("settings", "sessions")}
    with RunWriter(folder, results.settings, record) as writer:
        for image, one in results.predictions.items():
            boxes = dataset.truths[image].boxes_xyxy
            objects = tuple(FoundObject(box, 1.0, (0, 0)) for box in boxes)
            writer.write(Prediction(image, one.size_hw, one.grid_hw, objects))


def scored(folder: Path, backbone: Backbone, k: int) -> list[str]:
    """The cells of a row: the run clustered by k."""
    cluster_run(read_run(folder), backbone, ClusterOptions(k=(k,)))
    (row,), errors = score_runs([folder], ScoringOptions(partial=True))
    for error in errors:
        print(error)
    return cells(row.classes)


def cells(scores: ClassScores) -> list[str]:
    aps = [f"{scores.mean(name):.1f}" for name in ("ap50", "coco_ap50", "coco_ap")]
    measures = [cell for one in (scores.purity, scores.nmi) for cell in words(one)]
    return [f"{scores.boxes:,} of {scores.labelled:,}", *measures, *aps]


def words(one: Agreement) -> list[str]:
    return [
        f"{one.value:.1f} ({one.low:.1f} to {one.high:.1f})",
        f"{one.chance:.1f}",
        f"{one.above:.1f} ({one.above_low:.1f} to {one.above_high:.1f})",
    ]


if __name__ == "__main__":
    run_script(main)
