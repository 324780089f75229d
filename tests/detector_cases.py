"""What tests of detectors share: a run on small images with a rectangle each, and small detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import found_object, run_settings

from lost_reg.backbones.loading import load_backbone
from lost_reg.runs.writer import RunWriter
from lost_reg.training.detector_config import DetectorConfig, chosen_config
from lost_reg.types import FoundObject, Prediction

SIDE = 64


def boxes_of(count: int) -> list[tuple[int, int, int, int]]:
    """Boxes of about half the side, in images of this size."""
    random = np.random.default_rng(0)
    corners, sizes = random.integers(2, 26, (count, 2)), random.integers(28, 36, (count, 2))
    return [tuple(map(int, (*corner, *(corner + size)))) for corner, size in zip(corners, sizes)]


def write_run(
    folder: Path, root: Path, objects: dict[str, list[FoundObject]], size_hw=(SIDE, SIDE), weights=None
) -> Path:
    """A run folder of `tiny` on images of SIDE x SIDE; weights: as they are recorded, and their file."""
    recorded, file = weights or (load_backbone("tiny", device="cpu").weights.recorded(), None)
    settings = {**run_settings(backbone="tiny"), "weights": recorded, "dataset": None, "split": None}
    record = {"images": len(objects), "root": str(root), "weights_file": file}
    with RunWriter(folder, settings, record) as writer:
        for name, found in objects.items():
            writer.write(Prediction(name, size_hw, (4, 4), tuple(found)))
    return folder


def run_on_scenes(top: Path, save_scene, count: int = 4, labels: tuple[str, ...] = ()) -> Path:
    """Images in top/photos and a run on them in top/run, whose boxes are those of the rectangles."""
    objects = {}
    for number, box in enumerate(boxes_of(count)):
        name = f"{number}.png"
        save_scene(top / "photos" / name, (SIDE, SIDE), box, seed=number)
        label = labels[number % len(labels)] if labels else None
        objects[name] = [FoundObject(found_object(box).box_xyxy, 0.5, (0, 0), label=label)]
    return write_run(top / "run", top / "photos", objects)


def small(**changes) -> DetectorConfig:
    """A detector that trains in a fraction of a second a step."""
    wanted = {"channels": 8, "steps": 4, "batch_size": 2, "warmup": 2, "min_sizes": (SIDE,), "max_size": SIDE}
    return chosen_config(**{**wanted, **changes})
