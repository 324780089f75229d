"""Small datasets of labelled pixels: squares, whose class or depth is that of their colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIDE, SQUARE = 64, 16  # pixels
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
METRES = np.array([1.0, 3.0, 6.0])


def colour_squares(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image, (SIDE, SIDE, 3) uint8 RGB, and which colour each pixel has, (SIDE, SIDE)."""
    random = np.random.default_rng(seed)
    squares = random.integers(len(COLOURS), size=(SIDE // SQUARE, SIDE // SQUARE))
    which = squares.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)
    noise = random.integers(-20, 21, (SIDE, SIDE, 3))
    return (COLOURS[which] + noise).clip(0, 255).astype(np.uint8), which


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write grey of 8 or 16 bits, or RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)


def write_segmentation(folder: Path, train: int = 6, test: int = 3) -> Path:
    """A folder of a user's own."""
    for part, seeds in (("train", range(train)), ("val", range(1000, 1000 + test))):
        for seed in seeds:
            image, which = colour_squares(seed)
            write_png(folder / part / "images" / f"{seed}.png", image)
            write_png(folder / part / "labels" / f"{seed}.png", which.astype(np.uint8))
    return folder


def write_depth(folder: Path, train: int = 6, test: int = 3) -> Path:
    """A folder of a user's own, with depths in millimetres."""
    for part, seeds in (("train", range(train)), ("val", range(1000, 1000 + test))):
        for seed in seeds:
            image, which = colour_squares(seed)
            write_png(folder / part / "images" / f"{seed}.png", image)
            write_png(folder / part / "depths" / f"{seed}.png", (1000 * METRES[which]).astype(np.uint16))
    return folder
