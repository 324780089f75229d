"""The plain formulation agrees with lost-reg, and rounding is told from other differences."""

from __future__ import annotations

import agreement
import numpy as np
import plain
import pytest
import torch
from helpers import found_object, prediction
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.notebook.discover import discover


@pytest.fixture
def files(tmp_path):
    """Smooth colours, in two sizes."""
    paths = [tmp_path / f"{index}.jpg" for index in range(6)]
    for index, path in enumerate(paths):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size_wh = (120, 90) if index % 2 else (90, 100)
        Image.fromarray(colours).resize(size_wh, Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


@pytest.mark.parametrize(
    "name", ["tiny", "dino_vits16", "dinov2_vits14", "dinov2_vits14_reg", "dinov3_vits16"]
)
def test_the_plain_pipeline_and_ours_find_the_same(files, name):
    backbone = load_backbone(name, weights="random", device="cpu")
    found = discover(files, backbone, "lost")
    expected = [plain.discover(path, backbone) for path in files]
    assert [one.box_xyxy for one in found] == [one.box_xyxy for one in expected]
    assert [one.objects[0].seed for one in found] == [one.seed for one in expected]


def rounding_can_give(features, seed: int, box) -> bool:
    """Whether rounding can make this the seed and box of patches in a row, each 10 pixels wide."""
    size_hw, grid_hw = (10, 10 * len(features)), (1, len(features))
    expected = plain.lost(torch.tensor(features), grid_hw, size_hw, 10)
    found = prediction("a", found_object(box, seed=(0, seed)), size_hw=size_hw, grid_hw=grid_hw)
    return agreement.rounding_can_decide(expected, found, feature_error=1e-6, patch=10)


def test_a_result_within_rounding_is_told_from_one_that_is_not():
    # Affinities (1 1 -1; 1 1 -1; -1 -1 1): degrees 1, 1 and 0, far from any rounding
    clear = [[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]
    assert rounding_can_give(clear, 2, (20, 0, 30, 10))
    assert not rounding_can_give(clear, 0, (0, 0, 20, 10))
    assert not rounding_can_give(clear, 2, (10, 0, 30, 10))


def test_an_affinity_within_rounding_of_zero_can_decide_the_box():
    # Of the first two, degrees are 1 and 2, or 0 and 1 where rounding makes their affinity negative: then the
    # second is not in S, nor in the mask.
    near = [[1.0, 0.0], [1e-7, 1.0], [-1.0, 0.5]]
    assert rounding_can_give(near, 0, (0, 0, 20, 10)) and rounding_can_give(near, 0, (0, 0, 10, 10))
    assert not rounding_can_give(near, 0, (0, 0, 30, 10))
    far = [[1.0, 0.0], [1e-2, 1.0], [-1.0, 0.5]]
    assert rounding_can_give(far, 0, (0, 0, 20, 10)) and not rounding_can_give(far, 0, (0, 0, 10, 10))
    assert not rounding_can_give(far, 1, (0, 0, 20, 10))


def test_agreement_prints_its_tables(tmp_path, make_voc, printed):
    make_voc(tmp_path / "voc", {"000001": [("thing", 33, 17, 96, 64)], "000002": [("thing", 1, 1, 50, 50)]})
    output = printed(agreement, "--dataset", tmp_path / "voc", "--backbone", "tiny", "--device", "cpu")
    assert "| 100.0 % | 100.0 % | 100.0 % | 0 of 0 |" in output
    assert "| batches of 8, 4 workers | 100.0 % |" in output
    assert "| fp16, planted artifacts |" in output
