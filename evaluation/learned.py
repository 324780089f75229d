"""What is learned from a run, on generated scenes: the tables of results/learned.md.

    python evaluation/learned.py detector WORK        boxes before and after a detector, killed and resumed
    python evaluation/learned.py gpu --device cuda    images a second of a detector's training

`detector` makes 400 scenes to learn from and 200 others to score; WORK keeps what is done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import methods
import numpy as np
import torch
from harness import (
    argument_parser,
    describe_machine,
    make_photos,
    markdown_table,
    run_script,
    source_of_folder,
)

from lost_reg.backbones.loading import find_device, load_backbone
from lost_reg.runs.folder import RUN_FILE
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.scoring.all_scores import score_runs
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.training.detector_config import LOST_CAD, chosen_config
from lost_reg.training.detector_data import read_training_set
from lost_reg.training.detector_folder import DETECTOR_FILE, LOG_FILE
from lost_reg.training.detector_training import TrainingOptions, train_detector

TRAINING_SEEDS = 3_000_000  # of the scenes to learn from; `methods.UNSEEN_SEEDS` are those that are scored
TRAINING_SCENES = 400
KILLS = 3
_LOST_REG = (sys.executable, "-m", "lost_reg")


def main() -> None:
    options = parse()
    options.do(options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    detector = commands.add_parser("detector")
    detector.set_defaults(do=learn_detector)
    detector.add_argument("folder", type=Path)
    detector.add_argument("--training", type=int, default=TRAINING_SCENES, help="scenes to learn from")
    detector.add_argument("--scored", type=int, default=methods.SCENES, help="scenes to score")
    detector.add_argument("--steps", type=int, default=1000)
    detector.add_argument("--size", type=int, default=160, help="of the images, in pixels")
    detector.add_argument("--kills", type=int, default=KILLS)
    gpu = commands.add_parser("gpu")
    gpu.set_defaults(do=time_training)
    gpu.add_argument("--device", default="cuda")
    gpu.add_argument("--precision", default="bf16")
    gpu.add_argument("--steps", type=int, default=30)
    gpu.add_argument("--batch-size", type=int, default=16)
    gpu.add_argument("--preset", default="torchvision")
    gpu.add_argument("--workers", type=int, default=12)
    return parser.parse_args()


# --- a detector on scenes ----------------------------------------------------------------------------


def learn_detector(options: argparse.Namespace) -> None:
    """Boxes of `tiny`, and of a detector that was trained on them from random weights."""
    work = options.folder
    training = scenes(work / "training", TRAINING_SEEDS, options.training)
    scored = scenes(work / "scored", methods.UNSEEN_SEEDS, options.scored)
    boxes = work / "boxes"
    if not (boxes / RUN_FILE).exists():
        lost_reg("run", training / "images", "--backbone", "tiny", "--out", boxes)
    before = work / "runs" / "before"
    if not (before / RUN_FILE).exists():
        lost_reg(
            "run",
            "--backbone",
            "tiny",
            "--dataset",
            scored / "scenes.json",
            "--out",
            before,
            "--preset",
            "best",
        )
    arguments = (
        "--backbone", "resnet18", "--channels", 64, "--steps", options.steps, "--lr", 0.08,
        "--min-size", options.size, "--max-size", options.size, "--save-every", 50,
    )  # fmt: skip
    kills = train_with_kills(boxes, work / "detector", arguments, options)
    after = work / "runs" / "after"
    if not (after / RUN_FILE).exists():
        lost_reg(
            "run", "--dataset", scored / "scenes.json", "--out", after, "--method", "detector",
            "--detector", work / "detector",
        )  # fmt: skip
    rows, errors = score_runs([before, after], ScoringOptions())
    if errors:
        raise errors[0]
    header = ["boxes", "CorLoc", "95 % interval", "box AP", "box AP50", "box AR@10"]
    table = [
        [name, f"{row.run.score.corloc:.1f}", "{:.1f} to {:.1f}".format(*row.run.score.interval)]
        + [f"{value:.1f}" for value in (row.boxes.ap, row.boxes.ap50, row.boxes.ar10)]
        for name, row in zip(("of `tiny`, preset best", "of the detector trained on such boxes"), rows)
    ]
    print(f"{describe_machine()}\n")
    print(markdown_table(header, table))
    print(f"\n{options.scored} scenes were scored. The training on {options.training} others {kills}.")


def scenes(folder: Path, first_seed: int, count: int) -> Path:
    """A folder of generated scenes, as `methods.py scenes` writes it."""
    if not (folder / "scenes.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        methods.write_scenes(argparse.Namespace(folder=folder, count=count, first_seed=first_seed))
    return folder


def lost_reg(*arguments: object) -> None:
    subprocess.run([*_LOST_REG, *map(str, arguments)], check=True, stdout=sys.stderr)


def train_with_kills(
    boxes: Path, out: Path, arguments: tuple[object, ...], options: argparse.Namespace
) -> str:
    """Train a detector, killed at random steps and resumed; returns what happened, in words."""
    command = [*_LOST_REG, "train", "detector", boxes, "--out", out, *arguments]
    at = sorted(random.Random(0).sample(range(1, options.steps), options.kills))
    killed = []
    for step in [*at, options.steps]:
        resume = ["--resume"] if (out / DETECTOR_FILE).exists() else []
        process = subprocess.Popen([str(one) for one in [*command, *resume]], stdout=sys.stderr)
        while process.poll() is None:
            time.sleep(0.2)
            if step < options.steps and steps_logged(out) > step:
                killed.append(steps_logged(out))
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"the training ended with {process.returncode}")
    record = json.loads((out / DETECTOR_FILE).read_text())
    rows = (out / LOG_FILE).read_text().splitlines()[1:]
    assert record["finished"] and [int(row.split(",")[0]) for row in rows] == list(range(options.steps))
    seconds = sum(record["config"]["batch_size"] / float(row.split(",")[-1]) for row in rows)
    after = (
        f"was killed after steps {', '.join(map(str, killed))} and resumed" if killed else "was not killed"
    )
    return f"{after}; its {options.steps} steps took {seconds / 60:.0f} minutes"


def steps_logged(out: Path) -> int:
    """How many steps a training has logged."""
    return len((out / LOG_FILE).read_bytes().splitlines()) - 1 if (out / LOG_FILE).exists() else 0


# --- the rate on a GPU -------------------------------------------------------------------------------


def time_training(options: argparse.Namespace) -> None:
    """Train a ResNet-50 on photos of COCO's and VOC's sizes at random weights, and print its rate."""
    changes = {"min_sizes": tuple(range(480, 801, 32)), "max_size": 1333, "norm": "batch"}
    if options.preset == LOST_CAD:
        changes = {}
    config = chosen_config(
        options.preset, steps=options.steps, batch_size=options.batch_size, warmup=1000, **changes
    )
    with tempfile.TemporaryDirectory() as name:
        photos, out = Path(name, "photos"), Path(name, "run")
        photos.mkdir()
        make_photos(photos, 60)
        tiny = load_backbone("tiny", device="cpu")
        run(source_of_folder(photos), tiny, out, options=RunOptions(LoaderOptions(workers=4)))
        device = find_device(options.device)
        chosen = TrainingOptions(device, options.precision, workers=options.workers, save_every=10**6)
        train_detector(read_training_set(out), Path(name, "detector"), config, chosen)
        rows = Path(name, "detector", LOG_FILE).read_text().splitlines()[1:]
    rates = [float(row.split(",")[-1]) for row in rows[len(rows) // 5 :]]  # without the first, which warm up
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0
    header = ["preset", "backbone", "precision", "images a step", "images/s (median)", "GiB at most"]
    cells = [options.preset, config.backbone, options.precision, config.batch_size]
    print(f"{describe_machine(device)}\n")
    print(markdown_table(header, [[*cells, f"{np.median(rates):.1f}", f"{memory:.1f}"]]))


if __name__ == "__main__":
    run_script(main)
