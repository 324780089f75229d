"""Features as they are chosen and compared, against a plain numpy formulation."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from helpers import find, refusal, setting
from lost_oracle import oracle_lost

from lost_reg.discovery.features import (
    FeatureConfig,
    compose,
    describe_features,
    finite_images,
    without_images,
)

LAYERS = (-3, -2, -1)
JOINED = [("qk", -1), ("qkv", -1), ("vq", -2), ("k", (-1, -3)), ("qkv", (-2, -1)), ("v", (-3, -2, -1))]


@pytest.fixture(scope="module")
def parts() -> dict[tuple[str, int], torch.Tensor]:
    """Facets of three layers for two images of six patches, each part at another scale."""
    random = torch.Generator().manual_seed(0)
    named = list(product("qkv", LAYERS))
    return {part: scale * torch.randn(2, 6, 5, generator=random) for scale, part in enumerate(named, 1)}


def normalised(features: np.ndarray) -> np.ndarray:
    return features / np.sqrt((features**2).sum(axis=-1, keepdims=True))


def plain(parts, config: FeatureConfig) -> np.ndarray:
    """The features in float64, written from the definition alone."""
    layers = config.layer if isinstance(config.layer, tuple) else (config.layer,)
    chosen = [parts[facet, layer].double().numpy() for layer in layers for facet in config.facet]
    if config.center:
        chosen = [one - one.mean(axis=1, keepdims=True) for one in chosen]
    if len(chosen) > 1:
        chosen = [normalised(one) for one in chosen]
    joined = np.concatenate(chosen, axis=2)
    return normalised(joined) if config.normalize else joined


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("facet", "layer"), [("k", -1), ("q", -3), *JOINED])
def test_features_are_those_of_the_plain_formulation(parts, facet, layer, center, normalize):
    config = FeatureConfig(facet, layer, center, normalize)
    found = compose(parts, config)
    assert np.allclose(found.numpy(), plain(parts, config), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("facet", "layer"), JOINED)
def test_a_dot_product_of_joined_features_is_the_sum_of_their_cosines(parts, facet, layer):
    config = FeatureConfig(facet, layer)
    found = compose(parts, config).double().numpy()
    layers = layer if isinstance(layer, tuple) else (layer,)
    each = [parts[one] for one in product(facet, layers)]
    for image in range(2):
        for one, other in combinations(range(6), 2):
            cosines = [float(torch.cosine_similarity(p[image, one], p[image, other], dim=0)) for p in each]
            assert found[image, one] @ found[image, other] == pytest.approx(sum(cosines), abs=1e-5)


def test_joined_features_are_normalised_to_length_1_as_a_whole(parts):
    joined = compose(parts, FeatureConfig("qkv", (-2, -1), normalize=True))
    assert torch.allclose(joined.norm(dim=2), torch.ones(2, 6))
    whole = compose(parts, FeatureConfig("qkv", (-2, -1)))
    assert torch.allclose(joined, whole / 6**0.5)  # six parts of length 1


def test_one_part_is_taken_as_it_is_where_nothing_is_computed(parts):
    half = {part: tensor.bfloat16() for part, tensor in parts.items()}
    assert compose(half, FeatureConfig("v", -2)) is half["v", -2]


@pytest.mark.parametrize(
    "config", [FeatureConfig(center=True), FeatureConfig(normalize=True), FeatureConfig("qk")], ids=str
)
def test_what_is_computed_is_computed_in_float32(parts, config):
    half = {part: tensor.bfloat16() for part, tensor in parts.items()}
    found = compose(half, config)
    assert found.dtype == torch.float32
    exact = {part: tensor.float() for part, tensor in half.items()}
    assert torch.equal(found, compose(exact, config))


def test_zero_features_stay_zero(parts):
    zero = {part: torch.zeros_like(tensor) for part, tensor in parts.items()}
    assert not compose(zero, FeatureConfig("qk", (-2, -1), normalize=True)).any()
    alike = {part: torch.ones_like(tensor) for part, tensor in parts.items()}
    assert not compose(alike, FeatureConfig(center=True, normalize=True)).any()


def test_parts_are_the_facets_of_one_layer_after_the_other():
    assert FeatureConfig().parts == [("k", -1)]
    joined = FeatureConfig("vk", (-4, 2))
    assert joined.parts == [("v", -4), ("k", -4), ("v", 2), ("k", 2)]
    assert joined.layers == (-4, 2) and FeatureConfig(layer=3).layers == (3,)


# From a backbone to the boxes


@pytest.mark.parametrize(
    "changes", [{"facet": "qkv"}, {"layer": (-3, -1)}, {"facet": "qk", "layer": (1, -1)}]
)
@pytest.mark.parametrize("center", [False, True])
def test_objects_in_joined_features_are_the_oracles(random_backbone, changes, center):
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(6)]
    chosen = setting(**changes, center=center)
    pixels = torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (random_backbone.mean, random_backbone.std))
    wanted = chosen.features.parts
    features = plain(
        dict(zip(wanted, random_backbone.facets((pixels - mean) / std, wanted))), chosen.features
    )
    compared = 0
    for image, found in enumerate(find(images, random_backbone, chosen)):
        expected = oracle_lost(features[image], (4, 6))
        if expected.ambiguous:
            continue
        compared += 1
        (one,) = found.objects
        assert tuple(side / 16 for side in one.box_xyxy) == expected.box
        assert (one.seed, one.details["degree"]) == (expected.seed, expected.degree)
        assert one.score == pytest.approx(expected.affinity, abs=2e-4)
    assert compared >= 4


# Images that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_with_a_value_that_is_not_finite_are_known_and_zeroed(value):
    features = torch.ones(3, 4, 2)
    features[1, 3, 0] = value
    finite = finite_images(features)
    assert finite.tolist() == [True, False, True]
    kept = without_images(features, finite)
    assert kept.isfinite().all() and not kept[1].any() and torch.equal(kept[[0, 2]], features[[0, 2]])


# Configurations


@pytest.mark.parametrize("facet", ["x", "", "kk", "qkvq", "K", "k,v", "tokens"])
def test_unknown_and_repeated_facets_are_refused(facet):
    assert f"unknown facet {facet!r}" in refusal(FeatureConfig, facet=facet)


@pytest.mark.parametrize("layer", [(), (-1, -1), (2, -1, 2), [-2, -1]])
def test_no_layers_repeated_ones_and_lists_are_refused(layer):
    assert f"several different ones, but got {layer!r}" in refusal(FeatureConfig, layer=layer)


@pytest.mark.parametrize(
    "wrong",
    [{"layer": "last"}, {"layer": None}, {"layer": ("a",)}, {"facet": 3}, {"max_side": "9"}, {"center": 1}],
)
def test_values_of_another_type_are_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    assert refusal(FeatureConfig, **wrong) == f"`{name}` cannot be {value!r}"


@pytest.mark.parametrize("max_side", [0, -5])
def test_a_longest_side_below_a_pixel_is_refused(max_side):
    assert refusal(FeatureConfig, max_side=max_side) == (
        f"expected a `max_side` of at least 1 pixel, but got {max_side}"
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (FeatureConfig(), "k of layer -1, raw"),
        (FeatureConfig("qkv", -2, normalize=True), "qkv of layer -2, normalised"),
        (FeatureConfig(layer=(-2, -1), center=True), "k of layers -2 and -1, centred, raw"),
        (FeatureConfig(max_side=400), "k of layer -1, raw, max side 400"),
    ],
)
def test_features_in_words(config, words):
    assert describe_features(config) == words


def test_a_tuple_of_one_layer_is_that_layer():
    assert FeatureConfig(layer=(-2,)) == FeatureConfig(layer=-2)
