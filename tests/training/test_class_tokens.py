"""Class tokens of backbones and crops, against timm's own forward pass and PyTorch's resampling."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from helpers import refusal
from safetensors.torch import save_file

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.zoo import find_spec
from lost_reg.images.batching import DecodedImage
from lost_reg.training.crops import class_tokens, scaled_crop, scaled_hw

SIDE = 112  # of images and of the models' own grid, at which positions are not resampled


@pytest.mark.parametrize("name", ["dinov2_vits14_reg", "dinov3_vits16", "dino_vits16"])
def test_the_class_token_is_the_one_that_timm_pools(name, tmp_path):
    spec = find_spec(name)  # with registers, with rotary positions, without either
    model = timm.create_model(
        spec.architecture, num_classes=0, global_pool="token", img_size=SIDE, **spec.model_args
    )
    with torch.no_grad():  # a norm that changes something
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.uniform_(-1, 1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_backbone(name, weights=tmp_path / "model.safetensors", device="cpu")
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.eval()(images)
    found = loaded.class_tokens(images)
    assert found.shape == expected.shape == (2, 384)
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_what_has_no_class_token_is_refused(tmp_path, random_backbone):
    images = torch.zeros(1, 3, 32, 32)
    function = load_backbone(lambda one: one, device="cpu", preprocessing=Preprocessing(16))
    siglip = load_backbone("timm:vit_base_patch16_siglip_224", weights="random", device="cpu")
    for backbone in (function, siglip):
        assert "has no class token" in refusal(backbone.class_tokens, images)
    state = {key: one for key, one in random_backbone.model.state_dict().items() if key[:5] != "norm."}
    save_file(state, tmp_path / "features.safetensors")
    cut = load_backbone("tiny", weights=tmp_path / "features.safetensors", device="cpu")
    assert torch.equal(cut.features(images), random_backbone.features(images))
    assert "no norm after the last block" in refusal(cut.class_tokens, images)


@pytest.mark.parametrize(
    ("size_hw", "patch", "expected"),
    [
        ((100, 200), 16, (256, 512)),
        ((100, 100), 14, (252, 252)),  # 256 / 14 is 18.3 patches
        ((300, 100), 16, (768, 256)),
        ((10, 400), 16, (32, 1024)),  # 25.6 pixels, of a strip
        ((1, 1000), 16, (16, 1024)),
    ],
)
def test_crops_are_scaled_to_whole_patches(size_hw, patch, expected):
    assert scaled_hw(size_hw, patch) == expected


def test_a_crop_is_cut_from_the_normalised_image_and_scaled(random_backbone):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    image = normalized([DecodedImage("a", pixels, (64, 80), (64, 80))], random_backbone)
    crop = scaled_crop(image, (10.4, 20, 74.2, 52), random_backbone.patch_size)
    assert crop.shape == (3, 256, 512)
    mean, std = (np.array(one)[:, None, None] for one in (random_backbone.mean, random_backbone.std))
    by_hand = (pixels[20:52, 10:74].transpose(2, 0, 1) / 255 - mean) / std  # (3, 32, 64)
    # bicubic weights sum to 1, so the mean of smooth content stays nearly as it is
    assert crop.mean(dim=(1, 2)).numpy() == pytest.approx(by_hand.mean(axis=(1, 2)), abs=0.02)


def test_crops_of_one_size_run_together_and_give_what_they_give_alone(random_backbone):
    random = torch.Generator().manual_seed(0)
    sizes = [(32, 32), (32, 48), (32, 32), (32, 32), (32, 48)]
    crops = [(("a", index), torch.randn(3, *size, generator=random)) for index, size in enumerate(sizes)]
    together = dict(class_tokens(iter(crops), random_backbone, 2))
    alone = dict(class_tokens(iter(crops), random_backbone, 1))
    assert together.keys() == alone.keys() == {key for key, _ in crops}
    for key, token in together.items():
        assert np.linalg.norm(token) == pytest.approx(1, abs=1e-5)
        assert token == pytest.approx(alone[key], abs=1e-5)
