"""Refined predictions: masks and boxes follow the edges of the image."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import refusal

from lost_reg.backbones.loading import load_backbone
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import Setting
from lost_reg.images.batching import DecodedImage
from lost_reg.masks.grids import cells, in_pixels, stored
from lost_reg.notebook.discover import discover
from lost_reg.runs.refining import refined
from lost_reg.types import FoundObject, Prediction

SIDES = 100, 150  # not multiples of the patch size


def ellipse():
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    return ((y - 52) / 31) ** 2 + ((x - 70) / 44) ** 2 < 1


def decoded(original_hw=SIDES):
    """The ellipse, red on blue, padded with red to patches of 16 pixels."""
    noise = np.random.default_rng(0).normal(0, 5, (112, 160, 3))
    true = np.pad(ellipse(), ((0, 12), (0, 10)), constant_values=True)
    pixels = (np.where(true[..., None], (190, 60, 50), (60, 100, 150)) + noise).clip(0, 255)
    return DecodedImage("a.jpg", pixels.astype(np.uint8), SIDES, original_hw)


def coarse(scale=1):
    """What a method finds: the patches that the ellipse fills by half."""
    grid = np.pad(ellipse(), ((0, 12), (0, 10))).reshape(7, 16, 10, 16).mean(axis=(1, 3)) > 0.5
    mask = stored(grid, (112.0 * scale, 160.0 * scale))
    size_hw = SIDES[0] * scale, SIDES[1] * scale
    return Prediction("a.jpg", size_hw, (7, 10), (FoundObject((0, 0, 9, 9), 0.5, (3, 4), {}, mask),))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("scale", [1, 2])
def test_mask_and_box_follow_the_edges(scale):
    before = coarse(scale)
    (found,) = refined(before, decoded(before.size_hw), "bilateral").objects
    assert iou(in_pixels(before.objects[0].mask, before.size_hw, SIDES), ellipse()) < 0.92
    assert iou(cells(found.mask), ellipse()) > 0.97
    assert found.mask.spans_hw == before.size_hw
    expected = np.array([26, 21, 115, 84]) * scale  # of the ellipse's pixels
    np.testing.assert_allclose(found.box_xyxy, expected, atol=4 * scale)
    assert all(side % scale == 0 for side in found.box_xyxy)
    assert (found.score, found.seed) == (0.5, (3, 4))


def test_objects_without_a_mask_are_left():
    with_mask, without = coarse().objects[0], replace(coarse().objects[0], mask=None)
    first, second = refined(replace(coarse(), objects=(without, with_mask)), decoded(), "bilateral").objects
    assert first == without and second.mask.size_hw == SIDES
    alone = replace(coarse(), objects=(without,))
    assert refined(alone, decoded(), "bilateral") is alone


def test_an_empty_mask_is_left():
    empty = replace(coarse().objects[0], mask=stored(np.zeros((7, 10), bool), (112.0, 160.0)))
    before = replace(coarse(), objects=(empty,))
    assert refined(before, decoded(), "bilateral") == before


def test_discover_takes_a_whole_setting():
    backbone = load_backbone("tiny", device="cpu")
    pixels = decoded().pixels[: SIDES[0], : SIDES[1]]
    setting = Setting(FeatureConfig(max_side=75), refine="bilateral")
    (plain,) = discover(pixels, backbone, setting.config, setting.features, masks=True)
    (found,) = discover(pixels, backbone, setting)
    assert plain.objects[0].mask.size_hw == plain.grid_hw and found.objects[0].mask.size_hw == (50, 75)
    assert "leave out its argument" in refusal(discover, pixels, backbone, setting, FeatureConfig())
