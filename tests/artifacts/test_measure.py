"""Measuring artifacts: on the planted model (a test fixture), with scarce memory, and what is refused."""

from __future__ import annotations

from dataclasses import asdict, replace

import planted
import pytest
import torch
from artifact_cases import LOADER, backbone_artifacts, not_finite_where_flat
from helpers import approximately, batches_of, refusal, scarce_memory

from lost_reg.artifacts.measure import measure
from lost_reg.artifacts.norms import block_norms
from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons


@pytest.fixture(scope="module")
def rows(stream):
    """What is measured of the fixture without the plant, with it, and with a test-time register."""
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    model, neurons = planted.plant(plain, *batches_of(stream, plain))
    repaired = planted.with_registers(model, AddedRegisters(RegisterNeurons(tuple(neurons))))
    reference = measure(stream, plain)
    return [
        reference,
        measure(stream, model, reference=reference),
        measure(stream, repaired, reference=reference),
    ]


def test_counts_and_shares_of_the_planted_model(rows, stream):
    plain, model, repaired = rows
    patches = model.patches
    assert model.images == model.outliers.images_with_any == 16
    assert model.label == "tiny with planted artifacts"
    assert repaired.label == "tiny with planted artifacts (1 test-time register at 3 neurons)"
    assert model.outliers.count == 16 * planted.PATCHES
    assert model.outliers.share == pytest.approx(16 * planted.PATCHES / patches)
    after, before = model.layers[2], model.layers[1]  # planted in the middle of six
    assert after.largest > 3 * before.largest
    assert after.shares["sigma"] == 16 * planted.PATCHES / patches
    assert plain.layers[-2].shares["reference"] == pytest.approx(0.02, abs=0.002)
    assert model.layers[-2].cutoffs["reference"] == plain.layers[-2].percentiles["98"]
    assert model.layers[-2].shares["reference"] > 1.5 * repaired.layers[-2].shares["reference"]
    assert repaired.layers[-2].largest < model.layers[-2].cutoffs["sigma"]


def test_the_seeds_and_neighbours_of_the_planted_model(rows):
    plain, model, _ = rows
    seeds = model.outliers.seeds
    assert seeds.images == 16 and seeds.share_by_chance == pytest.approx(0.03, abs=0.01)
    assert seeds.share >= 0.5 > plain.outliers.seeds.share
    cosines = model.outliers.neighbour_cosine
    assert cosines["outliers"].count == 16 * planted.PATCHES
    assert cosines["outliers"].mean > cosines["rest"].mean  # of low texture, as they were chosen


def test_the_probes_of_the_planted_model(rows):
    probes = rows[1].outliers.probes
    half = 8 * planted.PATCHES
    for probe in probes.values():  # too few for tokens of 192 numbers
        assert (probe.learned_from, probe.tested_on, probe.tested_images) == (half, half, 8)
        assert probe.too_few == f"too few patches ({half} of 386)"
        assert probe.position_top1 is probe.position_distance is probe.pixel_l2 is None


def test_probes_of_enough_images_have_intervals(plain):
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (128, 128, 3), generator=random).byte().numpy() for _ in range(42)]
    stream = ImageStream(images, [str(index) for index in range(42)], loader=LOADER)
    first = torch.cat([block_norms(plain, batch)[4].flatten() for batch in batches_of(stream, plain)])
    options = ArtifactOptions(rule="fixed", cutoff=float(first.quantile(0.7)))
    for probe in measure(stream, plain, options).outliers.probes.values():
        assert probe.learned_from >= 386 and probe.tested_images == 21 and not probe.too_few
        for name, (low, high) in probe.intervals.items():
            assert low < getattr(probe, name) < high, name


def test_moments_of_a_layer_are_those_of_all_patches(rows, stream):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    norms = torch.cat([block_norms(plain, images).flatten(1) for images in batches_of(stream, plain)], dim=1)
    row = rows[0].layers[3]
    assert row.mean == pytest.approx(float(norms[3].mean()), rel=1e-4)
    assert row.sigma == pytest.approx(float(norms[3].std(correction=0)), rel=1e-4)
    assert row.largest == pytest.approx(float(norms[3].max()), rel=1e-5)


def test_shares_are_exact_and_the_outliers_share_is_that_of_its_layer(rows, stream):
    """Counted by hand, patch by patch: no share is read from a histogram, and there is one for one thing."""
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    norms = torch.cat([block_norms(plain, images).flatten(1) for images in batches_of(stream, plain)], dim=1)
    for row in rows:
        assert row.outliers.share == row.outlier_layer.shares["sigma"] == row.outliers.count / row.patches
    for found, of_layer in zip(rows[0].layers, norms.double(), strict=True):
        for rule, cutoff in found.cutoffs.items():
            assert found.shares[rule] == float((of_layer > cutoff).double().mean()), (found.layer, rule)


def test_the_layer_decides(stream):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    few = ImageStream(stream.images[:2], stream.names[:2], max_side=96, loader=LOADER)
    norms = torch.cat([block_norms(plain, images)[1].flatten() for images in batches_of(few, plain)])
    cutoff = float(norms.quantile(0.9))
    outliers = measure(few, plain, ArtifactOptions(rule="fixed", cutoff=cutoff, layer=1)).outliers
    assert outliers.layer == 1 and outliers.count == int((norms > cutoff).sum())


def test_the_rule_decides(rows, stream):
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    few = ImageStream(stream.images[:3], stream.names[:3], max_side=96, loader=LOADER)
    all_of_them = measure(few, plain, ArtifactOptions(rule="fixed", cutoff=1e-3))
    assert all_of_them.outliers.share == 1 and all_of_them.outliers.seeds.share == 1
    assert all_of_them.outliers.neighbour_cosine["rest"] is None
    assert all_of_them.outliers.probes == {"outliers": None, "rest": None}
    none = measure(few, plain, ArtifactOptions(rule="fixed", cutoff=1e6, layer=0))
    assert none.outliers.count == 0 and none.outliers.layer == 0
    assert none.outliers.probes["outliers"] is None
    by_reference = measure(few, plain, ArtifactOptions(rule="reference"), rows[0])
    assert by_reference.outliers.cutoff == rows[0].layers[-2].percentiles["98"]


def test_a_batch_that_does_not_fit_the_memory_changes_nothing(stream, plain, monkeypatch):
    few = ImageStream(stream.images[:5], stream.names[:5], max_side=96, loader=LOADER)
    expected = asdict(measure(few, plain))
    tried = scarce_memory(monkeypatch, plain, images_at_most=1)
    assert approximately(asdict(measure(few, plain)), expected)
    assert max(tried) > 1


def test_an_image_that_does_not_fit_the_memory_is_a_failure(stream, plain, monkeypatch):
    few = ImageStream(stream.images[:5], stream.names[:5], max_side=96, loader=LOADER)
    sizes = sorted(image.shape[2:].numel() for image in batches_of(few, plain))
    scarce_memory(monkeypatch, plain, pixels_at_most=sizes[-1] - 1)
    failures: list = []
    found = measure(few, plain, failures=failures)
    assert 0 < len(failures) == 5 - found.images
    assert all("out of memory on cpu at" in failure.reason for failure in failures)


def test_what_fits_the_memory_the_first_time_only_is_a_failure(stream, plain, monkeypatch):
    few = ImageStream(stream.images[:5], stream.names[:5], max_side=96, loader=LOADER)
    whole, calls = plain.features, []

    def features(images):
        calls.append(len(images))
        if len(calls) == 1:  # the second pass alone asks for features
            raise torch.OutOfMemoryError("too much")
        return whole(images)

    monkeypatch.setattr(plain, "features", features)
    failures: list = []
    found = measure(replace(few, loader=replace(LOADER, batch_size=1)), plain, failures=failures)
    assert found.images == 4 and [failure.image for failure in failures] == [few.names[0]]


@pytest.mark.parametrize("fitting", [0, 1])
def test_a_half_of_which_nothing_fits_the_memory_is_left_out(fitting, stream, plain, monkeypatch):
    one_by_one = replace(LOADER, batch_size=1)
    few = ImageStream(stream.images[:2], stream.names[:2], max_side=96, loader=one_by_one)
    whole, calls = plain.features, []

    def features(images):
        calls.append(len(images))
        if len(calls) - 1 != fitting:
            raise torch.OutOfMemoryError("too much")
        return whole(images)

    monkeypatch.setattr(plain, "features", features)
    failures: list = []
    assert measure(few, plain, failures=failures).images == 1
    assert [failure.image for failure in failures] == [few.names[1 - fitting]]
    calls[:] = [0] * 5  # none fits
    assert "none of the 2 images could be used" in refusal(measure, few, plain)


def test_what_cannot_be_is_refused(stream, random_backbone):
    assert "unknown outlier rule" in refusal(ArtifactOptions, rule="x")
    assert "a finite `cutoff` above 0" in refusal(ArtifactOptions, cutoff=0)
    assert "a finite `cutoff` above 0" in refusal(ArtifactOptions, cutoff=float("inf"))
    assert "has no layer 6" in refusal(measure, stream, random_backbone, ArtifactOptions(layer=6))
    function = load_backbone(lambda images: images, device="cpu", preprocessing=Preprocessing(14))
    assert "no transformer blocks" in refusal(measure, stream, function)
    shallow = backbone_artifacts("shallow")
    shallow = replace(shallow, backbone="shallow", layers=shallow.layers[:1])
    few = ImageStream(stream.images[:1], stream.names[:1], max_side=64)
    text = refusal(measure, few, random_backbone, ArtifactOptions(rule="reference"), shallow)
    assert text == "shallow, the reference, has no layer -2"


def test_an_image_whose_norms_are_not_finite_is_left_out(stream, plain, monkeypatch):
    few = replace(stream, max_side=128).part(range(3))
    expected = measure(few, plain)
    flat = torch.full((64, 64, 3), 200, dtype=torch.uint8).numpy()
    with_flat = replace(few, images=[flat, *few.images], names=["flat", *few.names])
    not_finite_where_flat(plain, monkeypatch, in_first_alone=True)
    row = measure(with_flat, plain)
    reason = f"norms of {plain.name} are not finite in fp32"
    assert row.failures == {"flat": reason} and row.images == 3
    assert approximately(asdict(replace(row, failures={})), asdict(expected))
    only = with_flat.part([0])
    assert refusal(measure, only, plain) == f"the only image could not be used: flat ({reason})"
