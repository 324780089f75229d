"""How often patches tie for the lowest degree, and whether boxes depend on the order of patches that tie.

    python evaluation/ties.py --dataset NAME_OR_PATH [--backbone NAME] [--weights FILE]

LOST's own code sorts patches by degree with a sort that is not stable: patches of equal degree come in any
order. lost-reg puts them in the order of their indices. Both are tried in plain.py, on the same features.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import plain
from harness import argument_parser, decoded, describe_machine, run_script, table_head, table_row

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.datasets.catalog import find_dataset
from lost_reg.discovery.features import FeatureConfig, compose, describe_features

SETTINGS = [FeatureConfig(), FeatureConfig(center=True), FeatureConfig("qk", center=True)]
COLUMNS = ["some tie for the lowest degree", "all tie", "other seed", "other box"]


def main() -> None:
    options = parse()
    dataset = find_dataset(options.dataset, options.data_root)
    backbone = load_backbone(options.backbone, weights=options.weights, device="cpu")
    print(f"{describe_machine()}\n\n{len(dataset.images)} images of {dataset.title}, {backbone.name}\n")
    counts = {config: Counter[str]() for config in SETTINGS}
    parts = list(dict.fromkeys(part for config in SETTINGS for part in config.parts))
    for name in dataset.images:
        image = decoded(dataset.root / name, backbone.patch_size)
        images = normalized([image], backbone)
        found = dict(zip(parts, backbone.facets(images, parts)))
        grid_hw = images.shape[2] // backbone.patch_size, images.shape[3] // backbone.patch_size
        for config, counted in counts.items():
            features = compose(found, config)[0]
            stable, unstable = (
                plain.lost(features, grid_hw, image.size_hw, backbone.patch_size, stable=one)
                for one in (True, False)
            )
            lowest = int((stable.degrees == stable.degrees.min()).sum())
            all_tie, seeds = lowest == len(features), (stable.seed, unstable.seed)
            outcome = lowest > 1, all_tie, seeds[0] != seeds[1], stable.box_xyxy != unstable.box_xyxy
            counted.update(column for column, holds in zip(COLUMNS, outcome) if holds)
    print(table_head(["features", *COLUMNS]))
    for config, counted in counts.items():
        print(table_row([describe_features(config), *(counted[column] for column in COLUMNS)]))


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--dataset", default="samples", help="as `lost-reg run` takes it")
    parser.add_argument("--data-root", type=Path, default=Path(__file__).parent.parent / "data")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--weights")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
