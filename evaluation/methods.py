"""What each discovery method finds: the tables of results/methods.md.

    python evaluation/methods.py scenes DATA                     writes generated scenes, with masks
    python evaluation/methods.py run OUT --dataset DATASET       runs every setting into OUT, and scores it
    python evaluation/methods.py solver --dataset DATASET        TokenCut's boxes beside a dense eigensolver's

Runs that OUT holds already are only scored. The halves are those of results/presets.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
from harness import argument_parser, describe_machine, markdown_table, run_script
from plain import dense_cut
from tiny import scenes

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import is_found
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.discovery.features import FeatureConfig, PatchFeatures, compose
from lost_reg.discovery.maskcut import MaskCutConfig
from lost_reg.discovery.methods import Setting, preset_setting, with_changes
from lost_reg.discovery.presets import ACROSS_METHODS
from lost_reg.discovery.tokencut import TokenCutConfig, discover
from lost_reg.images.decoding import Decoding
from lost_reg.masks.grids import stored
from lost_reg.plausibility import WHOLE_IMAGE, implausible
from lost_reg.runs.folder import RUN_FILE, Results, read_run
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_dataset
from lost_reg.scoring.all_scores import AllScores, score_runs
from lost_reg.scoring.found_boxes import ScoringOptions

UNSEEN_SEEDS = 2_000_000  # of scenes that `tiny` was not trained on
HALVES_SEED = 14
SCENES = 200
SAME_PATCHES = 1e-6  # relative: values that differ by less are equal


def main() -> None:
    options = parse()
    options.do(options)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    for name, do in (("scenes", write_scenes), ("run", run_all), ("solver", compare_solver)):
        command = commands.add_parser(name)
        command.set_defaults(do=do)
        if name != "solver":
            command.add_argument("folder", type=Path)
        if name == "scenes":
            command.add_argument("--count", type=int, default=SCENES)
            command.add_argument("--first-seed", type=int, default=UNSEEN_SEEDS)
            continue
        command.add_argument("--dataset", required=True, help="as `lost-reg run` takes it")
        command.add_argument("--backbone", default="tiny")
        command.add_argument("--weights")
        command.add_argument("--limit", type=int, help="only so many images")
    return parser.parse_args()


# --- scenes ------------------------------------------------------------------------------------------


def write_scenes(options: argparse.Namespace) -> None:
    """Scenes as a COCO dataset: DATA/scenes.json, and the images beside it in DATA/images.

    Its categories are the kinds of objects.
    """
    images, annotations = [], []
    kinds = {kind.__name__: number for number, kind in enumerate(scenes.KINDS, start=1)}
    (options.folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        scene, name = scenes.make_scene(options.first_seed + number), f"{number:04}.png"
        height, width = scene.image.shape[:2]
        cv2.imwrite(str(options.folder / "images" / name), scene.image[:, :, ::-1])
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        objects = zip(scene.visible, scene.labels, scene.boxes_xyxy)
        for label, kind, (xmin, ymin, xmax, ymax) in objects:
            counts = stored(scene.instances == label, (height, width)).counts
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": kinds[kind], "iscrowd": 0,
                "bbox": [float(xmin), float(ymin), float(xmax - xmin), float(ymax - ymin)],
                "area": float((scene.instances == label).sum()),
                "segmentation": {"size": [height, width], "counts": counts},
            })  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in kinds.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (options.folder / "scenes.json").write_text(json.dumps(content))


# --- scores ------------------------------------------------------------------------------------------


def settings_to_try() -> dict[str, Setting]:
    """Each method as published, the presets across methods, and what issue and papers compare with."""
    best, joined = ACROSS_METHODS["best"].setting("DINOv2"), FeatureConfig(facet="qkv")
    as_published = ("lost", "tokencut", "maskcut", "background")
    return {
        **{f"{name} as published": preset_setting(name) for name in as_published},
        "dino-seg, mean of the heads": with_changes(preset_setting("dino-seg"), {"attention_head": "mean"}),
        "lost, qk centred": with_changes(Setting(), {"facet": "qk", "center": True}),
        "tokencut, qkv, tau 0.5": Setting(joined, TokenCutConfig(tau=0.5)),
        "tokencut, qkv, tau auto": Setting(joined, TokenCutConfig(tau="auto")),
        "maskcut, qkv, tau auto, native": Setting(joined, MaskCutConfig(tau="auto")),
        "lost-rim (preset lost)": preset_setting("lost-rim"),
        "spread": preset_setting("spread"),
        "spread, max side 448": replace(best, features=replace(best.features, max_side=448)),
        "spread, max side 336 (preset best)": best,
    }


def run_all(options: argparse.Namespace) -> None:
    dataset = find_dataset(options.dataset, data_root())
    backbone = load_backbone(options.backbone, weights=options.weights, device="cpu")
    folders = {}
    for number, (name, setting) in enumerate(settings_to_try().items()):
        folders[name] = options.folder / f"{number:02}"
        if not (folders[name] / RUN_FILE).exists():
            run(
                source_of_dataset(dataset), backbone, folders[name], setting,
                RunOptions(LoaderOptions(batch_size=4), limit=options.limit, masks=True),
            )  # fmt: skip
    rows, errors = score_runs(list(folders.values()), ScoringOptions(partial=options.limit is not None))
    for error in errors:
        print(error)
    print(f"{describe_machine()}\n")
    print_scores(dict(zip(folders, rows)), {name: read_run(one) for name, one in folders.items()}, dataset)


def print_scores(rows: dict[str, AllScores], runs: dict[str, Results], dataset: Dataset) -> None:
    with_masks = any(row.masks for row in rows.values())
    header = ["setting", "CorLoc", "95 % interval", "half A", "half B", "over 85 %", "objects", "box AP50"]
    header += ["mask IoU", "max F"] * with_masks
    table = []
    for name, row in rows.items():
        predictions, score = runs[name].predictions, row.run.score
        found = [
            bool(one.box_xyxy and is_found(one.box_xyxy, dataset.truths[image].boxes_xyxy))
            for image, one in sorted(predictions.items())
        ]
        order = np.random.default_rng(HALVES_SEED).permutation(len(found))
        halves = [100 * np.mean(np.array(found)[part]) for part in np.array_split(order, 2)]
        whole = [
            implausible(one.box_xyxy, one.size_hw, one.grid_hw) == WHOLE_IMAGE
            for one in predictions.values()
            if one.box_xyxy
        ]
        cells = [name, f"{score.corloc:.1f}", "{:.1f} to {:.1f}".format(*score.interval)]
        cells += [f"{half:.1f}" for half in halves] + [f"{100 * np.mean(whole):.1f} %" if whole else ""]
        objects = np.mean([len(one.objects) for one in predictions.values()])
        cells += [f"{objects:.1f}", f"{row.boxes.ap50:.1f}"]
        if with_masks:
            cells += [f"{row.masks.iou.value:.1f}", f"{row.masks.f_beta.value:.1f}"]
        table.append(cells)
    print(markdown_table(header, table))
    first = next(iter(rows.values())).run.score
    print(f"\n{first.images} images. A centred box: {first.centred:.1f}. The whole image: {first.whole:.1f}.")


# --- the solver --------------------------------------------------------------------------------------


def compare_solver(options: argparse.Namespace) -> None:
    """TokenCut's box beside that of scipy's dense eigh, for each image and several graphs."""
    dataset = find_dataset(options.dataset, data_root())
    backbone = load_backbone(options.backbone, weights=options.weights, device="cpu")
    decoding = Decoding(False, 448, backbone.patch_size)
    tries = {
        "k, tau 0.2": (FeatureConfig(), 0.2),
        "k, tau auto": (FeatureConfig(), "auto"),
        "q, k, v joined, tau 0.2": (FeatureConfig(facet="qkv"), 0.2),
        "q, k, v joined, tau 0.5": (FeatureConfig(facet="qkv"), 0.5),
        "q, k, v joined, tau auto": (FeatureConfig(facet="qkv"), "auto"),
    }
    counts = {name: np.zeros(3, int) for name in tries}
    facets = FeatureConfig(facet="qkv").parts
    for image in dataset.images[: options.limit]:
        pixels = normalized([decoding.prepare(image, dataset.root / image)], backbone)
        grid_hw = tuple(side // backbone.patch_size for side in pixels.shape[2:])
        parts = dict(zip(facets, backbone.facets(pixels, facets)))
        for name, (config, tau) in tries.items():
            features = PatchFeatures(compose(parts, config), grid_hw, [grid_hw])
            ((one,),) = discover(features, TokenCutConfig(tau=tau))()
            box, gap = dense_box(features.values[0].double().numpy(), features.grid_hw, one.details["tau"])
            same = box == one.box_xyxy
            counts[name] += [same, not same and gap < 1e-9, 1]
    rows = [[name, f"{same} of {count}", tied] for name, (same, tied, count) in counts.items()]
    print(f"{describe_machine()}\n")
    print(markdown_table(["graph", "same box", "other box, and the second eigenvalue is multiple"], rows))


def dense_box(features: np.ndarray, grid_hw: tuple[int, int], tau: float) -> tuple[tuple[int, ...], float]:
    """TokenCut's box in patches, and the gap between the second and the third eigenvalue."""
    vector, gap = dense_cut(features, tau)
    strength = np.abs(vector)
    seed = int(np.flatnonzero(strength >= strength.max() * (1 - SAME_PATCHES))[0])
    side = vector > vector.mean()
    labels, _ = scipy.ndimage.label((side if side[seed] else ~side).reshape(grid_hw))
    rows, columns = np.nonzero(labels == labels[divmod(seed, grid_hw[1])])
    box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    return box, gap


if __name__ == "__main__":
    run_script(main)
