"""Artifacts: distributions and probes by hand, the planted model (a test fixture), the command line."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch
from click.testing import CliRunner
from helpers import approximately, batches_of, names, refusal, scarce_memory

from lost_reg.artifacts.measure import ArtifactOptions, NormHistograms, measure
from lost_reg.artifacts.outliers import (
    CosineHistogram,
    Outliers,
    Probe,
    as_many_others,
    neighbour_cosines,
    position_cells,
)
from lost_reg.artifacts.token_stats import ImageStream, block_norms
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.neurons import RegisterNeurons
from lost_reg.backbones.registers import AddedRegisters
from lost_reg.cli.app import main
from lost_reg.datasets.catalog import find_dataset

ROOT = Path(__file__).parents[2]


# --- distributions, by hand ----------------------------------------------------------------------------


def test_quantiles_and_shares_are_exact_to_a_percent():
    norms = torch.rand(2, 3, 500, generator=torch.Generator().manual_seed(0)) * torch.tensor([10, 1000]).view(
        2, 1, 1
    )
    histograms = NormHistograms()
    for part in norms.split(1, dim=1):
        histograms.add(part)
    flat = norms.flatten(1).double()
    assert histograms.count == 1500
    for share in (0.25, 0.5, 0.98, 0.999):
        assert histograms.quantiles(share).tolist() == pytest.approx(
            flat.quantile(share, dim=1).tolist(), rel=0.02
        )
    for layer, cutoff in ((0, 3.0), (0, 9.9), (1, 3.0), (1, 700.0)):
        assert histograms.share_above(layer, cutoff) == pytest.approx(
            float((flat[layer] > cutoff).double().mean()), abs=0.01
        )
    assert histograms.largest.tolist() == flat.amax(dim=1).tolist()
    assert histograms.share_above(0, 10.0) == 0 and histograms.share_above(0, 1e-9) == pytest.approx(1)
    report = histograms.report()
    assert [sum(counts) for counts in report["counts"]] == [1500, 1500]
    last_edge = report["first_edge"] * report["ratio"] ** len(report["counts"][1])
    assert last_edge == pytest.approx(float(histograms.largest[1]), rel=0.011)


def test_norms_beyond_the_bins_are_counted_in_the_last():
    histograms = NormHistograms()
    histograms.add(torch.tensor([[[0.0, 1e-9, 1e9]]]))
    assert histograms.counts.sum() == 3 and histograms.share_above(0, 1.0) == pytest.approx(1 / 3)


def test_cosines_to_neighbours_by_hand():
    east, north = [1.0, 0.0], [0.0, 2.0]
    grid = torch.tensor([[east, east, north], [east, north, north]]).view(1, 6, 2)
    # row 0: (1 + 1) / 2; (1 + 0 + 0) / 3; (0 + 1) / 2; row 1: (1 + 0) / 2; (0 + 0 + 1) / 3; (1 + 1) / 2
    expected = [1, 1 / 3, 1 / 2, 1 / 2, 1 / 3, 1]
    assert neighbour_cosines(grid, (2, 3))[0].tolist() == pytest.approx(expected)
    assert neighbour_cosines(grid[:, :2], (1, 2))[0].tolist() == [1, 1]
    assert neighbour_cosines(grid[:, :1], (1, 1)).isnan().all()


def test_histogram_of_cosines_by_hand():
    cosines = CosineHistogram()
    assert cosines.report() is None
    cosines.add(torch.tensor([1.0, -1.0, 0.5, float("nan")]))
    report = cosines.report()
    assert report["count"] == 3 and report["mean"] == pytest.approx(1 / 6)
    assert [report["counts"][index] for index in (0, 75, 99)] == [1, 1, 1]


# --- probes, by hand -----------------------------------------------------------------------------------


def test_positions_in_cells_by_hand():
    assert position_cells((16, 16)).tolist() == list(range(256))
    # the middles of two rows are in cells 4 and 12; of one column, in cell 8
    assert position_cells((2, 1)).tolist() == [4 * 16 + 8, 12 * 16 + 8]


def test_as_many_others_as_outliers_of_each_image():
    outliers = torch.zeros(3, 20, dtype=torch.bool)
    outliers[0, :4] = True
    outliers[1, 7] = True
    others = as_many_others(outliers, torch.Generator().manual_seed(0))
    assert others.sum(dim=1).tolist() == [4, 1, 0] and not (others & outliers).any()


def test_a_probe_reads_what_is_there_and_no_more():
    random = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 256, (4000,), generator=random)
    pixels = torch.randn(4000, 12, generator=random)
    told = torch.cat([torch.nn.functional.one_hot(cells, 256) * 1.0, pixels], dim=1)
    for tokens, knows in ((told, True), (torch.randn(4000, 30, generator=random), False)):
        probe = Probe()
        assert probe.report() is None
        for start in (0, 1000):
            part = slice(start, start + 1000)
            probe.learn(tokens[part], cells[part], pixels[part])
        probe.test(tokens[2000:], cells[2000:], pixels[2000:])
        report = probe.report()
        assert (report["learned_from"], report["tested_on"]) == (2000, 2000)
        if knows:
            assert report["position_top1"] > 0.99 and report["position_distance"] < 0.1
            assert report["pixel_l2"] < 0.3
        else:
            assert report["position_top1"] < 0.02 and report["position_distance"] > 5
            assert report["pixel_l2"] == pytest.approx(math.sqrt(12), rel=0.05)


# --- the planted model, a test fixture -------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream():
    dataset = find_dataset("samples", ROOT / "data")
    paths = [dataset.root / name for name in dataset.images]
    return ImageStream(paths, dataset.images, max_side=224, apply_exif=False, workers=0)


@pytest.fixture
def plain():
    return load_backbone("tiny", device="cpu")


@pytest.fixture(scope="module")
def rows(stream):
    """What is measured of the fixture without the plant, with it, and with a test-time register."""
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    model, neurons = planted.plant(*batches_of(stream, plain))
    repaired = planted.with_registers(model, AddedRegisters(RegisterNeurons(tuple(neurons))))
    reference = measure(stream, plain)
    return [
        reference,
        measure(stream, model, reference=reference),
        measure(stream, repaired, reference=reference),
    ]


def test_counts_and_shares_of_the_planted_model(rows, stream):
    plain, model, repaired = rows
    patches = model["patches"]
    assert model["images"] == model["outliers"]["images_with_any"] == 16
    assert model["label"] == planted.NAME
    assert repaired["label"] == f"{planted.NAME} (1 test-time register at 3 neurons)"
    assert model["outliers"]["count"] == 16 * planted.PATCHES
    assert model["outliers"]["share"] == pytest.approx(16 * planted.PATCHES / patches)
    after, before = model["layers"][planted.LAYER], model["layers"][planted.LAYER - 1]
    assert after["largest"] > 3 * before["largest"]
    assert after["shares"]["sigma"] == pytest.approx(16 * planted.PATCHES / patches, abs=1e-3)
    assert plain["layers"][-2]["shares"]["reference"] == pytest.approx(0.02, abs=0.002)
    assert model["layers"][-2]["cutoffs"]["reference"] == plain["layers"][-2]["percentiles"]["98"]
    assert model["layers"][-2]["shares"]["reference"] > 1.5 * repaired["layers"][-2]["shares"]["reference"]
    assert repaired["layers"][-2]["largest"] < model["layers"][-2]["cutoffs"]["sigma"]


def test_the_seeds_and_neighbours_of_the_planted_model(rows):
    plain, model, _ = rows
    seeds = model["outliers"]["seeds"]
    assert seeds["images"] == 16 and seeds["share_by_chance"] == pytest.approx(0.03, abs=0.01)
    assert seeds["share"] >= 0.5 > plain["outliers"]["seeds"]["share"]
    cosines = model["outliers"]["neighbour_cosine"]
    assert cosines["outliers"]["count"] == 16 * planted.PATCHES
    assert cosines["outliers"]["mean"] > cosines["rest"]["mean"]  # of low texture, as they were chosen


def test_the_probes_of_the_planted_model(rows):
    probes = rows[1]["outliers"]["probes"]
    half = 8 * planted.PATCHES
    for probe in probes.values():
        assert (probe["learned_from"], probe["tested_on"]) == (half, half)
        assert 0 <= probe["position_top1"] <= 1 and probe["position_distance"] > 0 and probe["pixel_l2"] > 0


def test_moments_of_a_layer_are_those_of_all_patches(rows, stream):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    norms = torch.cat([block_norms(plain, images).flatten(1) for images in batches_of(stream, plain)], dim=1)
    row = rows[0]["layers"][3]
    assert row["mean"] == pytest.approx(float(norms[3].mean()), rel=1e-4)
    assert row["sigma"] == pytest.approx(float(norms[3].std(correction=0)), rel=1e-4)
    assert row["largest"] == pytest.approx(float(norms[3].max()), rel=1e-5)


def test_the_layer_decides(stream):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    few = ImageStream(stream.images[:2], stream.names[:2], max_side=96, apply_exif=False)
    norms = torch.cat([block_norms(plain, images)[1].flatten() for images in batches_of(few, plain)])
    cutoff = float(norms.quantile(0.9))
    outliers = measure(few, plain, ArtifactOptions(rule="fixed", cutoff=cutoff, layer=1))["outliers"]
    assert outliers["layer"] == 1 and outliers["count"] == int((norms > cutoff).sum())


def test_the_rule_decides(rows, stream):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    few = ImageStream(stream.images[:3], stream.names[:3], max_side=96, apply_exif=False)
    all_of_them = measure(few, plain, ArtifactOptions(rule="fixed", cutoff=1e-3))
    assert all_of_them["outliers"]["share"] == 1 and all_of_them["outliers"]["seeds"]["share"] == 1
    assert all_of_them["outliers"]["neighbour_cosine"]["rest"] is None
    assert all_of_them["outliers"]["probes"] == {"outliers": None, "rest": None}
    none = measure(few, plain, ArtifactOptions(rule="fixed", cutoff=1e6, layer=0))
    assert none["outliers"]["count"] == 0 and none["outliers"]["layer"] == 0
    assert none["outliers"]["probes"]["outliers"] is None
    by_reference = measure(few, plain, ArtifactOptions(rule="reference"), rows[0])
    assert by_reference["outliers"]["cutoff"] == rows[0]["layers"][-2]["percentiles"]["98"]


# --- what is refused, and the command line ---------------------------------------------------------------


def test_what_cannot_be_is_refused(stream, random_backbone):
    assert "unknown rule of outliers" in refusal(ArtifactOptions, rule="x")
    assert "cut-off above 0" in refusal(ArtifactOptions, cutoff=0)
    assert "has no layer 6" in refusal(measure, stream, random_backbone, ArtifactOptions(layer=6))
    function = load_backbone(lambda images: images, patch_size=14, device="cpu")
    assert "no blocks to look into" in refusal(measure, stream, function)
    shallow = {"backbone": "shallow", "layers": [{"percentiles": {"98": 1.0}}]}
    few = ImageStream(stream.images[:1], stream.names[:1], max_side=64)
    text = refusal(measure, few, random_backbone, ArtifactOptions(rule="reference"), shallow)
    assert text == "shallow, the reference, has no layer -2"


@pytest.fixture
def lost_reg():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def photos(tmp_path, save_scene):
    for index in range(3):
        save_scene(tmp_path / "photos" / f"{index}.png", seed=index)
    (tmp_path / "photos" / "broken.jpg").write_text("no image")
    return tmp_path / "photos"


def test_the_command_writes_json_and_figures(lost_reg, photos, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    models = ("-b", "tiny", "-b", "timm:vit_tiny_patch16_224")
    result = lost_reg("artifacts", photos, *models, "--weights", "random", "--out", out, "--cutoff", 20)
    assert result.exit_code == 0, result.output
    assert "above 20" in result.stdout and "tiny (RANDOM WEIGHTS)" in result.stdout
    assert "1 of 4 images could not be used: broken.jpg" in result.stderr
    assert names(out) == ["artifacts.json", "layers.png", "neighbours.png", "norms.png"]
    content = json.loads((out / "artifacts.json").read_text())
    assert [row["backbone"] for row in content["backbones"]] == ["tiny", "timm:vit_tiny_patch16_224"]
    assert [len(row["layers"]) for row in content["backbones"]] == [6, 12]
    assert content["about"]["reference"] == "tiny" and content["about"]["cutoff"] == 20
    first, second = content["backbones"]
    # of twelve layers, the last six have one of the reference beside them
    assert second["layers"][5]["shares"]["reference"] is None
    assert second["layers"][6]["cutoffs"]["reference"] == first["layers"][0]["percentiles"]["98"]
    again = lost_reg("artifacts", photos, *models, "--weights", "random", "--out", out)
    assert again.exit_code == 1 and "is there already" in again.stderr


def test_the_backbone_that_the_neurons_are_of_is_measured_with_registers_too(lost_reg, photos, tmp_path):
    pytest.importorskip("matplotlib")
    model, other = "timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224"
    file, out = tmp_path / "neurons.json", tmp_path / "out"
    file.write_text(json.dumps({"neurons": [[2, 1], [3, 0]], "backbone": model}))
    models = ("-b", other, "-b", model, "--weights", "random")
    added = ("--test-time-registers", 2, "--register-neurons", file)
    result = lost_reg("artifacts", photos, *models, *added, "--max-side", 64, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{model} (RANDOM WEIGHTS, 2 test-time registers at 2 neurons)" in result.stdout
    rows = json.loads((out / "artifacts.json").read_text())["backbones"]
    assert [row["backbone"] for row in rows] == [other, model, model]
    first, second, with_registers = (row["test_time_registers"] for row in rows)
    assert first is second is None and with_registers["count"] == 2
    assert rows[2]["layers"] != rows[1]["layers"]


@pytest.mark.parametrize(
    ("neurons", "arguments", "text"),
    [
        ({}, ("-b", "dino", "-b", "dinov2"), "does not say whether it is of dino_vits16 or dinov2_vitl14"),
        ({"backbone": "dinov2_vitl14"}, ("-b", "dino"), "those of dinov2_vitl14, and the backbone is dino"),
        ({}, ("-b", "dinov2", "--reference", "dino"), 'add "backbone" to it'),
        ({}, ("-b", "tiny"), "tiny was trained with 4 registers"),
        ({"backbone": "tiny"}, ("-b", "tiny", "-b", "dino"), "tiny was trained with 4 registers"),
    ],
)
def test_registers_for_no_backbone_or_any_are_refused(neurons, arguments, text, lost_reg, photos, tmp_path):
    file = tmp_path / "neurons.json"
    file.write_text(json.dumps({"neurons": [[2, 1]], **neurons}))
    added = ("--test-time-registers", 1, "--register-neurons", file)
    result = lost_reg("artifacts", photos, *arguments, *added, "--out", tmp_path / "out")
    assert result.exit_code != 0 and text in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_told_before_anything_is_measured(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("lost_reg.artifacts.measure.measure", lambda *args, **_: pytest.fail("measured"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    result = lost_reg("artifacts", photos, "-b", "tiny", "-b", "dinov2", "--out", tmp_path / "out")
    assert result.exit_code != 0 and "dinov2" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_batch_that_does_not_fit_the_memory_changes_nothing(stream, plain, monkeypatch):
    few = ImageStream(stream.images[:5], stream.names[:5], max_side=96, apply_exif=False, workers=0)
    expected = measure(few, plain)
    tried = scarce_memory(monkeypatch, plain, images_at_most=1)
    assert approximately(measure(few, plain), expected)
    assert max(tried) > 1


def test_looking_again_for_want_of_memory_sees_the_same(stream, plain):
    images = max(batches_of(stream, plain), key=len)
    outliers = Outliers(plain, 4, float(block_norms(plain, images)[4].quantile(0.95)))
    first, second = outliers.look(images), outliers.look(images)
    for kind, patches in first.to_probe.items():
        assert len(patches[0]) > 9 and all(map(torch.equal, patches, second.to_probe[kind]))


def test_an_image_that_does_not_fit_the_memory_is_a_failure(stream, plain, monkeypatch):
    few = ImageStream(stream.images[:5], stream.names[:5], max_side=96, apply_exif=False, workers=0)
    sizes = sorted(image.shape[2:].numel() for image in batches_of(few, plain))
    scarce_memory(monkeypatch, plain, pixels_at_most=sizes[-1] - 1)
    failures: list = []
    found = measure(few, plain, failures=failures)
    assert 0 < len(failures) == 5 - found["images"]
    assert all("out of memory on cpu at" in failure.reason for failure in failures)


def test_what_fits_the_memory_the_first_time_only_is_a_failure(stream, plain, monkeypatch):
    few = ImageStream(stream.images[:5], stream.names[:5], max_side=96, apply_exif=False, workers=0)
    whole, calls = plain.features, []

    def features(images, facet, layer):
        calls.append(len(images))
        if len(calls) == 1:  # the second pass alone asks for features
            raise torch.OutOfMemoryError("too much")
        return whole(images, facet, layer)

    monkeypatch.setattr(plain, "features", features)
    failures: list = []
    found = measure(replace(few, batch_size=1), plain, failures=failures)
    assert found["images"] == 4 and [failure.image for failure in failures] == [few.names[0]]


@pytest.mark.parametrize("fitting", [0, 1])
def test_a_half_of_which_nothing_fits_the_memory_is_left_out(fitting, stream, plain, monkeypatch):
    few = ImageStream(
        stream.images[:2], stream.names[:2], max_side=96, apply_exif=False, batch_size=1, workers=0
    )
    whole, calls = plain.features, []

    def features(images, facet, layer):
        calls.append(len(images))
        if len(calls) - 1 != fitting:
            raise torch.OutOfMemoryError("too much")
        return whole(images, facet, layer)

    monkeypatch.setattr(plain, "features", features)
    failures: list = []
    assert measure(few, plain, failures=failures)["images"] == 1
    assert [failure.image for failure in failures] == [few.names[1 - fitting]]
    calls[:] = [0] * 5  # none fits
    assert "not one of 2 images could be used" in refusal(measure, few, plain)


def test_what_was_measured_stays_when_a_later_backbone_is_refused(lost_reg, photos, tmp_path):
    out, deep = tmp_path / "out", "timm:vit_tiny_patch16_224"  # twelve layers, and tiny has six
    options = ("--weights", "random", "--layer", -10, "--limit", 1, "--max-side", 64, "--out", out)
    result = lost_reg("artifacts", photos, "-b", deep, "-b", "tiny", *options)
    assert result.exit_code == 1 and "tiny has no layer -10" in result.stderr
    (row,) = json.loads((out / "artifacts.json").read_text())["backbones"]
    assert row["backbone"] == deep


def test_a_folder_that_cannot_be_is_refused_before_any_measuring(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("lost_reg.artifacts.measure.measure", lambda *args, **_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    result = lost_reg("artifacts", photos, "-b", "tiny", "--out", tmp_path / "file")
    assert result.exit_code == 1 and "is no folder that can be written to" in result.stderr


def test_without_matplotlib_there_is_a_note(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lost_reg.artifacts.figures", None)
    result = lost_reg("artifacts", photos, "-b", "tiny", "--out", tmp_path / "out", "--limit", 2)
    assert result.exit_code == 0 and "Note: for figures, install matplotlib" in result.stderr
    assert names(tmp_path / "out") == ["artifacts.json"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-b", "dnio"), "unknown backbone 'dnio'"),
        (("-b", "tiny", "--reference", "dnio"), "unknown backbone 'dnio'"),
        (("-b", "tiny", "--cutoff", "-3"), "cut-off above 0"),
        (("-b", "tiny", "--layer", "9"), "has no layer 9"),
        (("-b", "tiny", "-b", "dino", "--weights", "x.pth"), "a weight file is of one backbone"),
    ],
)
def test_bad_input_is_one_line(arguments, text, lost_reg, photos, tmp_path):
    result = lost_reg("artifacts", photos, *arguments, "--out", tmp_path / "out")
    assert result.exit_code != 0 and text in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
