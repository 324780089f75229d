"""Features of an image are kept, within a bound, and only of the image that was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import refusal
from small_models import small_backbone

from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.discovery.features import FeatureConfig
from lost_reg.explore.features import FeatureStore, OneImage
from lost_reg.explore.views import attention_of, found_by, setting_of


@pytest.fixture
def others(image):
    """The image in three versions."""
    return [replace(image, pixels=np.roll(image.pixels, shift)) for shift in (1, 2, 3)]


def test_what_was_used_longest_ago_is_dropped(tiny, others):
    size = OneImage(tiny, others[0]).nbytes
    store = FeatureStore(most_bytes=2 * size)
    first, second = (store.of(tiny, image) for image in others[:2])
    assert store.of(tiny, others[0]) is first
    third = store.of(tiny, others[2])  # the second leaves
    assert store.of(tiny, others[2]) is third and store.of(tiny, others[0]) is first
    assert store.of(tiny, others[1]) is not second


def test_an_image_larger_than_the_bound_is_kept_until_the_next(tiny, others):
    store = FeatureStore(most_bytes=1)
    first = store.of(tiny, others[0])
    assert store.of(tiny, others[0]) is first
    store.of(tiny, others[1])
    assert store.of(tiny, others[0]) is not first


def test_backbones_have_features_of_their_own(tiny, random_backbone, image):
    store = FeatureStore()
    ours, theirs = store.of(tiny, image), store.of(random_backbone, image)
    assert not torch.equal(*(one.features_by(FeatureConfig()).values for one in (ours, theirs)))
    assert store.of(tiny, image) is ours


def test_test_time_registers_attend_too(image):
    one = OneImage(small_backbone("CLIP", AddedRegisters(RegisterNeurons(((1, 5),)))), image)
    assert one.prefix_tokens == ("class", "test-time register")
    of_register, of_class = (attention_of(one, token, -1) for token in reversed(one.prefix_tokens))
    assert of_register.shape == of_class.shape == (7, 9) and not np.allclose(of_register, of_class)


def test_a_function_has_its_keys_alone(image):
    backbone = load_backbone(
        lambda images: torch.nn.functional.unfold(images, 16, stride=16).mT,
        preprocessing=Preprocessing(16), device="cpu",
    )  # fmt: skip
    one = OneImage(backbone, image)
    assert found_by(one, setting_of(backbone, "/best"))[0].objects
    assert found_by(one, setting_of(backbone, "lost/published"))[0].objects
    assert "no v to choose" in refusal(found_by, one, setting_of(backbone, "lost/published", {"facet": "v"}))
    assert "no token 'class'" in refusal(attention_of, one, "class", -1)


def test_features_that_are_not_finite_are_refused(image):
    backbone = load_backbone(
        lambda images: torch.nn.functional.unfold(images, 16, stride=16).mT / 0,
        preprocessing=Preprocessing(16), device="cpu",
    )  # fmt: skip
    assert "not finite" in refusal(OneImage, backbone, image)
