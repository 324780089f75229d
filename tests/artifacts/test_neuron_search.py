"""Finding register neurons: against a slow formulation, on the planted model, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from artifact_cases import LOADER, not_finite_where_flat, slow_search
from helpers import approximately, batches_of, find, refusal, scarce_memory, setting
from small_models import small_backbone

from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
from lost_reg.artifacts.norms import block_norms
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.boxes import is_found
from lost_reg.datasets.catalog import find_dataset
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import Failure

ROOT = Path(__file__).parents[2]
SIDE = 224
NEURONS = RegisterNeurons(((2, 5), (0, 3), (0, 1), (2, 7), (1, 0)))


def stream_of(images, **loader) -> ImageStream:
    names = [f"image {index}" for index in range(len(images))]
    return ImageStream(images, names, loader=LoaderOptions(**loader))


@pytest.fixture(scope="module")
def pictures():
    """Six small images of faint noise, of two grids at patch 14; three have a patch of black and white."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(42, 56), (42, 56), (28, 42), (42, 56), (28, 42), (42, 56)]
    made = [torch.randint(110, 130, (*shape, 3), generator=generator) for shape in shapes]
    for image, (row, column) in zip(made[::2], [(0, 0), (14, 28), (14, 14)]):
        image[row : row + 14, column : column + 14] = 255 * torch.randint(
            0, 2, (14, 14, 3), generator=generator
        )
    return [image.to(torch.uint8).numpy() for image in made]


# --- against a slow formulation -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLP", "SwiGLU, packed"])
@pytest.mark.parametrize(
    "options",
    [
        {"threshold": "median"},
        {"threshold": "median", "rule": "code"},
        {"threshold": "median", "detect_layer": 2, "top_layer": 1},
        {"threshold": "median", "detect_layer": -1, "top_layer": 0, "top_k": 7},
        {},
    ],
    ids=str,
)
def test_neurons_are_those_of_the_slow_formulation(name, options, pictures):
    backbone = small_backbone(name)
    options = {"top_k": 12, **options}
    if "threshold" in options:  # the first image's median: some images have few outliers, or none
        norms = block_norms(backbone, batches_of(stream_of(pictures[:1]), backbone)[0])
        options["threshold"] = float(norms[options.get("detect_layer", -2)].median())
    options = SearchOptions(**options)
    found = find_register_neurons(stream_of(pictures, batch_size=3), backbone, options)
    ranked, threshold, top, stands_out = slow_search(backbone, stream_of(pictures, batch_size=1), options)
    assert found.neurons == tuple((layer, neuron) for _, layer, neuron in ranked)
    activations = [activation for activation, *_ in ranked]
    assert found.found.get("activations", []) == pytest.approx(activations, rel=1e-4)
    assert found.found["threshold"] == pytest.approx(threshold, rel=1e-5)
    assert found.found.get("top_layer") == top and found.found["stands_out"] == stands_out
    assert found.found["images"] == 6 and 0 < found.found["outlier_share"] < 1
    assert found.backbone == backbone.name and found.weights["name"] == "random"


def test_the_class_token_counts_by_the_rule_of_the_code_alone(pictures):
    """Above the threshold are the class token and some patches: all of them count, or the patches alone."""
    backbone, hidden = small_backbone("MLP"), []
    linear = backbone.model.blocks[0].mlp.fc2
    handle = linear.register_forward_pre_hook(lambda _, args: hidden.append(args[0][0]))
    (image,) = batches_of(stream_of(pictures[:1]), backbone)
    norms = block_norms(backbone, image, 1, with_prefix=True)[0, 0]
    handle.remove()
    threshold = float(norms[0]) * 0.999
    above = norms > threshold
    assert above[0] and 0 < above[1:].sum() < 12
    means = {"paper": hidden[0][1:][above[1:]].mean(dim=0), "code": hidden[0][above].abs().mean(dim=0)}
    for rule, expected in means.items():
        options = SearchOptions(threshold=threshold, detect_layer=0, top_k=192, rule=rule)
        found = find_register_neurons(stream_of(pictures[:1]), backbone, options)
        neurons = [neuron for _, neuron in found.neurons]
        assert found.found["activations"] == pytest.approx(expected[neurons].tolist(), rel=1e-4, abs=1e-5)
        assert found.found.get("class_tokens") == (1 if rule == "code" else None)
        assert found.found["outlier_share"] == pytest.approx(float(above[1:].double().mean()))


def test_every_image_counts_the_same_however_many_outliers_it_has(pictures):
    """By hand, over the file's own numbers: the mean of two images is the mean of each alone."""
    backbone = small_backbone("MLP")
    options = SearchOptions(threshold=1e-3, top_layer=0, top_k=192)  # every patch: 12 of one, 6 of the other
    alone = [
        find_register_neurons(stream_of([picture]), backbone, options)
        for picture in (pictures[0], pictures[2])
    ]
    both = find_register_neurons(stream_of([pictures[0], pictures[2]]), backbone, options)
    values = [dict(zip(one.neurons, one.found["activations"])) for one in (*alone, both)]
    for neuron, value in values[2].items():
        assert value == pytest.approx((values[0][neuron] + values[1][neuron]) / 2, abs=1e-5)


# --- the planted model, a test fixture ----------------------------------------------------------------


@pytest.fixture(scope="module")
def samples():
    dataset = find_dataset("samples", ROOT / "data")
    paths = [dataset.root / name for name in dataset.images]
    return dataset, ImageStream(paths, dataset.images, max_side=SIDE, loader=LOADER)


@pytest.fixture(scope="module")
def planted_model(samples):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    return planted.plant(plain, *batches_of(samples[1], plain))


@pytest.fixture(scope="module")
def found_neurons(samples, planted_model):
    """What the search finds on the samples, told nothing but how many neurons to keep."""
    return find_register_neurons(samples[1], planted_model[0], SearchOptions(top_k=planted.NEURONS))


def images_found(samples, backbone) -> int:
    """CorLoc as a count, of the 16 samples."""
    dataset, stream = samples
    found = find(stream.images, backbone, setting(max_side=SIDE), apply_exif=False)
    return sum(
        is_found(one.box_xyxy, dataset.truths[name].boxes_xyxy) for one, name in zip(found, stream.names)
    )


def outlier_share(samples, backbone, threshold: float) -> float:
    """After the second-to-last block."""
    norms = [block_norms(backbone, images)[-2].flatten() for images in batches_of(samples[1], backbone)]
    return float((torch.cat(norms) > threshold).double().mean())


def test_the_planted_neurons_are_found_without_labels(found_neurons, planted_model):
    _, neurons = planted_model
    assert sorted(found_neurons.neurons) == neurons
    assert found_neurons.found["top_layer"] == neurons[0][0]
    assert found_neurons.found["images_with_outliers"] == found_neurons.found["images"] == 16
    assert found_neurons.found["stands_out"] and found_neurons.found["top_layer_rule"] == "onset"
    assert found_neurons.found["norm_ratio"] > 3


def test_without_the_plant_nothing_stands_out(samples):
    """Some patches are above mean + 3 sigma all the same: no layer is where they begin, no neuron theirs."""
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    searched = find_register_neurons(samples[1], plain, SearchOptions(top_k=planted.NEURONS, top_layer=2))
    found = searched.found
    assert found["outlier_share"] > 0 and found["images_with_outliers"] > 1
    assert not found["stands_out"] and 1 < found["norm_ratio"] < 3
    assert searched.neurons == () and not {"top_layer", "top_layer_rule", "activations"} & set(found)
    assert "nothing stood out in tiny when register neurons" in refusal(AddedRegisters, searched)


def test_a_given_threshold_is_taken_at_its_word(samples):
    """Neurons at the patches above it, although nothing stands out there, and this is recorded."""
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    threshold = find_register_neurons(samples[1], plain).found["threshold"]
    options = SearchOptions(threshold=threshold, top_k=planted.NEURONS)
    searched = find_register_neurons(samples[1], plain, options)
    assert len(searched.neurons) == planted.NEURONS and not searched.may_be_real
    assert searched.found["top_layer"] == searched.found["detect_layer"] == 4
    assert searched.found["top_layer_rule"] == "detect layer"


@pytest.mark.parametrize("rule", ["paper", "code"])
def test_the_planted_model_shows_outliers_loses_corloc_and_gets_both_back(
    rule, samples, planted_model, found_neurons
):
    model, _ = planted_model
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    repaired = planted.with_registers(model, AddedRegisters(found_neurons, 1, rule))
    threshold = found_neurons.found["threshold"]
    assert outlier_share(samples, plain, threshold) == 0
    assert outlier_share(samples, model, threshold) > 0.02
    assert outlier_share(samples, repaired, threshold) == 0
    counts = [images_found(samples, backbone) for backbone in (plain, model, repaired)]
    assert counts[1] <= counts[0] / 2 and counts[2] >= counts[0] - 2, counts


def test_without_the_plant_the_fixture_is_the_bundled_backbone():
    tiny = load_backbone("tiny", device="cpu")
    images = torch.randn((2, 3, 48, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(planted.without_registers(tiny).features(images), tiny.features(images))


def test_the_neurons_that_matter_are_the_planted_ones(samples, planted_model, found_neurons):
    """Registers at other neurons of the same block repair nothing."""
    model, neurons = planted_model
    layer = neurons[0][0]
    others = tuple((layer, neuron) for neuron in range(9) if (layer, neuron) not in neurons)[:3]
    elsewhere = planted.with_registers(model, AddedRegisters(type(found_neurons)(others)))
    assert outlier_share(samples, elsewhere, found_neurons.found["threshold"]) > 0.02


# --- what is refused ------------------------------------------------------------------------------------


def test_options_that_cannot_be_are_refused():
    assert "`threshold` above 0" in refusal(SearchOptions, threshold=0.0)
    assert "`threshold` above 0" in refusal(SearchOptions, threshold=float("nan"))
    assert "`top_k` of at least 1" in refusal(SearchOptions, top_k=0)
    assert "unknown register rule" in refusal(SearchOptions, rule="mine")


def test_models_that_cannot_be_searched_are_refused(pictures, random_backbone):
    stream = stream_of(pictures)
    function = load_backbone(lambda images: images, device="cpu", preprocessing=Preprocessing(14))
    assert "no transformer blocks" in refusal(find_register_neurons, stream, function)
    assert "was trained with 4 registers" in refusal(find_register_neurons, stream, random_backbone)
    added = small_backbone("MLP", AddedRegisters(NEURONS))
    assert "without test-time registers" in refusal(find_register_neurons, stream, added)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"detect_layer": 4}, "has no layer 4"),
        ({"top_layer": -5}, "has no layer -5"),
        ({"detect_layer": 1, "top_layer": 2}, "the top layer, 2, comes after layer 1"),
        ({"threshold": 1e9}, "no patch of 6 images has a norm above 1e+09 after layer 2"),
        (
            {"threshold": 1e-3, "top_layer": 1, "top_k": 385},
            "layers 0 to 1 of dinov2_vits14 have 384 neurons",
        ),
    ],
    ids=str,
)
def test_searches_that_cannot_be_are_refused(options, text, pictures):
    assert text in refusal(
        find_register_neurons, stream_of(pictures), small_backbone("MLP"), SearchOptions(**options)
    )


def test_unreadable_images_are_told_and_passed_over(tmp_path, pictures):
    backbone, failures, told = small_backbone("MLP"), [], []
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    stream = ImageStream([*pictures, bad], [*"abcdef", "bad"])
    found = find_register_neurons(
        stream, backbone, SearchOptions(top_k=3), failures=failures, progress=lambda *now: told.append(now)
    )
    assert found.found["images"] == 6
    assert [(type(one), one.image) for one in failures] == [(Failure, "bad")]
    assert told[0] == (0, 0, 14) and told[-1] == (13, 1, 14)  # two passes of seven images
    stream = ImageStream([bad], ["bad"])
    assert "the only image could not be used: bad" in refusal(find_register_neurons, stream, backbone)


@pytest.mark.parametrize("threshold", [None, 100.0])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_whose_norms_are_not_finite_is_left_out(threshold, batch_size, pictures, monkeypatch):
    backbone, options, failures = small_backbone("MLP"), SearchOptions(threshold, top_k=3), []
    expected = find_register_neurons(stream_of(pictures), backbone, options)
    not_finite_where_flat(backbone, monkeypatch, in_first_alone=True)
    flat = np.full((42, 56, 3), 200, np.uint8)
    loader = LoaderOptions(batch_size=batch_size)
    stream = ImageStream([flat, *pictures], ["flat", *"abcdef"], loader=loader)
    found = find_register_neurons(stream, backbone, options, failures=failures)
    reason = f"norms of {backbone.name} are not finite in fp32"
    assert failures == [Failure("flat", reason)]
    assert found.neurons == expected.neurons and approximately(found.found, expected.found)
    text = refusal(find_register_neurons, stream.part([0]), backbone, options)
    assert text == f"the only image could not be used: flat ({reason})"


@pytest.mark.parametrize("threshold", [None, 100.0])
def test_a_batch_that_does_not_fit_the_memory_changes_nothing(threshold, pictures, monkeypatch):
    backbone, options = small_backbone("MLP"), SearchOptions(threshold, top_k=3)
    expected = find_register_neurons(stream_of(pictures), backbone, options)
    tried = scarce_memory(monkeypatch, backbone, images_at_most=2)
    found = find_register_neurons(stream_of(pictures), backbone, options)
    assert found.neurons == expected.neurons and max(tried) == 4
    assert approximately(found.found, expected.found)


def test_an_image_that_does_not_fit_the_memory_is_a_failure(pictures, monkeypatch):
    backbone, failures = small_backbone("MLP"), []
    scarce_memory(monkeypatch, backbone, pixels_at_most=28 * 42)
    options = SearchOptions(threshold=100.0, top_k=3)
    found = find_register_neurons(stream_of(pictures), backbone, options, failures=failures)
    assert found.found["images"] == 2
    assert [failure.image for failure in failures] == [f"image {index}" for index in (0, 1, 3, 5)]
