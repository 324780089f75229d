"""How far results are from the plain float32 formulation (plain.py), and what low precision changes.

    python evaluation/agreement.py [--dataset NAME_OR_PATH] [--device cuda] [--backbone NAME ...]
        [--weights FILE] [--facet FACETS] [--center] [--limit N]

Without --dataset, on the samples of this project. Weights are random, except those of `tiny`, or of the one
backbone that --weights is for. The features are those of LOST as published unless --facet or --center says
otherwise. The plain formulation always runs on the CPU. Where a float32 box differs, rigorous bounds on the
rounding show whether it can be the reason: a degree that ties, or an entry of A or M whose sign it decides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import plain
import planted
from harness import argument_parser, decoded, describe_machine, run_script, table_head, table_row
from scipy import ndimage

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.boxes import iou
from lost_reg.datasets.catalog import Dataset, find_dataset
from lost_reg.discovery.features import FeatureConfig, compose, describe_features
from lost_reg.notebook.discover import discover
from lost_reg.runs.options import LoaderOptions
from lost_reg.scoring.corloc import score
from lost_reg.types import Prediction

BACKBONES = ["tiny", "dino_vits16", "dinov2_vits14", "dinov2_vits14_reg", "deit3"]
SHARES = ["same seed", "same box", "IoU >= 0.9"]  # columns of the tables


@dataclass(frozen=True)
class Comparison:
    """Of one image. feature_error: the largest relative difference of a patch's features.

    rounding: whether rounding can be the reason for another box; None where the box is the same.
    """

    feature_error: float
    same_seed: bool
    same_box: bool
    overlap: float
    rounding: bool | None


@dataclass(frozen=True)
class Task:
    """What is compared: LOST on these features of these images."""

    images: Dataset
    features: FeatureConfig

    @property
    def files(self) -> list[Path]:
        return [self.images.root / name for name in self.images.images]

    def found(self, backbone: VitBackbone, **loader) -> list[Prediction]:
        """What lost-reg finds."""
        options = LoaderOptions(apply_exif=False, **loader)
        return discover(self.files, backbone, "lost", features=self.features, loader=options)

    def corloc(self, backbone: VitBackbone) -> float:
        found = zip(self.images.images, self.found(backbone), strict=True)
        return score({name: one.box_xyxy for name, one in found}, self.images.truths).corloc


def main() -> None:
    options = parse()
    images = find_dataset(options.dataset, options.data_root)
    images = replace(images, images=images.images[: options.limit])
    task = Task(images, FeatureConfig(options.facet, center=options.center))
    print(describe_machine(options.device))
    print(
        f"\n{len(images.images)} images of {images.title}, {describe_features(task.features)}\n", flush=True
    )
    print_backbones(task, options)
    print_batchings(task, options)
    print_precisions(task, options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__, device=True)
    parser.add_argument("--dataset", default="samples", help="as `lost-reg run` takes it")
    parser.add_argument("--data-root", type=Path, default=Path(__file__).parent.parent / "data")
    parser.add_argument("--backbone", action="append", help=f"default: {', '.join(BACKBONES)}")
    parser.add_argument("--limit", type=int, help="only so many images, the first ones")
    parser.add_argument("--weights", help="a file, for the one --backbone")
    parser.add_argument("--facet", default="k")
    parser.add_argument("--center", action="store_true")
    parser.add_argument("--precision", action="append", choices=["bf16", "fp16"], help="default: both")
    options = parser.parse_args()
    if options.weights and len(options.backbone or []) != 1:
        parser.error("--weights needs one --backbone")
    return options


def loaded(name: str, options: argparse.Namespace, device: str) -> VitBackbone:
    """A backbone with the weights that were asked for."""
    weights = options.weights or (None if name == "tiny" else "random")
    return load_backbone(name, weights=weights, device=device)


def trained(options: argparse.Namespace, device: str) -> VitBackbone:
    """The backbone whose weights are not random: `tiny`, if no other has a file."""
    return loaded(options.backbone[0] if options.weights else "tiny", options, device)


# --- comparing ---------------------------------------------------------------------------------------


def compared(task: Task, backbone: VitBackbone, reference: VitBackbone) -> list[Comparison]:
    """Each image by lost-reg, in batches, against plain.py with the float32 `reference`."""
    found = zip(task.files, task.found(backbone), strict=True)
    return [compare(path, one, backbone, reference, task.features) for path, one in found]


def compare(
    path: Path, found: Prediction, backbone: VitBackbone, reference: VitBackbone, config: FeatureConfig
) -> Comparison:
    expected = plain.discover(path, reference, config.facet, config.center)
    images = normalized([decoded(path, backbone.patch_size)], backbone)
    parts = dict(zip(config.parts, backbone.facets(images, config.parts)))
    features = compose(parts, config)[0].float().cpu().numpy()
    errors = np.linalg.norm(features - expected.features, axis=1) / np.linalg.norm(expected.features, axis=1)
    same_seed = found.objects[0].seed == expected.seed
    same_box = found.box_xyxy == expected.box_xyxy
    rounding = None if same_box else rounding_can_decide(expected, found, errors.max(), backbone.patch_size)
    overlap = iou(found.box_xyxy, [expected.box_xyxy])[0]
    return Comparison(float(errors.max()), same_seed, same_box, float(overlap), rounding)


def rounding_can_decide(expected: plain.Plain, found: Prediction, feature_error: float, patch: int) -> bool:
    """Whether `found` is a result of LOST on affinities within rounding of those expected.

    An affinity is off by at most 2 e + e^2 for keys that are off by e, and by the rounding of a sum of D
    products (D u for any order of summation), times the keys' norms.
    """
    features = expected.features.astype(np.float64)
    affinities, unit = features @ features.T, 2.0**-24
    norms = np.linalg.norm(features, axis=1)
    error = (2 * feature_error + feature_error**2 + 2 * features.shape[1] * unit) * np.outer(norms, norms)
    off_diagonal = ~np.eye(len(norms), dtype=bool)
    fewest = ((affinities > error) & off_diagonal).sum(1)  # degrees, at least and at most
    most = ((affinities > -error) & off_diagonal).sum(1)
    row, column = found.objects[0].seed
    seed = row * expected.grid_hw[1] + column
    if fewest[seed] > most.min():
        return False
    k = min(plain.K_PATCHES, len(norms))
    possible = (fewest <= np.sort(most)[k - 1]) & (affinities[seed] > -error[seed])
    certain = np.array([(fewest <= m).sum() <= k for m in most]) & (affinities[seed] > error[seed])
    certain[seed] = possible[seed] = True
    doubtful = possible & ~certain
    least = (affinities - error)[certain].sum(0) + (affinities - error)[doubtful].clip(max=0).sum(0)
    largest = (affinities + error)[certain].sum(0) + (affinities + error)[doubtful].clip(min=0).sum(0)
    inner = box_of(least > 0, found, expected.grid_hw, patch)
    outer = box_of(largest > 0, found, expected.grid_hw, patch)
    box = np.array(found.box_xyxy)
    return bool((outer[:2] <= box[:2]).all() and (box[:2] <= inner[:2]).all()
                and (inner[2:] <= box[2:]).all() and (box[2:] <= outer[2:]).all())  # fmt: skip


def box_of(mask: np.ndarray, found: Prediction, grid_hw: tuple[int, int], patch: int) -> np.ndarray:
    """(4,) The box in pixels of the component that holds the seed, which need not be in the mask."""
    mask, seed = mask.reshape(grid_hw).copy(), found.objects[0].seed
    mask[seed] = True
    labels, _ = ndimage.label(mask)
    ys, xs = np.nonzero(labels == labels[seed])
    height, width = found.size_hw
    ends = min((xs.max() + 1) * patch, width), min((ys.max() + 1) * patch, height)
    return np.array([xs.min() * patch, ys.min() * patch, *ends])


# --- tables ------------------------------------------------------------------------------------------


def print_backbones(task: Task, options: argparse.Namespace) -> None:
    """Each backbone in float32 against plain.py."""
    print(table_head(["float32", "features, relative", *SHARES, "other boxes: by rounding"]))
    for name in options.backbone or BACKBONES:
        backbone = loaded(name, options, str(options.device))
        rows = compared(task, backbone, reference=loaded(name, options, "cpu"))
        others = [one for one in rows if not one.same_box]
        error = f"{max(one.feature_error for one in rows):.1e}"
        decided = f"{sum(bool(one.rounding) for one in others)} of {len(others)}"
        print(table_row([name, error, *shares(rows), decided]), flush=True)


def print_batchings(task: Task, options: argparse.Namespace) -> None:
    """The images with the same objects as in batches of 1, decoded in this process."""
    backbone = trained(options, str(options.device))
    expected = task.found(backbone, batch_size=1, workers=0)
    print(f"\n{table_head([f'float32, {backbone.name}', 'same results'])}")

    def print_row(what: str, found: list[Prediction]) -> None:
        same = [a == b for a, b in zip(expected, found, strict=True)]
        print(table_row([what, percent(same)]), flush=True)

    for batch_size, workers in ((1, 0), (8, 0), (16, 0), (8, 4)):
        found = task.found(backbone, batch_size=batch_size, workers=workers)
        print_row(f"batches of {batch_size}, {workers} workers", found)
    if options.device.type != "cpu":
        print_row("on the CPU", task.found(trained(options, "cpu"), batch_size=1))


def print_precisions(task: Task, options: argparse.Namespace) -> None:
    """A trained backbone, as it is and with planted artifacts, in low precision against float32."""
    model = trained(options, "cpu")
    clean = planted.without_registers(model)
    models = {
        "": model,
        ", planted artifacts": planted.plant(clean, planted.some_images(task.files, clean))[0],
    }
    print(f"\n{table_head([model.name, 'features, relative', *SHARES, 'CorLoc, float32', 'CorLoc'])}")
    for suffix, full in models.items():
        for precision in options.precision or ("bf16", "fp16"):
            low = planted.moved(full, options.device, precision)
            rows = compared(task, low, reference=full)
            error = f"{np.median([one.feature_error for one in rows]):.1e}"
            corlocs = [f"{task.corloc(one):.1f}" for one in (full, low)]
            print(table_row([precision + suffix, error, *shares(rows), *corlocs]), flush=True)


def shares(compared: list[Comparison]) -> list[str]:
    """The cells of SHARES."""
    holds = [(one.same_seed, one.same_box, one.overlap >= 0.9) for one in compared]
    return [percent(column) for column in zip(*holds)]


def percent(holds: Sequence[bool]) -> str:
    return f"{100 * np.mean(holds):.1f} %"


if __name__ == "__main__":
    run_script(main)
