"""Small datasets of images with classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture
def save_digits():
    """Writes the first images of scikit-learn's digits, each into the folder of its class."""

    def save(folder: Path, count: int, first: int = 0, side: int = 32) -> Path:
        digits = load_digits()
        for index in range(first, first + count):
            of_class = folder / f"digit {digits.target[index]}"
            of_class.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).resize((side, side)).save(of_class / f"{index:04d}.png")
        return folder

    return save
