"""What images cost: operations against torch's own count, memory on CUDA, and what is said before a run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lost_reg.backbones.loading import load_backbone
from lost_reg.runs import forecast as workload
from lost_reg.runs.forecast import Forecast
from lost_reg.types import Protocol


def counted(function, *args) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        function(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("size_hw", [(32, 48), (64, 16)])
@pytest.mark.parametrize("layer", [-1, 0, -3])
def test_operations_are_those_that_torch_counts(random_backbone, size_hw, layer):
    images = torch.zeros(1, 3, *size_hw)
    expected = counted(random_backbone.features, images, "v", layer)
    assert workload.feature_operations(random_backbone, size_hw, layer) == expected


def test_operations_of_the_whole_model_are_those_that_torch_counts(random_backbone):
    expected = counted(random_backbone.model.forward_features, torch.zeros(1, 3, 32, 48))
    assert workload.forward_operations(random_backbone, (32, 48)) == expected


@pytest.mark.parametrize("name", ["dinov3_vits16", "timm:eva02_tiny_patch14_224"])
@pytest.mark.parametrize("layer", [-1, 0])
def test_operations_of_rotary_models_are_those_that_torch_counts(name, layer):
    backbone = load_backbone(name, weights="random", device="cpu")
    size_hw = (2 * backbone.patch_size, 3 * backbone.patch_size)
    images = torch.zeros(1, 3, *size_hw)
    expected = counted(backbone.features, images, "v", layer)
    assert workload.feature_operations(backbone, size_hw, layer) == expected
    expected = counted(backbone.model.forward_features, images)
    assert workload.forward_operations(backbone, size_hw) == expected


def test_operations_of_one_gram_matrix(random_backbone):
    patches = (32 // random_backbone.patch_size) * (48 // random_backbone.patch_size)
    features = torch.zeros(patches, random_backbone.model.embed_dim)
    assert workload.gram_operations(random_backbone, (32, 48)) == counted(torch.matmul, features, features.T)


def test_a_size_between_two_counts_as_the_larger(random_backbone):
    size = random_backbone.patch_size
    assert workload.patch_count((size + 1, 1), size) == 2
    assert workload.patch_count((1, 1), size) == 1


@pytest.fixture(scope="module")
def random_backbone_once():
    return load_backbone("tiny", weights="random", device="cpu")


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_more_pixels_and_more_images_take_more_memory(random_backbone_once, rows, columns, images):
    side = random_backbone_once.patch_size

    def needed(r, n):
        return workload.peak_bytes(random_backbone_once, (r * side, columns * side), n)

    assert needed(rows, images) < needed(rows + 1, images)
    assert needed(rows, images) < needed(rows, images + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "size_hw"), [("dinov2_vits14_reg", (476, 644)), ("dinov3_vits16", (480, 640))]
)
def test_memory_on_cuda_is_at_most_what_was_foretold(name, size_hw, precision):
    backbone = load_backbone(name, weights="random", device="cuda", precision=precision)
    images = torch.zeros(4, 3, *size_hw, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backbone.features(images)
    taken = torch.cuda.max_memory_allocated() - before
    foretold = workload.peak_bytes(backbone, size_hw, 4)
    assert 0.3 * foretold < taken < foretold


# How many images go together


def test_auto_keeps_the_device_busy_and_within_its_free_memory(random_backbone, monkeypatch):
    size = random_backbone.patch_size
    monkeypatch.setattr(workload, "free_bytes", lambda device: 1e12)
    assert workload.pixels_at_once(random_backbone) == 2**13 * size**2
    monkeypatch.setattr(workload, "free_bytes", lambda device: 1e6)
    few = workload.pixels_at_once(random_backbone)
    assert few < 2**13 * size**2
    monkeypatch.setattr(workload, "free_bytes", lambda device: 2e6)
    assert workload.pixels_at_once(random_backbone) == pytest.approx(2 * few)


def test_a_function_as_backbone_gets_as_many_as_keep_the_device_busy():
    backbone = load_backbone(lambda images: images, patch_size=8, device="cpu")
    assert workload.pixels_at_once(backbone) == 2**13 * 64


# What is said before a run


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


def test_a_run_is_judged_by_a_sample_of_its_images(files, random_backbone, monkeypatch):
    monkeypatch.setattr(workload, "_WORTH_MEASURING", 0.0)
    monkeypatch.setattr(workload, "matrix_rate", lambda device, precision: 1e6 / 0.6)

    def cost(size_hw):
        return workload.feature_operations(random_backbone, size_hw) + workload.gram_operations(
            random_backbone, size_hw
        )

    found = workload.forecast(files, 200, random_backbone, Protocol())
    expected = (20 * cost((60, 90)) + 179 * cost((20, 40))) / 199 * 200 / 1e6
    assert found.seconds == pytest.approx(expected)
    assert found.images == 200 and found.largest_hw == (60, 90)
    assert found.its_bytes == workload.peak_bytes(random_backbone, (60, 90))
    several = workload.forecast(files, 200, random_backbone, Protocol(max_objects=4))  # three more Grams
    grams = 20 * workload.gram_operations(random_backbone, (60, 90))
    grams += 179 * workload.gram_operations(random_backbone, (20, 40))
    assert several.seconds - found.seconds == pytest.approx(3 * grams / 199 * 200 / 1e6)
    scaled = workload.forecast(files, 200, random_backbone, Protocol(max_side=45))
    assert scaled.largest_hw == (30, 45) and scaled.seconds < found.seconds


def test_devices_share_the_time_and_an_unknown_number_of_images_has_none(files, random_backbone, monkeypatch):
    monkeypatch.setattr(workload, "_WORTH_MEASURING", 0.0)
    monkeypatch.setattr(workload, "matrix_rate", lambda device, precision: 1e6)
    alone, shared = (workload.forecast(files, 1000, random_backbone, Protocol(), n) for n in (1, 4))
    assert alone.seconds == pytest.approx(4 * shared.seconds)
    unknown = workload.forecast(files, None, random_backbone, Protocol())
    assert unknown.seconds is None and unknown.largest_hw == (60, 90)


def test_encoded_images_are_judged_like_files(files, random_backbone):
    encoded = [file.read_bytes() for file in files]
    assert workload.forecast(encoded, 200, random_backbone, Protocol()).largest_hw == (60, 90)


def test_a_precision_that_the_processor_emulates_is_said(files, random_backbone, monkeypatch):
    rates = {"fp32": 3e9, "bf16": 2.1e9, "fp16": 1e7}
    monkeypatch.setattr(workload, "matrix_rate", lambda device, precision, side=0: rates[precision])
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert workload.precision_slowdown(cpu, "fp16") == pytest.approx(300)
    assert workload.precision_slowdown(cpu, "bf16") is None is workload.precision_slowdown(cpu, "fp32")
    assert workload.precision_slowdown(cuda, "fp16") is None
    monkeypatch.setattr(random_backbone, "precision", "fp16")
    monkeypatch.setattr(workload, "_WORTH_MEASURING", 0.0)
    found = workload.forecast(files, 10**9, random_backbone, Protocol())
    line, time = found.warnings(Protocol())
    assert line == (
        "fp16 arithmetic is about 300.0 times slower than fp32 on this processor: --precision fp32 is quicker"
    )
    assert "hours for 1,000,000,000 images" in time


def test_nothing_is_measured_for_a_small_run(files, random_backbone, monkeypatch):
    monkeypatch.setattr(workload, "matrix_rate", None)
    found = workload.forecast(files, 200, random_backbone, Protocol())
    assert found.seconds is None and found.warnings(Protocol()) == []


def test_nothing_is_known_of_functions_and_of_no_images(files, random_backbone):
    function = load_backbone(lambda images: images, patch_size=8, device="cpu")
    assert workload.forecast(files, 200, function, Protocol()) is None
    assert workload.forecast([], 0, random_backbone, Protocol()) is None
    assert workload.forecast(files[3:4], 1, random_backbone, Protocol()) is None


def test_what_does_not_fit_and_what_takes_long_is_said_with_the_option_that_helps():
    gib = 2.0**30
    fine = Forecast(10, 3599.0, (3000, 4000), 2 * gib, 3 * gib)
    assert fine.warnings(Protocol()) == []
    both = Forecast(19_817, 7200.0, (3000, 4000), 3 * gib, 2.5 * gib)
    memory, time = both.warnings(Protocol())
    assert memory == (
        "images of 4000 x 3000 pixels need about 3.0 GiB each and 2.5 GiB are free: "
        "--max-side scales them down"
    )
    assert time == (
        "about 2.0 hours for 19,817 images on this device; --max-side 2000 would take less than a quarter of "
        "it, at another resolution"
    )
    assert "--max-side 400 " in both.warnings(Protocol(max_side=800))[1]


def test_the_rate_of_a_matrix_product_is_plausible():
    rate = workload.matrix_rate(torch.device("cpu"), "fp32", side=64)
    assert 1e6 < rate < 1e15
