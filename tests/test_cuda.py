"""On a GPU results are as on the CPU, and memory is as expected and may run out.

LOST_REG_TEST_DEVICE=cpu rehearses what does not need CUDA itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from click.testing import CliRunner
from helpers import config_of, find, setting
from lost_cases import lost, same

from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import RULES, AddedRegisters, RegisterNeurons
from lost_reg.cli.app import main as command_line
from lost_reg.datasets.catalog import find_dataset
from lost_reg.discovery.features import PatchFeatures
from lost_reg.discovery.lost import LOST, LostConfig
from lost_reg.discovery.method import Method
from lost_reg.discovery.methods import METHODS
from lost_reg.images.batching import DecodedImage
from lost_reg.notebook.discover import discover_stream
from lost_reg.runs.folder import read_run
from lost_reg.runs.forecast import pixels_at_once
from lost_reg.runs.options import LoaderOptions
from lost_reg.types import Failure

DEVICE = os.environ.get("LOST_REG_TEST_DEVICE", "cuda")
ROOT = Path(__file__).parents[1]
ON_CUDA = torch.cuda.is_available() and DEVICE != "cpu"

pytestmark = pytest.mark.skipif(DEVICE != "cpu" and not ON_CUDA, reason="needs a CUDA device")
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="needs a CUDA device")


@pytest.fixture(scope="module")
def files():
    dataset = find_dataset("samples", ROOT / "data")
    return [dataset.root / name for name in dataset.images]


def noise(count: int, size_hw=(224, 224)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for _ in range(count)]


def batch_of(backbone, images) -> torch.Tensor:
    hw = images[0].shape[:2]
    return normalized([DecodedImage("", image, hw, hw) for image in images], backbone)


# --- as on the CPU -----------------------------------------------------------------------------------


def test_lost_is_the_cpus():
    """Integers, so that no rounding differs; many ties, which topk alone would break in its own way."""
    random = torch.Generator().manual_seed(9)
    for grid_hw in [(1, 1), (5, 7), (37, 50)]:
        features = torch.randint(-2, 3, (6, grid_hw[0] * grid_hw[1], 8), generator=random).float()
        bias = torch.tensor([0.0, -1, 1, -2, 0, -30])
        on_device = lost(features.to(DEVICE), grid_hw, bias=bias.to(DEVICE))
        assert same(on_device, lost(features, grid_hw, bias=bias))


def test_several_settings_and_several_objects_are_the_cpus():
    random = torch.Generator().manual_seed(3)
    features = torch.randint(-2, 3, (5, 12 * 9, 8), generator=random).float()
    settings = [LostConfig(bias=bias) for bias in (0.0, -1.0, -3.0)]

    def boxes(device: str) -> list:
        there = PatchFeatures(features.to(device), (12, 9), [(12.0, 9.0)] * 5)
        found = [one() for one in LOST.boxes_by_each(there, settings)]
        found.append(LOST.discover(there, LostConfig(max_objects=3))())
        return [[[one.box_xyxy for one in image] for image in images] for images in found]

    assert boxes(DEVICE) == boxes("cpu")


@pytest.mark.parametrize("name", ["tiny", "dino_vits16", "dinov2_vits14_reg", "dinov3_vits16"])
def test_float32_keys_are_the_cpus(name):
    weights = None if name == "tiny" else "random"
    keys = []
    for device in (DEVICE, "cpu"):
        backbone = load_backbone(name, weights=weights, device=device)
        keys.append(backbone.features(batch_of(backbone, noise(2))).cpu())
    error = (keys[0] - keys[1]).norm(dim=2) / keys[1].norm(dim=2)
    assert error.max() < 1e-4  # TF32 would be off by 1e-3


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.06), ("fp16", 0.01)])
def test_low_precision_is_as_exact_as_it_can_be(precision, most):
    low = load_backbone("tiny", device=DEVICE, precision=precision)
    full = load_backbone("tiny", device="cpu")
    keys = low.features(batch_of(low, noise(2))).float().cpu()
    expected = full.features(batch_of(full, noise(2)))
    assert ((keys - expected).norm(dim=2) / expected.norm(dim=2)).median() < most


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_boxes_are_the_cpus(files, batch_size):
    expected = find(files, load_backbone("tiny", device="cpu"))
    found = find(files, load_backbone("tiny", device=DEVICE), batch_size=batch_size, workers=2)
    same_boxes = sum(one.box_xyxy == other.box_xyxy for one, other in zip(found, expected, strict=True))
    assert same_boxes >= len(files) - 1  # rounding may decide one


def test_images_without_finite_features_are_failures_and_others_are_not():
    backbone = load_backbone("tiny", device=DEVICE)
    whole = backbone.facets

    def facets(images, parts):
        found = [part.clone() for part in whole(images, parts)]
        found[0][1] = torch.nan
        return found

    backbone.facets = facets
    images = zip("abc", noise(3))
    outcomes = {}
    for outcome in discover_stream(images, backbone, "lost", loader=LoaderOptions(workers=0)):
        outcomes[outcome.image] = outcome
    assert [name for name, one in outcomes.items() if isinstance(one, Failure)] == ["b"]


def test_a_run_from_the_command_line(tmp_path):
    arguments = ["run", "--dataset", "samples", "--data-root", ROOT / "data", "--device", DEVICE]
    out = tmp_path / "out"
    arguments += ["--precision", "bf16", "--save-maps", "--out", out]
    done = CliRunner().invoke(command_line, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    results = read_run(out)
    assert len(results.predictions) == 16 and not results.failures
    assert results.record["sessions"][0]["device"].startswith(DEVICE)
    assert len(list((out / "maps").rglob("*.npz"))) == 16


# --- registers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_test_time_registers_are_the_cpus(rule):
    added = AddedRegisters(RegisterNeurons(((2, 5), (0, 3), (2, 7), (11, 0))), count=2, rule=rule)
    keys = []
    for device in (DEVICE, "cpu"):
        backbone = load_backbone("dino_vits16", weights="random", device=device, registers=added)
        keys.append(backbone.features(batch_of(backbone, noise(2))).cpu())
    assert torch.allclose(*keys, rtol=1e-3, atol=1e-3)


def test_planted_neurons_are_found(files):
    tiny = planted.without_registers(load_backbone("tiny", device="cpu"))
    planted_model, neurons = planted.plant(tiny, batch_of(tiny, noise(4)))
    there = planted.moved(planted_model, DEVICE, "fp32")
    stream = ImageStream(files[:6], [file.name for file in files[:6]], max_side=224)
    found = find_register_neurons(stream, there, SearchOptions(top_k=3))
    assert set(found.neurons) == set(neurons)


# --- memory ------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "size_hw"), [("dinov2_vits14_reg", (476, 644)), ("dinov3_vits16", (480, 640))]
)
def test_a_backbone_needs_at_most_the_memory_that_was_expected(name, size_hw, precision):
    backbone = load_backbone(name, weights="random", device=DEVICE, precision=precision)
    images = torch.zeros(4, 3, *size_hw, device=DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backbone.features(images)
    needed = torch.cuda.max_memory_allocated() - before
    expected = backbone.cost.peak_bytes(size_hw, 4)
    assert 0.3 * expected < needed < expected


def features_for(
    method: Method, images: int, grid_hw: tuple[int, int], width: int, device: str
) -> PatchFeatures:
    """Features of a few noisy clusters, in as many parts as the method joins as published, with attention."""
    generator = torch.Generator().manual_seed(0)
    patches, parts = grid_hw[0] * grid_hw[1], len(method.presets["published"].features.parts)
    centres = torch.randn(images, 5, width, generator=generator)
    labels = torch.randint(5, (images, patches, 1), generator=generator).expand(-1, -1, width)
    one = centres.gather(1, labels) + 0.6 * torch.randn(images, patches, width, generator=generator)
    attention = torch.rand(images, 6, patches, generator=generator).softmax(dim=2)
    values, extents = torch.cat([one] * parts, dim=2), [tuple(map(float, grid_hw))] * images
    return PatchFeatures(values.to(device), grid_hw, extents, parts, attention=attention.to(device))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda one: one.name)
def test_a_method_finds_what_it_finds_on_the_cpu(method):
    config = config_of(method, 48)
    here, there = (
        method.discover(features_for(method, 6, (18, 22), 48, device), config)() for device in ("cpu", DEVICE)
    )
    assert [[one.box_xyxy for one in found] for found in there] == [
        [one.box_xyxy for one in found] for found in here
    ]


@needs_cuda
@pytest.mark.parametrize("method", METHODS.values(), ids=lambda one: one.name)
def test_a_method_needs_at_most_the_memory_that_was_expected(method):
    features = features_for(method, 8, (60, 50), 768, DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    method.discover(features, config_of(method, 768))()
    assert torch.cuda.max_memory_allocated() - before <= method.peak_bytes(8, 3000)


@pytest.fixture
def little_memory():
    """A function that leaves this process only so much memory on the device beyond what it holds."""
    total = torch.cuda.get_device_properties(0).total_memory

    def leave(size: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


@needs_cuda
def test_a_batch_that_does_not_fit_is_halved_and_finds_the_same(little_memory):
    backbone, images = load_backbone("tiny", device=DEVICE), noise(32, (448, 448))
    expected = find(images, backbone, batch_size=4)
    little_memory(backbone.cost.peak_bytes((448, 448), 4) + 64 * 2**20)
    assert find(images, backbone, batch_size=32) == expected


@needs_cuda
def test_an_image_that_does_not_fit_alone_is_a_failure(little_memory):
    backbone = load_backbone("tiny", device=DEVICE)
    little_memory(backbone.cost.peak_bytes((448, 448), 1))
    images = [("large", noise(1, (2016, 2016))[0]), ("small", noise(1, (64, 64))[0])]
    outcomes = list(discover_stream(images, backbone, setting().config, loader=LoaderOptions(workers=0)))
    reasons = {one.image: one.reason for one in outcomes if isinstance(one, Failure)}
    assert list(reasons) == ["large"] and "out of memory on cuda" in reasons["large"]


@needs_cuda
def test_auto_keeps_the_device_busy():
    backbone = load_backbone("dinov2_vitb14_reg", weights="random", device=DEVICE)
    assert pixels_at_once(backbone, [LOST]) >= 8 * 476 * 644
