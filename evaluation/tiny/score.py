"""Score the backbone `tiny`: CorLoc of LOST on its keys, on unseen generated scenes and on photos.

    python evaluation/tiny/score.py
    python evaluation/tiny/score.py --coco instances_val.json IMAGES_DIR

Backbone, LOST and CorLoc are those of lost_reg.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

import numpy as np
import scenes

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.loading import load_backbone
from lost_reg.boxes import centred_box, is_found
from lost_reg.datasets.coco import read_coco_truths
from lost_reg.notebook.discover import discover
from lost_reg.runs.options import LoaderOptions
from lost_reg.scoring.corloc import score
from lost_reg.types import Box

UNSEEN_SEEDS = 2_000_000  # from here on: never used for training or for any choice
SIDES = np.arange(0.3, 1.001, 0.05)  # of the centred boxes to try, as shares of the image's sides
WHOLE = 0.85  # a box with a larger share of the image says little


def scenes_corloc(boxes: list[Box], unseen: list[scenes.Scene]) -> float:
    """CorLoc in percent of one box per scene."""
    return 100 * float(np.mean([is_found(box, s.boxes_xyxy) for box, s in zip(boxes, unseen, strict=True)]))


def score_scenes(backbones: dict[str, Backbone], count: int) -> None:
    """Print CorLoc on unseen scenes: of each backbone, and of the centred box whose side is best there."""
    with multiprocessing.Pool() as pool:
        unseen = pool.map(scenes.make_scene, range(UNSEEN_SEEDS, UNSEEN_SEEDS + count), chunksize=10)
    print(f"{count} unseen scenes of 224 x 224 pixels")
    for name, backbone in backbones.items():
        found = discover([s.image for s in unseen], backbone, "lost")
        print(f"  {name:<15} CorLoc {scenes_corloc([one.box_xyxy for one in found], unseen):.1f}")
    centred = {side: scenes_corloc([centred_box((224, 224), side)] * count, unseen) for side in SIDES}
    best = max(centred, key=centred.get)
    print(f"  centred box     CorLoc {centred[best]:.1f}, side {best:.2f} of the image's, the best of all")


def score_photos(backbones: dict[str, Backbone], annotations: Path, images: Path) -> None:
    """Print CorLoc on photos at native size, and how often the box is nearly the whole image."""
    names = tuple(sorted(path.name for path in images.iterdir()))
    truths = {truth.image: truth for truth in read_coco_truths(annotations, names)}
    print(f"{len(names)} photos of {annotations.name}")
    loader = LoaderOptions(apply_exif=False)
    for name, backbone in backbones.items():
        found = discover([images / image for image in names], backbone, "lost", loader=loader)
        boxes = {image: one.box_xyxy for image, one in zip(names, found, strict=True)}
        areas = [
            (x1 - x0) * (y1 - y0) / np.prod(one.size_hw) for one in found for x0, y0, x1, y1 in [one.box_xyxy]
        ]
        result = score(boxes, truths)
        print(
            f"  {name:<15} CorLoc {result.corloc:.1f} ({result.found} of {result.images}); "
            f"boxes over {WHOLE:.0%} of the image: {100 * np.mean(np.array(areas) > WHOLE):.1f} %"
        )
    print(f"  centred box     CorLoc {result.centred:.1f}, side 0.80; the whole image {result.whole:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=Path, help="default: those bundled with lost-reg")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--coco", type=Path, nargs=2, metavar=("ANNOTATIONS", "IMAGES_DIR"))
    options = parser.parse_args()
    backbones = {
        "tiny": load_backbone("tiny", weights=options.weights),
        "random weights": load_backbone("tiny", weights="random"),
    }
    score_scenes(backbones, options.scenes)
    if options.coco:
        score_photos(backbones, *options.coco)


if __name__ == "__main__":
    main()
