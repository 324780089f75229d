"""Render the sample images: sixteen generated scenes with exact boxes, in Pascal VOC layout.

    python data/render_samples.py [FOLDER]        # default: those of the package

evaluation/tiny/scenes makes them, from seeds that nothing else uses. Two runs write the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image
from voc_layout import annotate, make_folders

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "evaluation" / "tiny"))
from scenes import make_scene  # noqa: E402

SEEDS = range(3_000_000, 3_000_016)  # from 3,000,000 on: reserved for samples, see evaluation/tiny/README.md
SIZES_HW = ((360, 480), (320, 480), (480, 360), (400, 400))  # of the scenes, in turn
JPEG_QUALITY = 92


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample images and their annotations.")
    of_package = HERE.parent / "lost_reg" / "datasets" / "samples"
    parser.add_argument("folder", nargs="?", type=Path, default=of_package)
    folder = parser.parse_args().folder
    make_folders(folder)
    objects = {}
    for index, seed in enumerate(SEEDS):
        scene = make_scene(seed, SIZES_HW[index % len(SIZES_HW)])
        name = f"scene-{index + 1:02}.jpg"
        Image.fromarray(scene.image).save(folder / "JPEGImages" / name, quality=JPEG_QUALITY)
        objects[name] = [
            (label, *box) for label, box in zip(scene.labels, scene.boxes_xyxy.tolist(), strict=True)
        ]
    annotate(folder, objects)
    print(f"{len(objects)} images with {sum(map(len, objects.values()))} boxes in {folder}")


if __name__ == "__main__":
    main()
