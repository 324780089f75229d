"""Images and a backbone that several test modules measure."""

from __future__ import annotations

from pathlib import Path

import pytest
from artifact_cases import LOADER

from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.datasets.catalog import find_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def stream():
    """The sample images."""
    dataset = find_dataset("samples", ROOT / "data")
    paths = [dataset.root / name for name in dataset.images]
    return ImageStream(paths, dataset.images, max_side=224, loader=LOADER)


@pytest.fixture
def plain():
    return load_backbone("tiny", device="cpu")
