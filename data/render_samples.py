"""Render the sample images: sixteen painted scenes with exact boxes, in Pascal VOC layout.

    python data/render_samples.py [FOLDER]        # default: the folder `samples` beside this script

Every object is painted through an alpha layer of its own, and whatever is painted over it later takes alpha
away again. An object's ground-truth box is therefore the extent of what is still visible of it.

Each scene is one function in `rendering/scenes_*.py`. All random numbers come from a fixed seed per scene, so
two runs write the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rendering import scenes_animals, scenes_outdoors, scenes_plants, scenes_still_life, scenes_travel, voc

SCENES = (
    *scenes_animals.SCENES,
    *scenes_outdoors.SCENES,
    *scenes_plants.SCENES,
    *scenes_still_life.SCENES,
    *scenes_travel.SCENES,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample images and their annotations.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent / "samples")
    folder = parser.parse_args().folder
    images, boxes = voc.write(folder, SCENES)
    print(f"{images} images with {boxes} boxes in {folder}")


if __name__ == "__main__":
    main()
