"""What tests of backbones share: random images, and small models' weights under the authors' names."""

from __future__ import annotations

from pathlib import Path

import original_vits
import torch
from safetensors.torch import save_file
from torch import Tensor

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone

TOLERANCE = 1e-4  # relative to the largest value
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}  # the models of the fixture `small_models`


def random_images(grid_hw: tuple[int, int], patch: int, batch: int = 1) -> Tensor:
    """(B, 3, H, W) of so many patches, the same for the same grid."""
    rows, columns = grid_hw
    generator = torch.Generator().manual_seed(rows)
    return torch.randn((batch, 3, rows * patch, columns * patch), generator=generator)


def deviation(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert got.shape == expected.shape
    return float((got.float() - expected).abs().max() / expected.abs().max())


def dino_state(patch=16, native=14, **options) -> dict[str, Tensor]:
    """Random weights of a small DINO."""
    return original_vits.random_state(patch, native, dim=48, depth=2, **options)


def dinov2_state(registers=0, **options) -> dict[str, Tensor]:
    """Random weights of a small DINOv2."""
    return original_vits.random_state(14, 37, dim=48, depth=2, dinov2=True, registers=registers, **options)


def saved(path: Path, content) -> Path:
    """Write a weight file, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def load(name: str, path: Path | str | None = None, **options) -> VitBackbone:
    """A backbone on the CPU, by default with its published weights."""
    return load_backbone(name, weights=path, device="cpu", **options)


@torch.inference_mode()
def has_keys_of(backbone: VitBackbone, state: dict[str, Tensor], tolerance=TOLERANCE) -> bool:
    """Whether a backbone's keys are those of the original model with these weights."""
    images = random_images((4, 6), backbone.patch_size)
    expected = original_vits.qkv_of_blocks(state, images, heads=3)[-1].chunk(3, dim=-1)[1]
    return deviation(backbone.features(images), expected) < tolerance
