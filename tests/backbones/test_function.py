"""A user's function as a backbone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from backbone_cases import random_images
from helpers import find, refusal, setting
from torch import Tensor

from lost_reg.backbones.base import TOKENS
from lost_reg.backbones.loading import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, load_backbone

IMAGES = torch.zeros(1, 3, 16, 16)


def pixel_means(images: Tensor) -> Tensor:
    """A user's own features: the mean colour of every patch of 8 x 8."""
    return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT


def function_backbone(function=pixel_means, patch_size=8):
    return load_backbone(function, preprocessing=Preprocessing(patch_size), device="cpu")


def test_a_function_can_be_a_backbone():
    preprocessing = Preprocessing(patch_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    backbone = load_backbone(pixel_means, preprocessing=preprocessing, device="cpu")
    images = random_images((2, 3), 8)
    assert torch.equal(backbone.features(images), pixel_means(images))
    assert (backbone.name, backbone.patch_size) == ("pixel_means", 8)
    assert (backbone.mean, backbone.std) == ((0, 0, 0), (1, 1, 1))
    assert backbone.weights.recorded() == {"source": "callable", "name": "pixel_means", "sha256": None}
    assert backbone.registers is None and backbone.cost is None


def test_images_are_normalised_as_imagenets_unless_told_otherwise():
    backbone = function_backbone()
    assert (backbone.mean, backbone.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("function", "name"), [(torch.nn.Identity(), "Identity"), (partial(pixel_means), "partial")]
)
def test_what_has_no_name_is_named_by_its_type(function, name):
    assert function_backbone(function).name == name


def test_its_features_are_its_tokens_and_its_one_layer_has_two_numbers():
    backbone, images = function_backbone(), random_images((2, 3), 8)
    keys, tokens = backbone.facets(images, [("k", -1), (TOKENS, -1)])
    assert torch.equal(keys, pixel_means(images)) and torch.equal(tokens, keys)
    assert torch.equal(backbone.patch_tokens(images), keys)
    assert backbone.depth == 1 and backbone.from_last(0) == backbone.from_last(-1) == -1
    assert refusal(backbone.from_last, 1) == "pixel_means has no layer 1: expected -1 (first) to -1 (last)"


def test_one_forward_pass_gives_all_parts():
    calls = []

    def counted(images):
        calls.append(len(images))
        return pixel_means(images)

    function_backbone(counted).facets(IMAGES, [("k", -1), (TOKENS, -1)])
    assert calls == [1]


def test_a_function_needs_its_patch_size():
    text = refusal(load_backbone, pixel_means, device="cpu")
    assert text.startswith("a function as backbone needs its patch size")


@pytest.mark.parametrize("given", [{"weights": "random"}, {"weights": "a.pth"}, {"precision": "bf16"}])
def test_weights_and_precision_of_a_function_are_its_own(given):
    (name,) = given
    text = refusal(load_backbone, pixel_means, preprocessing=Preprocessing(8), device="cpu", **given)
    assert text == f"`{name}` is for backbones by name: a function of yours has its own"


def test_preprocessing_of_a_named_backbone_is_its_own():
    text = refusal(load_backbone, "tiny", preprocessing=Preprocessing(8), device="cpu")
    assert text == "preprocessing is for a function of yours: tiny has its own"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (torch.zeros(1, 4, 3), "but got (1, 4, 3)"),  # those of patches of 8, and they are of 16
        (torch.zeros(1, 3), "but got (1, 3)"),
        (torch.zeros(2, 1, 3), "but got (2, 1, 3)"),
        ((torch.zeros(1, 1, 3),), "but got tuple"),
        (np.zeros((1, 1, 3)), "but got ndarray"),
        (None, "but got None"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_features_of_another_shape_are_refused(result, words):
    def features(images):
        return result

    text = refusal(function_backbone(features, patch_size=16).features, IMAGES)
    assert text.startswith(
        "expected features to give features of shape (1, 1, D) for images of 16 x 16 pixels"
    )
    assert text.endswith(words)


# What a function does not have


@pytest.mark.parametrize("choice", [{"facet": "q"}, {"facet": "v"}, {"layer": -2}, {"layer": 1}])
def test_facet_and_layer_of_a_function_are_refused(choice):
    text = refusal(function_backbone().features, IMAGES, **choice)
    assert text == "facet and layer cannot be chosen for pixel_means: it is a function of yours"


@pytest.mark.parametrize(
    "changes",
    [{"facet": "qk"}, {"facet": "qkv"}, {"layer": (-2, -1)}, {"facet": "kv", "layer": (-2, -1)}],
    ids=str,
)
def test_joined_features_of_a_function_are_refused(changes):
    image = np.zeros((16, 16, 3), np.uint8)
    text = refusal(find, [image], function_backbone(), setting(**changes))
    assert text == "facet and layer cannot be chosen for pixel_means: it is a function of yours"


def test_blocks_and_patch_embeddings_of_a_function_are_refused_when_they_are_asked_for():
    backbone = function_backbone()
    for ask in (backbone.block_outputs, backbone.patch_embeddings):
        assert refusal(ask, IMAGES) == "pixel_means has no transformer blocks, which are needed here"
