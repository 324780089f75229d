"""What a run will cost, estimated before it starts, and what is said about it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from colours import colour_backbone
from helpers import counted_operations, setting
from PIL import Image

from lost_reg.discovery.methods import METHODS
from lost_reg.runs import forecast as forecasting
from lost_reg.runs.forecast import Forecast, forecast, pixels_at_once, setting_operations

LOST = METHODS["lost"]


# --- operations --------------------------------------------------------------------------------------


def test_operations_of_one_gram_matrix_are_those_that_torch_counts(random_backbone):
    patches = random_backbone.cost.patches((32, 48))
    features = torch.zeros(patches, random_backbone.model.embed_dim)
    expected = counted_operations(torch.matmul, features, features.T)
    assert LOST.operations(patches, random_backbone.cost.width, LOST.config()) == expected


@pytest.mark.parametrize(
    "changes, index, facets, grams",
    [
        ({}, 5, 1, 1),
        ({"layer": -3}, 3, 1, 1),
        ({"facet": "qk", "layer": (0, 4)}, 4, 4, 1),
        ({"max_objects": 3}, 5, 1, 3),
    ],
    ids=str,
)
def test_operations_of_a_setting_are_of_its_deepest_layer_and_its_joined_features(
    random_backbone, changes, index, facets, grams
):
    cost = random_backbone.cost
    features = cost.feature_operations((32, 48), index, facets=facets)
    gram = 2.0 * grams * cost.patches((32, 48)) ** 2 * facets * cost.width
    assert setting_operations(random_backbone, setting(**changes), (32, 48)) == features + gram


# --- how many images go together ---------------------------------------------------------------------


def test_auto_keeps_the_device_busy_and_within_its_free_memory(random_backbone, monkeypatch):
    size = random_backbone.patch_size
    monkeypatch.setattr(forecasting, "free_bytes", lambda device: 1e12)
    assert pixels_at_once(random_backbone, [LOST]) == 2**13 * size**2
    monkeypatch.setattr(forecasting, "free_bytes", lambda device: 1e6)
    few = pixels_at_once(random_backbone, [LOST])
    assert few < 2**13 * size**2
    monkeypatch.setattr(forecasting, "free_bytes", lambda device: 2e6)
    assert pixels_at_once(random_backbone, [LOST]) == pytest.approx(2 * few)
    greedy = dataclasses.replace(LOST, peak_bytes=lambda images, patches: 1e12)
    assert pixels_at_once(random_backbone, [LOST, greedy]) < few


def test_a_function_as_backbone_gets_as_many_as_keep_the_device_busy(colours):
    assert pixels_at_once(colours, [LOST]) == 2**13 * 64


# --- what is said before a run -----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """200 headers: every 10th is of 90 x 60 pixels, the others of 40 x 20; one is no image."""
    paths = []
    for index in range(200):
        path = tmp_path / f"{index:03}.png"
        Image.new("L", (90, 60) if index % 10 == 0 else (40, 20)).save(path)
        paths.append(path)
    paths[3].write_text("no image")
    return paths


@pytest.fixture
def measured(monkeypatch):
    """However small a run is, the device's rate is measured: a million useful operations a second."""
    monkeypatch.setattr(forecasting, "_WORTH_MEASURING", 0.0)
    monkeypatch.setattr(forecasting, "matrix_rate", lambda device, precision: 1e6 / 0.6)


def test_a_run_is_judged_by_a_sample_of_its_images(files, random_backbone, measured):
    def seconds(chosen):
        large, small = (
            setting_operations(random_backbone, chosen, size_hw) for size_hw in ((60, 90), (20, 40))
        )
        return (20 * large + 179 * small) / 199 * 200 / 1e6

    found = forecast(files, 200, random_backbone, setting())
    assert found.seconds == pytest.approx(seconds(setting()))
    assert found.images == 200 and found.largest_hw == (60, 90)
    patches = random_backbone.cost.patches((60, 90))
    assert found.needed_bytes == random_backbone.cost.peak_bytes((60, 90)) + LOST.peak_bytes(1, patches)
    several = setting(max_objects=4)  # three more Gram matrices
    assert forecast(files, 200, random_backbone, several).seconds == pytest.approx(seconds(several))
    scaled = forecast(files, 200, random_backbone, setting(max_side=45))
    assert scaled.largest_hw == (30, 45) and scaled.seconds < found.seconds


def test_an_unknown_number_of_images_has_no_time(files, random_backbone, measured):
    unknown = forecast(files, None, random_backbone, setting())
    assert unknown.seconds is None and unknown.largest_hw == (60, 90)


def test_encoded_images_are_judged_like_files(files, random_backbone):
    encoded = [file.read_bytes() for file in files]
    assert forecast(encoded, 200, random_backbone, setting()).largest_hw == (60, 90)


def test_a_precision_that_the_processor_emulates_is_reported(files, random_backbone, monkeypatch):
    rates = {"fp32": 3e9, "bf16": 2.1e9, "fp16": 1e7}
    monkeypatch.setattr(forecasting, "matrix_rate", lambda device, precision, side=0: rates[precision])
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    slowdown = forecasting.precision_slowdown
    assert slowdown(cpu, "fp16") == pytest.approx(300)
    assert slowdown(cpu, "bf16") is None is slowdown(cpu, "fp32")
    assert slowdown(cuda, "fp16") is None
    monkeypatch.setattr(random_backbone, "precision", "fp16")
    monkeypatch.setattr(forecasting, "_WORTH_MEASURING", 0.0)
    line, time = forecast(files, 10**9, random_backbone, setting()).warnings(None)
    assert line == (
        "fp16 arithmetic is about 300.0 times slower than fp32 on this processor: `precision` fp32 is faster"
    )
    assert "hours for 1,000,000,000 images" in time


def test_nothing_is_measured_for_a_small_run(files, random_backbone, monkeypatch):
    monkeypatch.setattr(forecasting, "matrix_rate", None)
    found = forecast(files, 200, random_backbone, setting())
    assert found.seconds is None and found.warnings(None) == []


def test_nothing_is_known_of_functions_and_of_no_images(files, random_backbone):
    assert forecast(files, 200, colour_backbone(), setting()) is None
    assert setting_operations(colour_backbone(), setting(), (32, 48)) == 0.0
    assert forecast([], 0, random_backbone, setting()) is None
    assert forecast(files[3:4], 1, random_backbone, setting()) is None


def test_what_does_not_fit_and_what_takes_long_is_reported_with_the_parameter_that_helps():
    gib = 2.0**30
    fine = Forecast(10, 3599.0, (3000, 4000), 2 * gib, 3 * gib)
    assert fine.warnings(None) == []
    both = Forecast(19_817, 7200.0, (3000, 4000), 3 * gib, 2.5 * gib)
    memory, time = both.warnings(None)
    assert memory == (
        "images of 4000 x 3000 pixels need about 3.0 GiB each, and 2.5 GiB are free: "
        "`max_side` scales them down"
    )
    assert time == (
        "expected run time: 2.0 hours for 19,817 images here; `max_side` 2000 would take less than a quarter "
        "of it, at another resolution"
    )
    assert "`max_side` 400 " in both.warnings(800)[1]


def test_the_rate_of_a_matrix_product_is_plausible():
    rate = forecasting.matrix_rate(torch.device("cpu"), "fp32", side=64)
    assert 1e6 < rate < 1e15
