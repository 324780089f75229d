"""The tables of results/probes.md: classes and depths read from patches of a real and a planted model.

    python evaluation/probe_dense.py OUT --weights FILE [--backbone NAME] [--train 60] [--test 80]
        [--steps 300 1000] [--tasks segmentation depth]

OUT gets generated scenes (tiny/scenes) and a probe of each model and task; what is there already is not done
again. FILE has the weights of dinov2_vits14 (real_weights.py).

- Segmentation: the background and the four kinds of objects.
- Depth: that of a level ground, by the row in the image, 1 m at the bottom and 5 m at the top. An object has
  the depth of its lowest visible row in all of its pixels, as if it stood there. The scenes are not drawn by
  these depths: objects do not shrink with them, nor hide each other by them.

In the planted model, the patches of least texture of each image are replaced after the middle block by one
long vector, the mean of the image's patches. So these patches hold the image, but not
what is at their place. Each test image is there twice: with all labels, and with those in its planted patches
alone, so that one head is scored on both.

The number of steps is chosen from `--steps`: that with the best score of the real model on the first half of
the test images. All else is measured once, on the second half. What the planting implies was written down
before: in the planted patches, the planted model is worse in both tasks (the paired 95 % interval of the
difference excludes 0), and everywhere, where these are 2.3 % of the pixels, by little or nothing.

Last, the real model's head also learns from four views of each training image (`--views 4`), with as many
steps. The planting implies nothing about this: 60 scenes are few, and 1,000 steps see each of them 267 times.
"""

from __future__ import annotations

import argparse
import copy
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from harness import argument_parser, decoded, describe_machine, markdown_table, run_script
from tiny import scenes
from torch import Tensor, nn

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.datasets.pixel_labels import PixelDataset, find_depth, find_segmentation
from lost_reg.files import whole_folder
from lost_reg.probing.dense import MEASURES, probe_dense
from lost_reg.probing.dense_heads import DepthHead, SegmentationHead
from lost_reg.probing.dense_labels import LabelReader, read_all
from lost_reg.probing.dense_options import DenseOptions, DenseTask
from lost_reg.probing.measures import difference_interval, interval, value
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import PROBE_FILE, Measure, Outcomes, read_outcomes, read_probe
from lost_reg.runs.options import LoaderOptions

BACKBONE, SIDE = "dinov2_vits14", 224
VIEWS = 4
PLANTED = 6  # patches of an image, 2.3 % of 256
TIMES_TYPICAL = 60.0
FIRST_SEED = 4_000_000  # of scenes that nothing else uses
NO_CLASS, NO_DEPTH = 255, 0
ONLY = "-planted"  # ends the stem of an image that has labels in its planted patches alone
LOADER = LoaderOptions(workers=0, batch_size=8)
FIND = {"segmentation": find_segmentation, "depth": find_depth}
RATES: dict[DenseTask, float] = {"segmentation": 1e-3, "depth": 1e-3}
TITLES = {"miou": "mIoU, %", "rmse": "RMSE, m"}


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    real = load_backbone(options.backbone, weights=options.weights, device="cpu")
    folder = options.out / "scenes"
    if not folder.is_dir():
        save_scenes(folder, real, options.train, options.test)
    models = {"real": real, "planted": planted(real, PLANTED)}
    for task in options.tasks:
        report(task, folder, models, options)
    print(f"\n{describe_machine()}")


def report(
    task: DenseTask, folder: Path, models: dict[str, VitBackbone], options: argparse.Namespace
) -> None:
    """Print which steps are chosen, and the scores of all models after them."""
    data, measure = FIND[task](str(folder), folder), MEASURES[task]
    print(f"\n### {task}\n", flush=True)

    def result(name: str, steps: int, views: int = 1) -> Outcomes:
        chosen = DenseOptions(steps=steps, learning_rate=RATES[task], views=views)
        out = options.out / f"{task}-{name}-{steps}{f'-{views}' if views > 1 else ''}"
        return probed(data, models[name], out, task, chosen)

    fresh = options.train + options.test // 2
    steps = chosen_steps(measure, {steps: result("real", steps) for steps in options.steps}, fresh)
    found = {name: result(name, steps) for name in models}
    print_scores(measure, constant(data, task, DenseOptions()), found, fresh)
    print_views(measure, found["real"], result("real", steps, VIEWS), fresh)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", help="of the backbone")
    parser.add_argument("--backbone", default=BACKBONE)
    for name, default in (("train", 60), ("test", 80)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--tasks", nargs="+", choices=RATES, default=list(RATES))
    return parser.parse_args()


# --- scenes ------------------------------------------------------------------------------------------


def save_scenes(folder: Path, backbone: VitBackbone, train: int, test: int) -> None:
    """Scenes in the layout of a user's own dataset, with the classes and the depths of all pixels."""
    with whole_folder(folder) as part:
        for number in range(train + test):
            scene = scenes.make_scene(FIRST_SEED + number, (SIDE, SIDE))
            labels, depths = classes_of(scene), depths_of(scene)
            split = part / ("train" if number < train else "val")
            write(split, f"{number:03}", scene.image, labels, depths)
            if number >= train:
                here = planted_pixels(split / "images" / f"{number:03}.png", backbone)
                only = np.where(here, labels, NO_CLASS), np.where(here, depths, NO_DEPTH)
                write(split, f"{number:03}{ONLY}", scene.image, *only)


def write(split: Path, stem: str, image: np.ndarray, labels: np.ndarray, depths: np.ndarray) -> None:
    parts = {"images": image[:, :, ::-1], "labels": labels.astype(np.uint8), "depths": depths}
    for name, pixels in parts.items():
        (split / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(split / name / f"{stem}.png"), pixels.astype(np.uint16 if name == "depths" else np.uint8)
        )


def classes_of(scene: scenes.Scene) -> np.ndarray:
    """(H, W) int: 0 for the background, and the kinds from 1."""
    numbers = [kind.__name__ for kind in scenes.KINDS]
    return np.array([0, *(1 + numbers.index(kind) for kind in scene.kinds)])[scene.instances]


def depths_of(scene: scenes.Scene) -> np.ndarray:
    """(H, W) int, in millimetres: see the module."""
    height, width = scene.instances.shape
    of_rows = 1000 / np.linspace(0.2, 1, height)
    depths = np.repeat(of_rows[:, None], width, axis=1)
    for number in scene.visible:
        inside = scene.instances == number
        depths[inside] = of_rows[np.flatnonzero(inside.any(axis=1))[-1]]
    return depths.round().astype(int)


def planted(backbone: VitBackbone, count: int) -> VitBackbone:
    """A copy that writes the mean of an image's patches into `count` of them."""
    model = copy.deepcopy(backbone.model)
    layer, prefix = backbone.depth // 2 - 1, backbone.num_prefix_tokens
    chosen: list[Tensor] = []

    def choose(embedding: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        chosen[:] = [least_texture(inputs[0], embedding.patch_size[0], count)]

    def write(block: nn.Module, _: tuple[Tensor], tokens: Tensor) -> Tensor:
        patches = tokens[:, prefix:]
        typical = patches.norm(dim=2).median()
        about = TIMES_TYPICAL * typical * nn.functional.normalize(patches.mean(dim=1, keepdim=True), dim=2)
        written = torch.where(chosen[0][..., None], about, patches)
        return torch.cat([tokens[:, :prefix], written], dim=1)

    model.patch_embed.register_forward_hook(choose)
    model.blocks[layer].register_forward_hook(write)
    return VitBackbone(backbone.spec, model, backbone.weights, backbone.device, "fp32")


def least_texture(images: Tensor, patch: int, count: int) -> Tensor:
    """(B, 3, H, W) to (B, N) bool: the `count` patches of least texture."""
    texture = nn.functional.unfold(images, patch, stride=patch).std(dim=1)  # (B, N)
    lowest = texture.topk(min(count, texture.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(texture, dtype=torch.bool).scatter(1, lowest, True)


def planted_pixels(path: Path, backbone: VitBackbone) -> np.ndarray:
    """(H, W) bool: the pixels of an image in patches that the planted model replaces."""
    patch = backbone.patch_size
    images = normalized([decoded(path, patch)], backbone)
    chosen = least_texture(images, patch, PLANTED).view(SIDE // patch, SIDE // patch).numpy()
    return chosen.repeat(patch, axis=0).repeat(patch, axis=1)


# --- probes and scores -------------------------------------------------------------------------------


def probed(
    data: PixelDataset, backbone: VitBackbone, out: Path, task: DenseTask, options: DenseOptions
) -> Outcomes:
    """What came of each test image."""
    if not (out / PROBE_FILE).is_file():
        began = time.process_time()
        probe_dense(data, backbone, out, task, options, ProbeOptions(LOADER))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        minutes = (time.process_time() - began) / 60
        print(f"{out.name}: {minutes:.1f} core minutes, at most {peak:,.0f} MiB\n", flush=True)
    return read_outcomes(out, read_probe(out))


def constant(data: PixelDataset, task: DenseTask, options: DenseOptions) -> Outcomes:
    """What comes of one answer everywhere: the training labels' commonest class or mean depth."""
    reader, views = read_all(LabelReader(data, task, options, data.classes), workers=0)
    labels = np.concatenate([view.pixels.labels for view in views])
    if task == "segmentation":
        head, answer = SegmentationHead(1, reader.classes), np.bincount(labels.astype(int)).argmax()
    else:
        head, answer = DepthHead(1, options.max_depth, class_token=False), labels.mean()
    truths = [reader.read(one).labels for one in data.test]
    rows = np.stack([head.outcome(np.full(len(truth), answer), truth) for truth in truths])
    return Outcomes(tuple(one.name for one in data.test), None, (rows,))


def chosen_steps(measure: Measure, found: dict[int, Outcomes], fresh: int) -> int:
    """The steps of the best score on the first half of the test images; prints all."""
    scores = {steps: value(measure, rows_of(one, range(fresh))) for steps, one in found.items()}
    rows = [[f"{steps:,}", shown(measure, score)] for steps, score in scores.items()]
    print(markdown_table(["steps", f"{TITLES[measure]}, real, first half"], rows), flush=True)
    best = min(scores, key=scores.get) if measure == "rmse" else max(scores, key=scores.get)
    print(f"\nSteps that are chosen: {best:,}\n", flush=True)
    return best


def print_scores(measure: Measure, same: Outcomes, found: dict[str, Outcomes], fresh: int) -> None:
    """On the second half of the test images, which begins with the number `fresh`."""
    second, rows = range(fresh, sys.maxsize), []
    for where, is_only in (("everywhere", False), ("in the planted patches", True)):
        base, real, changed = (rows_of(one, second, is_only) for one in (same, *found.values()))
        scores = [value(measure, one) for one in (base, real, changed)]
        rows.append(
            [
                where,
                shown(measure, scores[0]),
                shown(measure, scores[1], interval(measure, real)),
                shown(measure, scores[2], interval(measure, changed)),
                shown(measure, scores[2] - scores[1], difference_interval(measure, real, changed)[0]),
            ]
        )
    print(markdown_table([TITLES[measure], "one answer", *found, "planted minus real"], rows))


def print_views(measure: Measure, one: Outcomes, several: Outcomes, fresh: int) -> None:
    """What several views of each training image add, on the second half of the test images."""
    rows, others = (rows_of(outcomes, range(fresh, sys.maxsize)) for outcomes in (one, several))
    scores, ends = (
        [value(measure, each) for each in (rows, others)],
        difference_interval(measure, rows, others),
    )
    print(
        f"\nThe real model with {VIEWS} views of each training image: {shown(measure, scores[1])}, "
        f"minus one view: {shown(measure, scores[1] - scores[0], ends[0])}"
    )


def rows_of(outcomes: Outcomes, numbers: range, is_only: bool = False) -> np.ndarray:
    """(T, W): of the scenes of these numbers with all labels, or with labels in planted patches alone."""
    stems = [Path(name).stem for name in outcomes.names]
    chosen = [int(stem.removesuffix(ONLY)) in numbers and stem.endswith(ONLY) == is_only for stem in stems]
    return outcomes.rows[0][chosen]


def shown(measure: Measure, score: float, ends: tuple[float, float] | None = None) -> str:
    """In percent or metres, with its interval."""
    one, *others = (f"{100 * x:.1f}" if measure == "miou" else f"{x:.3f}" for x in (score, *(ends or ())))
    return f"{one} ({' to '.join(others)})" if ends else one


if __name__ == "__main__":
    run_script(main)
