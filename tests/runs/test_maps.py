"""Maps: against a direct computation, in and out of files, and as `lost-reg run --save-maps` writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import names, refusal
from lost_oracle import oracle_lost

from lost_reg.backbones.loading import load_backbone
from lost_reg.cli.app import main
from lost_reg.discovery.maps import Maps
from lost_reg.runs import map_files
from lost_reg.runs.discover import discover_stream
from lost_reg.runs.map_files import maps_path, read_maps, write_maps
from lost_reg.types import Protocol

PROTOCOLS = [
    Protocol(),
    Protocol(facet="v", layer=-3, normalize=True, bias=-0.3),
    Protocol(normalize=True, k_patches=5),
    Protocol(bias=0.2),
]


def taken(images, backbone, protocol=PROTOCOLS[0], **options) -> dict[str, Maps]:
    """The maps of arrays, by their index."""
    found: dict[str, Maps] = {}
    names = [str(index) for index in range(len(images))]
    for outcome in discover_stream(
        zip(names, images), backbone, protocol, take_maps=found.__setitem__, **options
    ):
        assert outcome.image in found  # given before the outcome is
        assert outcome.seed == found[outcome.image].seed
    return found


def smooth(size_hw, seed=0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((40, 40, 1), np.uint8))[: size_hw[0], : size_hw[1]].copy()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
def test_maps_are_what_a_direct_computation_gives(protocol, random_backbone):
    images = [smooth((96, 128), seed=1), smooth((90, 120), seed=2)]  # of one grid, the second padded
    found = taken(images, random_backbone, protocol)
    for index, image in enumerate(images):
        batch = torch.zeros(1, 3, 96, 128)
        height, width = image.shape[:2]
        pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
        mean, std = torch.tensor(random_backbone.mean), torch.tensor(random_backbone.std)
        batch[0, :, :height, :width] = (pixels - mean[:, None, None]) / std[:, None, None]
        features = random_backbone.features(batch, protocol.facet, protocol.layer)[0].double().numpy()
        if protocol.normalize:
            features /= np.linalg.norm(features, axis=1, keepdims=True)
        bias = protocol.bias * (features**2).sum(axis=1).mean()
        gram = features @ features.T + bias
        expected = oracle_lost(features, (6, 8), protocol.k_patches, bias)
        seed = expected.seed[0] * 8 + expected.seed[1]
        degrees = (gram > 0).sum(axis=1) - (np.diag(gram) > 0)
        low = sorted(range(48), key=lambda p: (degrees[p], p))[: protocol.k_patches]
        similar = [p for p in low if gram[seed, p] > 0]
        maps = found[str(index)]
        assert not expected.ambiguous and maps.seed == expected.seed
        assert (maps.degrees.ravel() == degrees).all()
        assert maps.affinities.ravel() == pytest.approx(gram[seed].clip(min=0), rel=1e-4, abs=1e-5)
        assert (maps.mask.ravel() == (gram[similar].sum(axis=0) > 0)).all()
        assert maps.covered_hw == pytest.approx((height / 96, width / 128))


@pytest.mark.parametrize("layer", [-1, -4])
def test_norms_are_of_the_patch_tokens_that_enter_the_block(layer, random_backbone):
    image = smooth((96, 128))
    maps = taken([image], random_backbone, Protocol(layer=layer))["0"]
    outputs = []
    block_before = random_backbone.model.blocks[layer - 1]
    handle = block_before.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.inference_mode():
        list(random_backbone.block_outputs(torch.from_numpy(_normalised(image, random_backbone))))
    handle.remove()
    (output,) = outputs
    expected = np.linalg.norm(output[0, 5:].numpy(), axis=1)  # class token and four registers left out
    assert maps.norms.ravel() == pytest.approx(expected, rel=1e-5)


def _normalised(image, backbone) -> np.ndarray:
    return (((image / 255 - backbone.mean) / backbone.std).transpose(2, 0, 1)[None]).astype(np.float32)


def test_norms_of_a_function_are_those_of_its_features():
    def colours(images):
        return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT

    backbone = load_backbone(colours, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu")
    image = np.zeros((16, 24, 3), np.uint8)
    image[:8, :8] = 255, 128, 128
    maps = taken([image], backbone)["0"]
    assert maps.norms == pytest.approx(np.array([[1.0, 3**0.5, 3**0.5], [3**0.5] * 3]), abs=0.01)


def test_maps_cost_nothing_where_they_are_not_asked_for(random_backbone, monkeypatch):
    def fail(*_):
        raise AssertionError("maps were made")

    monkeypatch.setattr("lost_reg.runs.discover.batch_maps", fail)
    monkeypatch.setattr("lost_reg.runs.discover.features_and_norms", fail)
    assert len(list(discover_stream([("a", smooth((64, 64)))], random_backbone))) == 1


def test_images_without_usable_features_get_no_maps():
    def dark_is_nan(images):
        features = torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT
        return torch.where(features.mean(dim=(1, 2), keepdim=True) < -0.5, torch.nan, features)

    backbone = load_backbone(dark_is_nan, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, device="cpu")
    dark, light = np.zeros((16, 24, 3), np.uint8), np.full((16, 24, 3), 200, np.uint8)
    found: dict[str, Maps] = {}
    outcomes = list(
        discover_stream([("a", light), ("b", dark), ("c", light)], backbone, take_maps=found.__setitem__)
    )
    assert len(outcomes) == 3 and set(found) == {"a", "c"}
    assert found["c"].norms == pytest.approx(np.full((2, 3), found["c"].norms[0, 0]))


def test_the_backbone_runs_once_per_batch_with_maps_too(random_backbone, monkeypatch):
    calls = []
    original = type(random_backbone).patch_tokens
    monkeypatch.setattr(
        type(random_backbone), "patch_tokens", lambda *args: calls.append(args) or original(*args)
    )
    taken([smooth((64, 64), seed) for seed in range(4)], random_backbone, batch_size=4)
    assert len(calls) == 1


# --- files --------------------------------------------------------------------------------------------


def some_maps(rows=5, columns=7, **changed) -> Maps:
    random = np.random.default_rng(0)
    values = {
        "norms": random.uniform(20, 300, (rows, columns)).astype(np.float32),
        "degrees": random.integers(0, rows * columns, (rows, columns)).astype(np.float32),
        "affinities": random.uniform(-1, 1, (rows, columns)).clip(min=0).astype(np.float32),
        "mask": random.uniform(size=(rows, columns)) > 0.5,
        "seed": (2, 3),
        "covered_hw": (0.9, 1.0),
    }
    return Maps(**{**values, **changed})


def test_maps_come_back_within_half_a_level(tmp_path):
    maps = some_maps()
    write_maps(tmp_path / "sub" / "a.jpg.npz", maps)
    assert names(tmp_path) == ["sub", "sub/a.jpg.npz"]  # nothing half-written is left
    back = read_maps(tmp_path / "sub" / "a.jpg.npz")
    for name in ("norms", "degrees", "affinities"):
        values, read = getattr(maps, name), getattr(back, name)
        assert np.abs(values - read).max() <= (values.max() - values.min()) / 510 * 1.001
        assert read.dtype == np.float32
    assert (back.mask == maps.mask).all() and back.seed == (2, 3)
    assert back.covered_hw == pytest.approx((0.9, 1.0))


def test_a_small_positive_affinity_stays_positive(tmp_path):
    affinities = np.array([[0, 1e-6, 1000.0]], np.float32)
    maps = some_maps(1, 3, affinities=affinities, seed=(0, 2))
    write_maps(tmp_path / "a.npz", maps)
    assert (read_maps(tmp_path / "a.npz").affinities > 0).tolist() == [[False, True, True]]


def test_constant_maps_come_back(tmp_path):
    write_maps(tmp_path / "a.npz", some_maps(norms=np.full((5, 7), 3.5, np.float32)))
    assert (read_maps(tmp_path / "a.npz").norms == 3.5).all()


def test_files_are_small(tmp_path):
    write_maps(tmp_path / "a.npz", some_maps(37, 50))
    assert (tmp_path / "a.npz").stat().st_size < 8000


def test_images_of_one_stem_have_files_of_their_own(tmp_path):
    assert len({maps_path(tmp_path, name) for name in ("a.png", "a.jpg", "sub/a.jpg")}) == 3


@pytest.mark.parametrize(
    "changed",
    [{"seed": (5, 0)}, {"seed": (0, -1)}, {"mask": np.ones((7, 5), bool)}, {"covered_hw": (0.0, 1.0)}],
    ids=str,
)
def test_maps_that_cannot_be_are_refused(changed):
    with pytest.raises(ValueError, match="expected"):
        some_maps(**changed)


def test_a_missing_file_and_a_damaged_one_are_different_errors(tmp_path):
    assert "--save-maps" in refusal(read_maps, tmp_path / "none.npz")
    write_maps(tmp_path / "a.npz", some_maps())
    content = (tmp_path / "a.npz").read_bytes()
    for damaged in (
        b"",
        b"no archive",
        content[:100],
        content[:-30],
        content[:60] + b"\xff" * 60 + content[120:],
    ):
        (tmp_path / "b.npz").write_bytes(damaged)
        assert "does not hold maps" in refusal(read_maps, tmp_path / "b.npz")


def test_a_file_with_a_pickle_in_it_is_refused_and_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    write_maps(tmp_path / "a.npz", some_maps())
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "a.npz", **{**arrays, "norms": np.array([[Trap()]], dtype=object)})
    assert "does not hold maps" in refusal(read_maps, tmp_path / "a.npz")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("norms", np.zeros((5, 7), np.float32)),
        ("norms", np.zeros((4, 7), np.uint8)),
        ("ranges", np.full((3, 2), np.nan, np.float32)),
        ("ranges", np.zeros(5, np.float32)),
        ("seed", np.array([9, 9])),
        ("seed", np.array([1])),
        ("mask", np.zeros((2, 5, 7), np.uint8)),
    ],
)
def test_a_file_with_other_arrays_is_refused(tmp_path, name, value):
    write_maps(tmp_path / "a.npz", some_maps())
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "a.npz", **{**arrays, name: value})
    assert "does not hold maps" in refusal(read_maps, tmp_path / "a.npz")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "maps").write_text("a file")
    assert "cannot write the maps" in refusal(write_maps, tmp_path / "maps" / "a.npz", some_maps())


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was(tmp_path, monkeypatch):
    write_maps(tmp_path / "a.npz", some_maps())
    before = (tmp_path / "a.npz").read_bytes()

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(map_files.np, "savez_compressed", full)
    assert "No space left" in refusal(write_maps, tmp_path / "a.npz", some_maps())
    assert names(tmp_path) == ["a.npz"] and (tmp_path / "a.npz").read_bytes() == before


# --- run ----------------------------------------------------------------------------------------------


def lost_reg(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_a_run_writes_maps_on_request_and_a_resumed_one_those_that_are_missing(tmp_path, save_scene):
    for index, name in enumerate(("a.jpg", "sub/b.png", "c.png")):
        save_scene(tmp_path / "photos" / name, seed=index)
    out = tmp_path / "out"
    assert lost_reg("run", tmp_path / "photos", "--out", out, "--limit", 1).exit_code == 0
    assert "maps" not in names(out)
    assert lost_reg("run", tmp_path / "photos", "--out", out, "--resume", "--save-maps").exit_code == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert names(out / "maps") == ["c.png.npz", "sub", "sub/b.png.npz"]  # of the images done now
    for line in lines[1:]:
        maps = read_maps(maps_path(out / "maps", line["image"]))
        assert list(maps.seed) == line["seed"] and list(maps.mask.shape) == line["grid_hw"]
        assert maps.degrees[maps.seed] == pytest.approx(line["degree"], abs=0.5) == maps.degrees.min()


def test_maps_change_no_box(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.jpg")
    for name, options in (("with", ["--save-maps"]), ("without", [])):
        lost_reg("run", tmp_path / "photos", "--out", tmp_path / name, *options)
    read = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("with", "without")]
    assert read[0] == read[1]
