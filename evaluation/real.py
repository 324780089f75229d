"""The tables of results/real.md, on what a real model finds.

    python evaluation/real.py settings SWEEP     CorLoc of every setting of a sweep (`lost-reg sweep`)
    python evaluation/real.py norms ARTIFACTS    norms after each layer (`lost-reg artifacts`)
    python evaluation/real.py planted OUT --dataset DATASET --weights FILE

`planted` plants artifacts in the model (planted.py). It finds their neurons on the dataset's images, as
`lost-reg register-neurons` does, and compares LOST at several settings on the model as it is, with planted
artifacts, and with one test-time register besides, at as many neurons as were planted and at the default
number. OUT gets a sweep for each, and the neurons; what is there already is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import planted
from harness import argument_parser, describe_machine, markdown_table, run_script

from lost_reg.artifacts.neuron_search import find_register_neurons
from lost_reg.artifacts.records import ARTIFACTS_FILE, read_artifacts
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons, read_neurons, write_neurons
from lost_reg.backbones.vit import VitBackbone
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.lost import LostConfig
from lost_reg.discovery.methods import METHODS, Setting, describe_setting, preset_setting, with_changes
from lost_reg.plausibility import WHOLE_IMAGE, implausible
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.sources import source_of_dataset
from lost_reg.runs.sweep import sweep
from lost_reg.runs.sweep_folder import SweepResults, read_sweep
from lost_reg.scoring.corloc import Score, score
from lost_reg.scoring.found_boxes import FoundBoxes, ScoringOptions, ground_truth
from lost_reg.types import AUTO

BACKBONE = "dinov2_vits14"


def main() -> None:
    options = parse()
    options.run(options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run, folder in (
        ("settings", print_settings, "a sweep"),
        ("norms", print_norms, "what `lost-reg artifacts` wrote"),
        ("planted", print_planted, "a new folder"),
    ):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("folder", type=Path, help=folder)
    command.add_argument("--dataset", required=True, help="as `lost-reg run` takes it")
    command.add_argument("--weights", required=True, help=f"of {BACKBONE}")
    return parser.parse_args()


# --- settings ----------------------------------------------------------------------------------------


def print_settings(options: argparse.Namespace) -> None:
    swept = read_sweep(options.folder)
    scores = scores_of(swept)
    rows = [
        [describe_setting(setting), f"{one.found} of {one.images}", corloc(one), whole_images(swept, index)]
        for index, (setting, one) in enumerate(zip(swept.settings, scores))
    ]
    print(markdown_table(["setting", "found", "CorLoc (95 % interval)", "whole images"], rows))
    print(f"\nA centred box: {scores[0].centred:.1f}. The whole image: {scores[0].whole:.1f}.")


def scores_of(swept: SweepResults) -> list[Score]:
    """The score of each setting, on all images of the sweep's dataset."""
    columns = zip(*swept.boxes.values(), strict=True)
    truths = ground_truth(FoundBoxes.of_results(swept.results), ScoringOptions()).truths
    failures = swept.results.failures
    return [score(dict(zip(swept.boxes, column)), truths, unusable=failures) for column in columns]


def corloc(one: Score) -> str:
    low, high = one.interval
    return f"{one.corloc:.1f} ({low:.1f} to {high:.1f})"


def whole_images(swept: SweepResults, index: int) -> int:
    """How many boxes of a setting are the whole image, as the messages of `lost-reg run` count them."""
    boxes = ((one.boxes_xyxy[index], one.size_hw) for one in swept.results.predictions.values())
    one_patch = (1, 1)  # the grid does not matter to whether a box is the whole image
    return sum(box is not None and implausible(box, size, one_patch) == WHOLE_IMAGE for box, size in boxes)


# --- norms -------------------------------------------------------------------------------------------


def print_norms(options: argparse.Namespace) -> None:
    (measured,) = read_artifacts(options.folder / ARTIFACTS_FILE).backbones
    rows = [
        [
            one.layer,
            f"{one.mean:.1f}",
            f"{one.sigma:.1f}",
            f"{one.percentiles['50']:.1f}",
            f"{one.percentiles['99']:.1f}",
            f"{one.largest:.1f}",
            f"{100 * one.shares['sigma']:.2f} %",
        ]
        for one in measured.layers
    ]
    print(f"{measured.label}, {measured.images} images, {measured.patches:,} patches\n")
    print(
        markdown_table(["layer", "mean", "sigma", "median", "99 %", "largest", "above mean + 3 sigma"], rows)
    )


# --- planted artifacts -------------------------------------------------------------------------------


def print_planted(options: argparse.Namespace) -> None:
    dataset = find_dataset(options.dataset, data_root())
    files = [dataset.root / name for name in dataset.images]
    clean = load_backbone(BACKBONE, weights=options.weights, device="cpu")
    model, neurons = planted.plant(clean, planted.some_images(files, clean))
    found = found_neurons(options.folder / "neurons.json", model, dataset)
    print(describe_machine(clean.device))
    ranks = [found.neurons.index(neuron) + 1 for neuron in neurons if neuron in found.neurons]
    print(f"\nplanted (layer, neuron): {neurons}; found as number {ranks} of {len(found.neurons)}")
    share, top = (found.found[name] for name in ("outlier_share", "top_layer"))
    print(f"outliers: {100 * share:.2f} % of the patches, from layer {top} on\n")
    models = {"as it is": clean, "planted artifacts": model}
    for number in (planted.NEURONS, len(found.neurons)):
        added = AddedRegisters(replace(found, neurons=found.neurons[:number]))
        models[f"and a register at {number} neurons"] = planted.with_registers(model, added)
    swept = [swept_in(options.folder / name.replace(" ", "-"), one, dataset) for name, one in models.items()]
    columns = [[corloc(one) for one in scores_of(results)] for results in swept]
    names = [f"{METHODS[one['method']].title}: {describe_setting(one)}" for one in swept[0].settings]
    print(markdown_table(["setting", *models], list(zip(names, *columns))))


def found_neurons(path: Path, model: VitBackbone, dataset: Dataset) -> RegisterNeurons:
    """The neurons that the search finds with its defaults, the highest first; from a file, if it is there."""
    if not path.exists():
        files = [dataset.root / name for name in dataset.images]
        stream = ImageStream(files, dataset.images, loader=LoaderOptions(apply_exif=False))
        write_neurons(path, find_register_neurons(stream, model))
    return read_neurons(path)


def swept_in(folder: Path, backbone: VitBackbone, dataset: Dataset) -> SweepResults:
    """All settings on all images of a dataset."""
    sweep(source_of_dataset(dataset), backbone, folder, settings(), RunOptions(resume=True))
    return read_sweep(folder)


def settings() -> Sequence[Setting]:
    """LOST as published and settings that do better with DINOv2, and other methods."""
    changes = [
        {},
        {"center": True},
        {"facet": "q", "center": True},
        {"facet": "v"},
        {"facet": "qk", "center": True},
        {"facet": "qkv", "center": True},
    ]
    normalised = Setting(FeatureConfig(normalize=True), LostConfig(bias=AUTO))
    others = [preset_setting(name) for name in ("tokencut", "lost-rim", "spread")]
    return [*(with_changes(Setting(), one) for one in changes), normalised, *others]


if __name__ == "__main__":
    run_script(main)
