"""Models of timm and transformers that a program holds give what their weights give by a backbone's name."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import transformers
from backbone_cases import SMALL, dinov2_state, has_keys_of, random_images
from colours import smooth
from helpers import refusal
from safetensors.torch import save_file

from lost_reg import Preprocessing, discover, load_backbone

pytestmark = pytest.mark.usefixtures("small_models")
IMAGES = [smooth((96, 128)), smooth((128, 96), seed=1), smooth((70, 100), seed=2)]
SIZE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
# How each model is made, and the backbone whose weights it could have.
MODELS = {
    "Dinov2Model": ("dinov2_vits14", {"image_size": 518, "mlp_ratio": 4}),
    "Dinov2WithRegistersModel": (
        "dinov2_vits14_reg", {"image_size": 518, "mlp_ratio": 4, "patch_size": 14, "num_register_tokens": 4},
    ),
    "DINOv3ViTModel": ("dinov3_vits16", {"intermediate_size": 192, "num_register_tokens": 4}),
    "Dinov2ForImageClassification": ("dinov2_vits14", {"image_size": 518, "mlp_ratio": 4}),
}  # fmt: skip


def spread_out(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights that make patches differ; biases stay as they are."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=generator)
    return model


def of_transformers(name: str, **changes) -> torch.nn.Module:
    kind = getattr(transformers, name)
    options = {**SIZE, **MODELS.get(name, ("", {}))[1], **changes}
    return spread_out(kind(kind.config_class(**options)))


def found(backbone) -> list:
    return discover(IMAGES, backbone, "lost", max_objects=2, bias=-0.3, masks=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers_gives_the_boxes_of_its_weights_by_name(name, tmp_path):
    zoo_name, _ = MODELS[name]
    model = of_transformers(name)
    model.save_pretrained(tmp_path)
    by_name, by_object = load_backbone(zoo_name, weights=tmp_path), load_backbone(model)
    assert (by_object.name, by_object.family) == (by_name.name, by_name.family)
    images = random_images((5, 7), by_name.patch_size)
    for facet in "qkv":
        assert torch.equal(by_object.features(images, facet), by_name.features(images, facet))
    assert found(model) == found(by_name)
    assert found(load_backbone(zoo_name, weights=model)) == found(by_name)


@pytest.mark.parametrize("architecture", ["vit_small_patch14_dinov2", "vit_small_patch16_224.dino"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_model_of_timm_gives_the_boxes_of_its_weights_by_name(architecture, dynamic, tmp_path):
    zoo_name = {"vit_small_patch14_dinov2": "dinov2_vits14"}.get(architecture, "dino_vits16")
    model = spread_out(timm.create_model(architecture, dynamic_img_size=dynamic, **SMALL))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    by_name = load_backbone(zoo_name, weights=tmp_path / "weights.safetensors")
    by_object = load_backbone(model)
    assert (by_object.name, by_object.mean) == (by_name.name, by_name.mean)
    assert found(model) == found(by_name)


def test_a_model_with_rotary_positions_gives_the_boxes_of_its_weights_by_name(tmp_path):
    model = spread_out(timm.create_model("vit_small_patch16_dinov3", **SMALL))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert found(model) == found(load_backbone("dinov3_vits16", weights=tmp_path / "weights.safetensors"))


def test_models_of_other_sizes_get_a_row_of_their_own(tmp_path):
    model = of_transformers("Dinov2Model", hidden_size=32, num_attention_heads=2, patch_size=8, image_size=64)
    backbone = load_backbone(model)
    assert repr(backbone) == (
        "<Backbone Dinov2Model (Dinov2Model): patches of 8 pixels, 2 blocks of 2 heads; cpu, fp32>"
    )
    assert backbone.family == "DINOv2"
    # on the grid of its positions, where nothing is resampled, it is what transformers gives
    images = random_images((8, 8), 8)
    with torch.no_grad():
        expected = model(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    (*_, last) = backbone.block_outputs(images)
    assert torch.allclose(last, expected, atol=1e-4)


def test_heads_decide_too(tmp_path):
    backbone = load_backbone(of_transformers("Dinov2Model", num_attention_heads=2))
    assert backbone.name == "Dinov2Model" and backbone.heads == 2  # the row of this width has three


def test_a_plain_vit_is_one_of_timm_unless_the_hub_or_the_user_says_whose(tmp_path):
    model = of_transformers("ViTModel", image_size=224, intermediate_size=192)
    plain = load_backbone(model)
    assert (plain.name, plain.mean) == ("ViTModel", (0.5, 0.5, 0.5))
    model.config._name_or_path = model.name_or_path = "facebook/dino-vits16"
    assert load_backbone(model).name == "dino_vits16"
    model.save_pretrained(tmp_path)
    by_name = load_backbone("dino_vits16", weights=tmp_path)
    assert found(model) == found(by_name) == found(load_backbone("dino_vits16", weights=model))
    assert found(plain) != found(by_name)


def test_a_model_of_the_authors_gives_its_weights_to_a_backbone_by_name():
    class Authors(torch.nn.Module):
        def state_dict(self, **options):
            return dinov2_state()

    assert has_keys_of(load_backbone("dinov2_vits14", weights=Authors()), dinov2_state())
    line = refusal(load_backbone, "dino_vits16", weights=Authors())
    assert line.startswith("'Authors' does not fit dino_vits16: ")


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_transformers("Dinov2Model"),
        lambda: spread_out(timm.create_model("vit_small_patch14_dinov2", **SMALL)),
    ],
)
def test_the_users_model_stays_as_it_is(make):
    model = make().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    backbone = load_backbone(model, precision="bf16")
    images = random_images((5, 7), 14)
    kept = backbone.features(images)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(backbone.features(images), kept) and backbone.precision == "bf16"


def test_with_a_patch_size_a_model_is_a_function():
    model = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(2))

    class Features(torch.nn.Module):
        def forward(self, images):
            return model(images).mT

    expected = load_backbone(Features(), preprocessing=Preprocessing(8))
    image = np.kron(np.eye(6, dtype=np.uint8)[:, :, None], np.full((8, 8, 3), 255, np.uint8))
    assert discover(image, (Features(), 8), "lost") == discover(image, expected, "lost")
    assert "as (function, 16)" in refusal(discover, image, Features())


def test_what_a_model_cannot_be_is_refused():
    model = of_transformers("Dinov2Model")
    assert refusal(load_backbone, model, weights="random") == (
        "`weights` is for backbones by name: a model of yours has its own"
    )
    oblong = timm.create_model("vit_small_patch14_dinov2", img_size=(28, 42), **SMALL)
    assert "positions of 2 x 3 patches: not a square" in refusal(load_backbone, oblong)
    relu = of_transformers("Dinov2Model", hidden_act="relu")
    assert "'Dinov2Model' says the activation relu, but dinov2_vits14 has gelu" in refusal(
        load_backbone, relu
    )
    of_text = transformers.BertModel(transformers.BertConfig(**SIZE, vocab_size=9))
    assert "a function as backbone needs its patch size" in refusal(load_backbone, of_text)
    broken = of_transformers("Dinov2Model")
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    assert "has NaN or infinite values" in refusal(load_backbone, broken)
