"""Batches through backbone and method: grids, workers, memory, unusable features, several settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from colours import PATCH, colour_backbone, patch_means, planted
from helpers import find, refusal, setting
from lost_oracle import oracle_lost
from PIL import Image

from lost_reg import LoaderOptions, discover, discover_stream
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.discovery import methods
from lost_reg.discovery.methods import Setting
from lost_reg.images.batching import BatchSize
from lost_reg.runs import batches
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.types import Failure, Prediction

HERE = LoaderOptions(workers=0)


def noise(count: int, size_hw=(32, 48)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for _ in range(count)]


# --- batches and workers -----------------------------------------------------------------------------


def test_in_float32_the_result_depends_on_neither_batches_nor_workers(tmp_path, random_backbone):
    paths = []
    for index, size_hw in enumerate([(64, 96), (60, 90), (64, 64), (17, 33)] * 3):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize(size_hw[::-1], Image.Resampling.BICUBIC)
        paths.append(tmp_path / f"{index:02}.png")
        image.save(paths[-1])
    found = find(paths, random_backbone, batch_size=1)
    assert find(paths, random_backbone, batch_size=1) == found
    assert find(paths, random_backbone, batch_size=16) == found
    assert find(paths, random_backbone, batch_size=16, workers=4) == found
    assert find(paths[::-1], random_backbone, batch_size=5) == found[::-1]


def test_images_of_one_grid_run_together_and_no_others():
    shapes = []

    def recording(images):
        shapes.append(tuple(images.shape))
        return patch_means(images)

    images = [np.zeros((*size, 3), np.uint8) for size in [(16, 24), (9, 17), (24, 16), (16, 23), (15, 24)]]
    find(images, colour_backbone(recording), batch_size=3)
    assert shapes == [(3, 3, 16, 24), (1, 3, 24, 16), (1, 3, 16, 24)]


def test_outcomes_are_given_as_they_are_done(tmp_path, colours):
    """Memory would not be bounded if all images were decoded first."""
    Image.fromarray(planted()).save(tmp_path / "0.png")
    Image.fromarray(planted()).save(tmp_path / "1.png")
    images = [("0", tmp_path / "0.png"), ("1", tmp_path / "1.png")]
    stream = discover_stream(images, colours, "lost", loader=LoaderOptions(batch_size=1, workers=0))
    assert next(stream).image == "0"
    (tmp_path / "1.png").unlink()
    assert next(stream) == Failure("1", f"no such file: '{tmp_path / '1.png'}'")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_a_failure_and_the_others_go_on(tmp_path, colours, workers):
    (tmp_path / "bad.jpg").write_text("no image")
    images = [planted(), tmp_path / "bad.jpg", tmp_path / "gone.jpg", planted(box_xyxy=(0, 0, 8, 8))]
    stream = zip(["a", "bad", "gone", "b"], images)
    outcomes = list(discover_stream(stream, colours, "lost", loader=LoaderOptions(workers=workers)))
    failed = {one.image: one.reason for one in outcomes if isinstance(one, Failure)}
    assert failed == {
        "bad": "not an image, but a text file",
        "gone": f"no such file: '{tmp_path / 'gone.jpg'}'",
    }
    boxes = {one.image: one.box_xyxy for one in outcomes if isinstance(one, Prediction)}
    assert boxes == {"a": (16, 8, 40, 24), "b": (0, 0, 8, 8)}


# --- features, as a function gives them --------------------------------------------------------------


def objects_of_features(features: torch.Tensor, chosen: Setting, grid_hw=None) -> list[tuple]:
    """Boxes in patches, seeds and degrees of (B, N, D) features, through a function that gives them."""
    rows, columns = grid_hw or (1, features.shape[1])
    backbone = load_backbone(lambda _: features, preprocessing=Preprocessing(PATCH), device="cpu")
    images = [np.zeros((rows * PATCH, columns * PATCH, 3), np.uint8)] * len(features)
    found = [one.objects[0] for one in find(images, backbone, chosen, batch_size=len(features))]
    return [(tuple(side // PATCH for side in one.box_xyxy), one.seed, one.details["degree"]) for one in found]


def test_normalised_features_have_length_1_before_lost():
    # s, p, q: S = {s, p}. Raw, q.s + q.p = -1 + 2: the long p carries q into the mask. Of length 1, both
    # count alike: -0.86 + 0.08.
    features = torch.tensor([[[1.0, 0.0], [10.0, 20.0], [-1.0, 0.6]]])
    boxes = []
    for chosen in (setting(), setting(normalize=True), setting(normalize=True, bias=-0.2)):
        used = features[0].numpy().astype(np.float64)
        if chosen.features.normalize:
            used = used / np.linalg.norm(used, axis=1, keepdims=True)
        expected = oracle_lost(used, (1, 3), 100, chosen.config.bias)
        assert not expected.ambiguous
        ((box, seed, degree),) = objects_of_features(features, chosen)
        assert (box, seed, degree) == (expected.box, expected.seed, expected.degree)
        boxes.append(box)
    assert boxes[:2] == [(0, 0, 3, 1), (0, 0, 2, 1)]


def test_the_bias_of_raw_features_is_in_units_of_each_images_mean_squared_norm():
    # Squared norms 1, 4 and 1 have the mean 2; A = (1 2 -1; 2 4 -2; -1 -2 1). b = -0.9 is -1.8:
    # (-0.8 0.2 -2.8; 0.2 2.2 -3.8; -2.8 -3.8 -0.8). Degrees 1, 1 and 0: the third is the seed, S is empty.
    image = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    # the second image is ten times the first, so its bias is a hundred times as large
    features = torch.stack([image, 10 * image])
    assert objects_of_features(features, setting(bias=-0.9)) == [((2, 0, 3, 1), (0, 2), 0)] * 2
    # b = -1.1 is -2.2: 2 - 2.2 is negative, so the first has degree 0, too
    assert [seed for _, seed, _ in objects_of_features(features, setting(bias=-1.1))] == [(0, 0)] * 2


@pytest.mark.parametrize(
    "changes", [{"normalize": True, "bias": -0.2}, {"bias": -0.2}, {"bias": -0.4, "k_patches": 3}], ids=str
)
def test_random_features_with_normalising_and_bias_give_the_oracles_result(changes):
    features = torch.randn(60, 24, 6, generator=torch.Generator().manual_seed(1)) + 0.3
    chosen, compared = setting(**changes), 0
    found = objects_of_features(features, chosen, (4, 6))
    for index, image in enumerate(features.double().numpy()):
        if chosen.features.normalize:
            image = image / np.linalg.norm(image, axis=1, keepdims=True)
        bias = chosen.config.bias * (image**2).sum(axis=1).mean()
        expected = oracle_lost(image, (4, 6), chosen.config.k_patches, bias)
        if not expected.ambiguous:
            compared += 1
            assert found[index] == (expected.box, expected.seed, expected.degree)
    assert compared >= 50


def overflowing(precision: str, value: float):
    """A backbone of that precision that gives `value` for images whose first pixel is grey."""

    def features(images):
        means = patch_means(images)
        means[images[:, 0, 0, 0].abs() < 0.5, 2, 1] = value
        return means

    backbone = colour_backbone(features)
    backbone.precision = precision
    return backbone


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_fail_their_image_alone(value):
    grey = planted()
    grey[0, 0] = 128
    images = [planted(), grey, planted(box_xyxy=(0, 0, 8, 8))]
    backbone = overflowing("fp16", value)
    outcomes = list(discover_stream(zip(["a", "grey", "b"], images), backbone, "lost", loader=HERE))
    failures = [one for one in outcomes if isinstance(one, Failure)]
    assert failures == [Failure("grey", "its features are not finite in fp16: use `precision` fp32")]
    boxes = {one.image: one.box_xyxy for one in outcomes if isinstance(one, Prediction)}
    assert boxes == {"a": (16, 8, 40, 24), "b": (0, 0, 8, 8)}
    # all of a batch
    assert list(discover_stream([("grey", grey)], backbone, "lost", loader=HERE)) == failures


def test_no_other_precision_is_advised_where_float32_is_not_finite():
    grey = np.full((48, 64, 3), 128, np.uint8)
    (failure,) = discover_stream([("grey", grey)], overflowing("fp32", math.nan), "lost", loader=HERE)
    assert failure == Failure("grey", "its features are not finite in fp32")


# --- memory ------------------------------------------------------------------------------------------


def scarce(backbone, monkeypatch, error: Exception, most: int = 0) -> list[int]:
    """Let a backbone run out of memory where a batch has more images; the sizes tried, to be filled."""
    whole, tried = backbone.facets, []

    def facets(images, parts):
        tried.append(len(images))
        if len(images) > most:
            raise error
        return whole(images, parts)

    monkeypatch.setattr(backbone, "facets", facets)
    return tried


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 7 bytes")],
)
@pytest.mark.parametrize("batch_size", [8, "auto"])
def test_a_batch_that_does_not_fit_the_memory_is_halved_and_later_ones_are_as_small(
    random_backbone, monkeypatch, error, batch_size
):
    images = noise(17)
    expected = find(images, random_backbone)
    tried = scarce(random_backbone, monkeypatch, error, most=3)
    monkeypatch.setattr(batches, "pixels_at_once", lambda backbone, methods: 8.9 * 32 * 48)
    assert find(images, random_backbone, batch_size=batch_size) == expected
    assert tried == [8, 4, 2, 2, 2, 2] + [2] * 4 + [1]


def test_larger_images_go_in_smaller_batches_after_the_memory_did_not_suffice():
    size = BatchSize(8)
    assert size.of((32, 48)) == 8 and size.lowered == 0
    size.lower(5, (32, 48))
    assert [size.of(hw) for hw in [(32, 48), (16, 48), (16, 16), (64, 48), (999, 999)]] == [2, 4, 8, 1, 1]
    assert size.lowered == 1


def test_another_error_is_not_mistaken_for_a_lack_of_memory(random_backbone, monkeypatch):
    scarce(random_backbone, monkeypatch, RuntimeError("shapes do not agree"))
    with pytest.raises(RuntimeError, match="shapes do not agree"):
        discover([planted()], random_backbone, "lost")


def test_an_image_that_does_not_fit_the_memory_is_a_failure(random_backbone, monkeypatch):
    scarce(random_backbone, monkeypatch, torch.OutOfMemoryError("too much"))
    (outcome,) = discover_stream(
        [("a", np.zeros((32, 48, 3), np.uint8))], random_backbone, "lost", loader=HERE
    )
    assert outcome == Failure("a", "out of memory on cpu at 48 x 32 pixels: scale it down with `max_side`")


def test_maps_that_do_not_fit_the_memory_are_made_in_smaller_batches(random_backbone, monkeypatch):
    tried = scarce(random_backbone, monkeypatch, torch.OutOfMemoryError("too much"), most=2)
    found: dict = {}
    images = zip("abcde", noise(5))
    assert (
        len(list(discover_stream(images, random_backbone, "lost", loader=HERE, on_maps=found.__setitem__)))
        == 5
    )
    assert set(found) == set("abcde") and tried == [5, 2, 2, 1]


def test_a_lack_of_memory_for_further_objects_is_one_line(random_backbone, monkeypatch):
    def grow_no_more():
        raise torch.OutOfMemoryError("too much")

    short = dataclasses.replace(methods.METHODS["lost"], discover=lambda features, config: grow_no_more)
    monkeypatch.setitem(methods.METHODS, "lost", short)
    text = refusal(find, noise(2), random_backbone)
    assert "out of memory on cpu while looking for objects" in text
    assert "`resume` with a smaller `batch_size` continues" in text


# --- several settings at once ------------------------------------------------------------------------


def without_scores(found: list[Prediction]) -> list[Prediction]:
    """Of settings that are tried together, boxes are asked for; scores may not have been computed."""
    return [
        dataclasses.replace(
            one, objects=tuple(dataclasses.replace(found, score=None) for found in one.objects)
        )
        for one in found
    ]


def found_together(images, backbone, settings) -> list[list[Prediction]]:
    """What each setting finds in the images, tried together."""
    names = [str(index) for index in range(len(images))]
    outcomes = discover_by_each(zip(names, images), backbone, settings, HERE)
    found = {outcome[0].image: outcome for outcome in outcomes}
    return [without_scores([found[name][index] for name in names]) for index in range(len(settings))]


def found_alone(images, backbone, chosen) -> list[Prediction]:
    found = without_scores(find(images, backbone, chosen))
    return [dataclasses.replace(one, image=str(index)) for index, one in enumerate(found)]


@pytest.fixture
def mixed() -> list[np.ndarray]:
    """Smooth colours in two sizes."""
    images = []
    for index in range(5):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size_wh = (96, 64) if index % 2 else (80, 80)
        images.append(np.array(Image.fromarray(colours).resize(size_wh, Image.Resampling.BICUBIC)))
    return images


def test_settings_that_differ_in_one_thing_do_not_share_affinities(mixed, random_backbone):
    neighbours = [
        setting(),
        setting(center=True),
        setting(center=True, normalize=True),
        setting(center=True, normalize=True, facet="v"),
        setting(center=True, normalize=True, facet="v", layer=-2),
        setting(center=True, normalize=True, facet="v", layer=-2, k_patches=2),
        setting(center=True, normalize=True, facet="vk", layer=-2),
        setting(center=True, normalize=True, facet="vk", layer=(-2, -1), bias="auto"),
        setting(),  # again, and not beside the other
    ]
    for chosen, found in zip(neighbours, found_together(mixed, random_backbone, neighbours)):
        assert found == found_alone(mixed, random_backbone, chosen), chosen


def test_the_backbone_runs_once_per_batch_for_all_settings(random_backbone, monkeypatch):
    tried = scarce(random_backbone, monkeypatch, RuntimeError(), most=9)
    settings = [setting(facet=facet, layer=layer) for facet in ("k", "qv") for layer in (-1, -3)]
    assert len(list(discover_by_each(zip("abcd", noise(4)), random_backbone, settings, HERE))) == 4
    assert tried == [4]


def test_an_image_that_cannot_be_read_fails_once(tmp_path, random_backbone):
    (tmp_path / "bad.jpg").write_text("no image")
    settings = [setting(), setting(facet="v")]
    outcomes = list(discover_by_each([("bad", tmp_path / "bad.jpg")], random_backbone, settings, HERE))
    assert outcomes == [Failure("bad", "not an image, but a text file")]


def test_settings_of_different_sizes_and_of_several_objects_are_refused(random_backbone):
    def together(*settings):
        return list(discover_by_each(zip("ab", noise(2)), random_backbone, settings, HERE))

    assert "the same `max_side`" in refusal(together, setting(), setting(max_side=9))
    several = [setting(max_objects=2, bias=bias) for bias in (0.0, -0.1)]
    assert "one object each: `max_objects` is 1" in refusal(together, *several)
