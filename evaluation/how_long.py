"""How long reproduce.py takes on this machine, measured on photos that this makes, without weights or data.

    python evaluation/how_long.py [--device cuda] [--backbones dinov2 dinov2_reg ...]

For each backbone, at random weights, the sweep of reproduce.py (LOST as published and 84 other settings) is
run from JPEG files to its results. From its images a second follow the hours of each dataset.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import (
    argument_parser,
    describe_machine,
    make_photos,
    markdown_table,
    run_script,
    seconds,
    source_of_folder,
)
from reproduce import BACKBONES, DATASETS, TEST_TIME, settings_for

from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.datasets.catalog import SPECS
from lost_reg.runs.options import RunOptions
from lost_reg.runs.sweep import sweep

IMAGES_ON_CPU, IMAGES_ON_GPU = 8, 200


def main() -> None:
    parser = argument_parser(__doc__, device=True)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="as for reproduce.py")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument(
        "--images",
        type=int,
        help=f"photos to measure on; default: {IMAGES_ON_CPU}, or {IMAGES_ON_GPU} on a GPU",
    )
    options = parser.parse_args()
    print(describe_machine(options.device), flush=True)
    images = options.images or (IMAGES_ON_CPU if options.device.type == "cpu" else IMAGES_ON_GPU)
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), images)
        rates = {}
        for name in dict.fromkeys(name.removesuffix(TEST_TIME) for name in options.backbones):
            backbone = load_backbone(
                name, weights="random", device=str(options.device), precision=options.precision
            )
            rates[name] = sweep_rate(backbone, Path(folder))
            print(f"{name}: {rates[name]:.2f} images/s", flush=True)
    print(f"\n{table(options.backbones, rates)}")


def sweep_rate(backbone: VitBackbone, folder: Path) -> float:
    """Images a second of a sweep on the files of a folder, after one image that warms up."""
    source, settings = source_of_folder(folder), settings_for(backbone)
    with tempfile.TemporaryDirectory() as out:
        sweep(source, backbone, Path(out, "first"), settings, RunOptions(limit=1))
        taken = seconds(lambda: sweep(source, backbone, Path(out, "all"), settings), backbone.device)
    return source.images.count / taken


def table(backbones: list[str], rates: dict[str, float]) -> str:
    """Hours of each backbone on each dataset, and of all of them."""
    counts = {spec.name: spec.images for spec in SPECS if spec.name in DATASETS}
    # a test-time register is one more token among about a thousand
    hours = {
        name: [count / rates[name.removesuffix(TEST_TIME)] / 3600 for count in counts.values()]
        for name in backbones
    }
    hours["all"] = [sum(of_dataset) for of_dataset in zip(*hours.values())]
    rows = [[name, *(f"{one:.2f}" for one in [*of_name, sum(of_name)])] for name, of_name in hours.items()]
    columns = [f"{name}, {count:,} images" for name, count in counts.items()]
    return markdown_table(["hours", *columns, "all"], rows)


if __name__ == "__main__":
    run_script(main)
