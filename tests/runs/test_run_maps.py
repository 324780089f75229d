"""Maps as runs make them: against a direct computation, and as `lost-reg run --save-maps` writes them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from colours import colour_backbone, patch_means, smooth
from helpers import names, setting
from lost_oracle import oracle_lost

from lost_reg import LoaderOptions, discover_stream
from lost_reg.cli.app import main
from lost_reg.discovery import methods
from lost_reg.discovery.methods import Setting
from lost_reg.runs import scheduler
from lost_reg.runs.map_files import maps_path, read_maps

CHANGES = [
    {},
    {"facet": "v", "layer": -3, "normalize": True, "bias": -0.3},
    {"normalize": True, "k_patches": 5},
    {"bias": 0.2},
]


def maps_of(images, backbone, chosen: Setting | None = None, batch_size: int = 8) -> dict:
    """The maps of arrays, by their index."""
    chosen = chosen or setting()
    found: dict = {}
    stream = [(str(index), image) for index, image in enumerate(images)]
    loader = LoaderOptions(batch_size=batch_size, workers=0)
    for outcome in discover_stream(
        stream, backbone, chosen.config, chosen.features, loader=loader, on_maps=found.__setitem__
    ):
        assert outcome.image in found  # given before the outcome is
        assert outcome.objects[0].seed == found[outcome.image].seed
    return found


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_maps_are_what_a_direct_computation_gives(changes, random_backbone):
    chosen = setting(**changes)
    images = [smooth((96, 128), seed=1), smooth((90, 120), seed=2)]  # of one grid, the second padded
    found = maps_of(images, random_backbone, chosen)
    for index, image in enumerate(images):
        batch = torch.zeros(1, 3, 96, 128)
        height, width = image.shape[:2]
        batch[0, :, :height, :width] = torch.from_numpy(normalised(image, random_backbone))[0]
        features = random_backbone.features(batch, chosen.features.facet, chosen.features.layer)
        features = features[0].double().numpy()
        if chosen.features.normalize:
            features /= np.linalg.norm(features, axis=1, keepdims=True)
        bias = chosen.config.bias * (features**2).sum(axis=1).mean()
        gram = features @ features.T + bias
        expected = oracle_lost(features, (6, 8), chosen.config.k_patches, bias)
        seed = expected.seed[0] * 8 + expected.seed[1]
        degrees = (gram > 0).sum(axis=1) - (np.diag(gram) > 0)
        low = sorted(range(48), key=lambda p: (degrees[p], p))[: chosen.config.k_patches]
        similar = [p for p in low if gram[seed, p] > 0]
        maps = found[str(index)]
        assert not expected.ambiguous and maps.seed == expected.seed
        assert list(maps.values) == ["norms", "degrees", "affinities"]
        assert (maps.values["degrees"].ravel() == degrees).all()
        assert maps.values["affinities"].ravel() == pytest.approx(gram[seed].clip(min=0), rel=1e-4, abs=1e-5)
        assert (maps.mask.ravel() == (gram[similar].sum(axis=0) > 0)).all()
        assert maps.covered_hw == pytest.approx((height / 96, width / 128))


def normalised(image, backbone) -> np.ndarray:
    """(H, W, 3) uint8 to (1, 3, H, W) float32."""
    return (((image / 255 - backbone.mean) / backbone.std).transpose(2, 0, 1)[None]).astype(np.float32)


@pytest.mark.parametrize("layer", [-1, -4, (-5, -2), (4, -5)])
def test_norms_are_of_the_patch_tokens_that_enter_the_deepest_block(layer, random_backbone):
    image = smooth((96, 128))
    maps = maps_of([image], random_backbone, setting(layer=layer))["0"]
    outputs = []
    depth = len(random_backbone.model.blocks)
    deepest = max(one % depth for one in (layer if isinstance(layer, tuple) else [layer]))
    block_before = random_backbone.model.blocks[deepest - 1]
    handle = block_before.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.inference_mode():
        list(random_backbone.block_outputs(torch.from_numpy(normalised(image, random_backbone))))
    handle.remove()
    (output,) = outputs
    expected = np.linalg.norm(output[0, 5:].numpy(), axis=1)  # class token and four registers left out
    assert maps.values["norms"].ravel() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layer", [-1, -3])
def test_attention_is_of_the_last_block_whatever_the_features(layer, random_backbone):
    images = [smooth((96, 128), seed=1), smooth((90, 120), seed=2)]  # of one grid, the second padded
    found = maps_of(images, random_backbone, setting(layer=layer))
    for index, image in enumerate(images):
        batch = torch.zeros(1, 3, 96, 128)
        height, width = image.shape[:2]
        batch[0, :, :height, :width] = torch.from_numpy(normalised(image, random_backbone))[0]
        (expected,) = random_backbone.prefix_attention(batch).double().unflatten(3, (6, 8)).numpy()
        attention = found[str(index)].attention
        assert list(attention) == ["class", "register 1", "register 2", "register 3", "register 4"]
        for weights, heads in zip(attention.values(), expected):  # (heads, 6, 8)
            assert weights.shape == (4, 6, 8)
            assert weights[0] == pytest.approx(heads.mean(axis=0), rel=1e-5)
            assert weights[1:] == pytest.approx(heads, rel=1e-5)


def test_norms_of_a_function_are_those_of_its_features(colours):
    image = np.zeros((16, 24, 3), np.uint8)
    image[:8, :8] = 255, 128, 128
    maps = maps_of([image], colours)["0"]
    assert maps.attention == {}  # a function has no blocks
    norms = maps.values["norms"]
    assert norms == pytest.approx(np.array([[1.0, 3**0.5, 3**0.5], [3**0.5] * 3]), abs=0.01)


def test_maps_cost_nothing_where_they_are_not_asked_for(random_backbone, monkeypatch):
    asked = []
    facets = random_backbone.facets

    def recording(images, parts):
        asked.append(list(parts))
        return facets(images, parts)

    def fail(*_):
        raise AssertionError("maps were made")

    monkeypatch.setattr(random_backbone, "facets", recording)
    monkeypatch.setattr(scheduler, "_hand_over_maps", fail)
    assert len(list(discover_stream([("a", smooth((64, 64)))], random_backbone, "lost"))) == 1
    assert asked == [[("k", -1)]]


def test_images_without_usable_features_get_no_maps():
    def dark_is_nan(images):
        features = patch_means(images)
        return torch.where(features.mean(dim=(1, 2), keepdim=True) < -0.5, torch.nan, features)

    dark, light = np.zeros((16, 24, 3), np.uint8), np.full((16, 24, 3), 200, np.uint8)
    found: dict = {}
    stream = [("a", light), ("b", dark), ("c", light)]
    outcomes = list(discover_stream(stream, colour_backbone(dark_is_nan), "lost", on_maps=found.__setitem__))
    assert len(outcomes) == 3 and set(found) == {"a", "c"}
    norms = found["c"].values["norms"]
    assert norms == pytest.approx(np.full((2, 3), norms[0, 0])) and norms[0, 0] > 0


def test_the_backbone_runs_once_per_batch_with_maps_too(random_backbone, monkeypatch):
    calls = []
    facets = random_backbone.facets
    monkeypatch.setattr(random_backbone, "facets", lambda *args: calls.append(args) or facets(*args))
    maps_of([smooth((64, 64), seed) for seed in range(4)], random_backbone, batch_size=4)
    assert len(calls) == 1


def test_a_method_without_maps_of_its_own_shows_the_mask_of_its_first_object(colours, monkeypatch):
    method = dataclasses.replace(methods.METHODS["lost"], maps=None)
    monkeypatch.setitem(methods.METHODS, "lost", method)
    image = np.zeros((16, 24, 3), np.uint8)
    image[:8, :8] = 255
    maps = maps_of([image], colours)["0"]
    assert list(maps.values) == ["norms"] and maps.seed == (0, 0)
    assert maps.mask.tolist() == [[True, False, False], [False] * 3]


def test_a_method_that_finds_nothing_has_an_empty_mask_and_no_box(colours, monkeypatch):
    nothing = dataclasses.replace(
        methods.METHODS["lost"], maps=None, discover=lambda features, _: lambda: [[] for _ in features.values]
    )
    monkeypatch.setitem(methods.METHODS, "lost", nothing)
    found: dict = {}
    (outcome,) = discover_stream(
        [("a", np.zeros((16, 24, 3), np.uint8))], colours, "lost", on_maps=found.__setitem__
    )
    assert outcome.objects == () and not found["a"].mask.any() and found["a"].mask.shape == (2, 3)


def test_maps_are_the_same_whatever_the_batch(random_backbone):
    images = [smooth((64, 64), seed) for seed in range(3)]
    one, three = (maps_of(images, random_backbone, batch_size=size) for size in (1, 3))
    for name in one:
        for kind, values in one[name].values.items():
            assert three[name].values[kind] == pytest.approx(values, rel=1e-4, abs=1e-4)


# --- run ----------------------------------------------------------------------------------------------


def lost_reg(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_a_run_writes_maps_on_request_and_a_resumed_one_those_that_are_missing(tmp_path, save_scene):
    for index, name in enumerate(("a.jpg", "sub/b.png", "c.png")):
        save_scene(tmp_path / "photos" / name, seed=index)
    out = tmp_path / "out"
    run = ("run", tmp_path / "photos", "--method", "lost", "--out", out)
    assert lost_reg(*run, "--limit", 1).exit_code == 0
    assert "maps" not in names(out)
    result = lost_reg(*run, "--resume", "--save-maps")
    assert result.exit_code == 0
    assert f"1 image in '{out}' has no maps" in result.stderr
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert names(out / "maps") == ["c.png.npz", "sub", "sub/b.png.npz"]  # of the images done now
    for line in lines[1:]:
        maps, first = read_maps(maps_path(out / "maps", line["image"])), line["objects"][0]
        degrees = maps.values["degrees"]
        assert maps.attention["class"].shape == (4, *line["grid_hw"]) and len(maps.attention) == 5
        assert list(maps.seed) == first["seed"] and list(maps.mask.shape) == line["grid_hw"]
        assert degrees[maps.seed] == pytest.approx(first["details"]["degree"], abs=0.5) == degrees.min()


def test_maps_change_no_box(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.jpg")
    for name, options in (("with", ["--save-maps"]), ("without", [])):
        lost_reg("run", tmp_path / "photos", "--out", tmp_path / name, *options)
    read = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("with", "without")]
    assert read[0] == read[1]
