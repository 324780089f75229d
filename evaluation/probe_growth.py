"""How artifacts grow, and what the controls say, on a real model: the tables of results/probes.md.

    python evaluation/probe_growth.py OUT --dataset DATASET --weights FILE [--max-side 224] [--limit N]
        [--strengths 100,0,50,25,75] [--backbone NAME] [--lost normalized]

There is one checkpoint of the real model and no training run. So the series is made: the model with planted
artifacts (planted.py), whose vector has 0, 25, ..., 100 % of its length. These are the "steps"; at
0 the model is as it is. The strongest is the reference, and is measured first. OUT gets what
`lost-reg artifacts --checkpoints` writes, after each model: what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import planted
import torch
from harness import MIB, argument_parser, describe_machine, markdown_table, run_script

from lost_reg.artifacts.measure import about_artifacts, measure, save_artifacts
from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.records import Artifacts, BackboneArtifacts, check_replaceable
from lost_reg.artifacts.streams import ImageStream
from lost_reg.artifacts.tables import control_rows, outlier_rows
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.datasets.catalog import data_root, find_dataset
from lost_reg.progress import image_progress
from lost_reg.runs.options import LoaderOptions

CONTROLS = ("mean", "shuffled", "zeroed")


def main() -> None:
    options = parse()
    rows = measured(options)
    print(f"\n{describe_machine(torch.device('cpu'))}\n")
    for table in (outlier_rows(rows), control_rows(rows)):
        print(markdown_table(list(table[0]), [list(row.values()) for row in table]), "\n")


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("out", type=Path, help="a new folder, or an unfinished one")
    parser.add_argument("--dataset", required=True, help="as `lost-reg run` takes it")
    parser.add_argument("--weights", help="of the backbone")
    parser.add_argument("--backbone", default="dinov2_vits14")
    parser.add_argument("--max-side", type=int, default=224)
    parser.add_argument("--lost", default="normalized", help="as `lost-reg artifacts` takes it")
    parser.add_argument("--limit", type=int, help="use only the first N images")
    parser.add_argument("--strengths", default="100,0,50,25,75", help="in percent, the reference first")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> list[BackboneArtifacts]:
    """The measurements of each strength, by strength."""
    dataset = find_dataset(options.dataset, data_root())
    names = dataset.images[: options.limit]
    files = [dataset.root / name for name in names]
    stream = ImageStream(files, names, options.max_side, LoaderOptions(workers=0, apply_exif=False))
    clean = load_backbone(options.backbone, weights=options.weights, device="cpu")
    plain = planted.without_registers(clean)
    model, neurons = planted.plant(plain, planted.some_images(files, plain))
    strengths = [int(text) for text in options.strengths.split(",")]
    chosen = ArtifactOptions(controls=CONTROLS, lost=options.lost)
    about = about_artifacts(
        f"planted artifacts of {strengths[0]} %",
        chosen,
        max_side=options.max_side,
        models=len(strengths),
        images=stream.digest,
        dataset=dataset.name,
        steps="step",
    )
    rows = check_replaceable(options.out, about)
    for strength in strengths[len(rows) :]:
        backbone = weakened(model, neurons, strength / 100) if strength else plain
        began = time.process_time()
        with image_progress(f"{strength} %") as progress:
            row = measure(stream, backbone, chosen, rows[0] if rows else None, dataset, progress=progress)
        rows.append(replace(row, step=strength))
        save_artifacts(options.out, rows, about)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
        print(f"{strength} %: {(time.process_time() - began) / 60:.1f} core minutes, peak {peak:,.0f} MiB")
    return Artifacts(about, rows).in_order


def weakened(model: VitBackbone, neurons: list[tuple[int, int]], strength: float) -> VitBackbone:
    """A copy of a planted model whose neurons write a shorter vector."""
    copied = planted.moved(model, "cpu", "fp32")
    for layer, neuron in neurons:
        copied.model.blocks[layer].mlp.fc2.weight[:, neuron] *= strength
    return copied


if __name__ == "__main__":
    run_script(main)
