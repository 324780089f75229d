"""How long reproduce.py takes on this machine, measured on files that this makes, without weights or data.

    python evaluation/how_long.py [--device cuda] [--backbones dinov2 dinov2_reg ...]

For each backbone, at random weights, the sweep of reproduce.py (LOST as published and 84 settings more) is
run from JPEG files to its results, and its images a second make the hours of each dataset.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from benchmark import machine, make_photos, seconds
from reproduce import BACKBONES, DATASETS, TEST_TIME, markdown, protocols_for

from lost_reg.backbones.base import PRECISIONS
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.datasets.catalog import SPECS
from lost_reg.errors import LostRegError
from lost_reg.images.files import list_images
from lost_reg.runs.sources import source_of_files
from lost_reg.runs.sweep import sweep

IMAGES = {"cpu": 8, "cuda": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="as for reproduce.py")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS))
    parser.add_argument("--images", type=int, help="files measured; default: 8, or 200 on a GPU")
    options = parser.parse_args()
    try:
        measure(options)
    except LostRegError as error:
        sys.exit(f"Error: {error}")


def measure(options: argparse.Namespace) -> None:
    """Print the rates and the hours."""
    device = torch.device(options.device)
    print(machine(device), flush=True)
    images = options.images or IMAGES.get(device.type, IMAGES["cuda"])
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), images)
        rates = {}
        for name in dict.fromkeys(name.removesuffix(TEST_TIME) for name in options.backbones):
            backbone = load_backbone(
                name, weights="random", device=options.device, precision=options.precision
            )
            rates[name] = sweep_rate(backbone, Path(folder))
            print(f"{name}: {rates[name]:.2f} images/s", flush=True)
    print(f"\n{table(options.backbones, rates)}")


def sweep_rate(backbone: VitBackbone, folder: Path) -> float:
    """Images a second of a sweep on the files of a folder, after one that warms up."""
    files = list_images([folder])
    with tempfile.TemporaryDirectory() as out:

        def run(name: str, limit: int | None = None) -> None:
            sweep(source_of_files(files, []), backbone, Path(out, name), protocols_for(backbone), limit=limit)

        run("first", limit=1)
        return len(files.names) / seconds(lambda: run("all"), backbone.device)


def table(backbones: list[str], rates: dict[str, float]) -> str:
    """Hours of each backbone on each dataset, and of all of them."""
    counts = {spec.name: spec.images for spec in SPECS if spec.name in DATASETS}
    # a register more is one token of about a thousand
    hours = {
        name: [count / rates[name.removesuffix(TEST_TIME)] / 3600 for count in counts.values()]
        for name in backbones
    }
    hours["all"] = [sum(of_dataset) for of_dataset in zip(*hours.values())]
    rows = [[name, *(f"{one:.2f}" for one in [*of_name, sum(of_name)])] for name, of_name in hours.items()]
    return markdown(["hours", *(f"{name}, {count:,} images" for name, count in counts.items()), "all"], rows)


if __name__ == "__main__":
    main()
