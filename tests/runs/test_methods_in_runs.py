"""What methods ask of a run: squares, the attention of the class token, norms of joined facets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import refusal

from lost_reg.backbones.base import ATTENTION
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.discovery.features import FeatureConfig, compose, part_norms
from lost_reg.discovery.lost import LostConfig
from lost_reg.discovery.methods import METHODS, Setting, preset_setting, with_changes
from lost_reg.discovery.presets import chosen_preset
from lost_reg.discovery.spread import SpreadConfig
from lost_reg.images.decoding import Decoding
from lost_reg.masks.grids import in_pixels
from lost_reg.notebook.discover import discover
from lost_reg.runs.run import settled


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny", device="cpu")


def noise(size_hw, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def test_a_square_is_found_in_and_mapped_back_side_by_side(tiny):
    image = noise((40, 150))
    (found,) = discover(image, tiny, LostConfig(), FeatureConfig(square=64), masks=True)
    squared = Decoding(False, None, 16, 64).prepare("a", image)
    assert squared.size_hw == (64, 64) and found.grid_hw == (4, 4) and found.size_hw == (40, 150)
    (expected,) = discover(squared.pixels, tiny, LostConfig(), FeatureConfig())
    (one,), (other,) = found.objects, expected.objects
    xmin, ymin, xmax, ymax = other.box_xyxy
    assert one.box_xyxy == (xmin * 150 / 64, ymin * 40 / 64, xmax * 150 / 64, ymax * 40 / 64)
    assert one.mask.spans_hw == (40, 150) and in_pixels(one.mask, (40, 150)).any()


def test_a_square_and_a_max_side_exclude_each_other():
    assert "not to both" in refusal(FeatureConfig, max_side=64, square=64)
    assert "`square` of at least 1" in refusal(FeatureConfig, square=0)
    assert "square" not in FeatureConfig().recorded() and FeatureConfig(square=9).recorded()["square"] == 9


def test_a_method_gets_the_attention_and_the_norms_of_the_backbone(tiny, monkeypatch):
    asked = {}
    images = noise((48, 64))
    features = FeatureConfig(facet="qkv", layer=-2)

    def spy(patches, config):
        asked["features"] = patches
        return lambda: [[]]

    monkeypatch.setitem(METHODS, "spread", replace(METHODS["spread"], discover=spy))
    discover(images, tiny, Setting(features, SpreadConfig()))
    pixels = (torch.tensor(images) / 255 - torch.tensor(tiny.mean)) / torch.tensor(tiny.std)
    batch = pixels.permute(2, 0, 1)[None].float()
    parts = dict(zip(features.parts, tiny.facets(batch, features.parts)))
    (attention,) = tiny.facets(batch, [(ATTENTION, -2)])
    got = asked["features"]
    assert got.parts == 3 and got.grid_hw == (3, 4)
    assert torch.allclose(got.values, compose(parts, features), atol=1e-4)
    assert torch.allclose(got.norms, part_norms(parts, features), atol=1e-3)
    assert torch.allclose(got.attention, attention[:, 0], atol=1e-5)


def test_without_a_class_token_a_method_that_needs_one_is_refused_and_spread_goes_without():
    def means(images):
        return torch.nn.functional.avg_pool2d(images, 16).flatten(2).mT

    backbone = load_backbone(means, device="cpu", preprocessing=Preprocessing(patch_size=16))
    for name in ("dino-seg", "background"):
        text = refusal(settled, preset_setting(name), backbone)
        assert text == f"means has no class token, whose attention {name} needs"
    (found,) = discover(noise((48, 64)), backbone)  # the preset best
    assert len(found.objects) == 1


def test_of_two_sizes_the_one_that_is_given_counts():
    maskcut, best = preset_setting("maskcut"), chosen_preset(None, "best", "DINOv2")
    assert with_changes(maskcut, {"max_side": 200}).features == FeatureConfig(max_side=200)
    assert with_changes(best, {"square": 300}).features == FeatureConfig("qkv", square=300)
    assert "not to both" in refusal(with_changes, best, {"square": 300, "max_side": 200})


def test_a_head_that_the_backbone_does_not_have_is_refused_before_the_run(tiny):
    text = "there is no `attention_head` 4: the backbone has heads 0 to 2"
    assert refusal(settled, preset_setting("dino-seg"), tiny) == text
    assert refusal(discover, noise((48, 64)), tiny, "dino-seg") == text
