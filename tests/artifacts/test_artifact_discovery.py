"""CorLoc of the measured images and what controls do: beside `run`, slow loops, and on the planted model."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from artifact_cases import LOADER
from helpers import approximately, batches_of, refusal
from scipy.stats import binomtest, t

from lost_reg.artifacts.discovery import ControlledDiscovery, adjusted, corloc_change
from lost_reg.artifacts.measure import measure
from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.datasets.catalog import find_dataset
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.lost import LostConfig
from lost_reg.discovery.methods import Setting
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.scoring.corloc import score
from lost_reg.types import Failure

ALL = ArtifactOptions(controls=("mean", "shuffled", "zeroed"))
SAMPLES = find_dataset("samples", Path(__file__).parents[2] / "data")


@pytest.fixture(scope="module")
def small(stream):
    return replace(stream, max_side=128)


@pytest.fixture(scope="module")
def plant(stream):
    """The fixture with planted artifacts, and its neurons."""
    plain = planted.without_registers(load_backbone("tiny", device="cpu"))
    return planted.plant(plain, *batches_of(stream, plain))


@pytest.fixture(scope="module")
def of_plant(stream, plant):
    """What is measured of it."""
    return measure(stream, plant[0], ALL, dataset=SAMPLES)


def by_variant(row):
    return {(one.control, one.group): one for one in row.controls}


@pytest.mark.parametrize(
    "lost, config", [("published", LostConfig()), ("normalized", LostConfig(bias="auto"))]
)
def test_untouched_corloc_is_that_of_a_run(lost, config, small, plain):
    setting = Setting(FeatureConfig(max_side=128, normalize=lost != "published"), config)
    images = zip(small.names, small.images)
    found = [one[0] for one in discover_by_each(images, plain, [setting], LOADER)]
    expected = score({one.image: one.box_xyxy for one in found}, SAMPLES.truths)
    options = ArtifactOptions(lost=lost)
    own = ControlledDiscovery(plain, 4, 20.0, options, small.places)
    of_images = [one for part in small.map_decoded(plain, own.find, []) for one in part]
    assert {one.name: one.untouched.box_xyxy for one in of_images} == {
        one.image: one.box_xyxy for one in found
    }
    discovery = measure(small, plain, options, dataset=SAMPLES).discovery
    assert 0 < discovery.found < discovery.images == 16
    assert asdict(discovery) == {name: getattr(expected, name) for name in asdict(discovery)}


def test_only_what_is_asked_for_is_measured(small, plain):
    few = small.part(range(4))
    assert measure(few, plain).discovery is None and measure(few, plain).controls == []
    without_truth = measure(few, plain, replace(ALL, controls=("zeroed",)))
    assert without_truth.discovery is None
    assert [(one.group, one.corloc, one.from_rest) for one in without_truth.controls] == [
        ("outliers", None, None),
        ("rest", None, None),
    ]


def test_discovery_hangs_on_the_planted_outliers_and_not_on_other_patches(of_plant):
    """Planting takes CorLoc away, so taking the outliers back gives it back; as many others change little."""
    changes = by_variant(of_plant)
    count = 16 * planted.PATCHES
    assert {(one.patches, one.images) for one in changes.values()} == {(count, 16)}
    assert of_plant.outliers.seeds.share > 0.5
    assert {one.seeds_on_outliers_before for one in changes.values()} == {of_plant.outliers.seeds.share}
    for control in ("mean", "zeroed"):
        outliers, rest = changes[control, "outliers"], changes[control, "rest"]
        assert outliers.seeds_on_outliers < 0.1 and outliers.seeds_moved > 0.5
        assert rest.seeds_on_outliers > 0.5 and rest.seeds_moved < 0.5
        assert outliers.corloc.difference > 50 > 20 > abs(rest.corloc.difference)
        assert outliers.corloc.p < 0.05 < rest.corloc.p and outliers.from_rest.p < 0.05
        assert outliers.corloc.interval[0] > 0
        assert rest.from_rest is None
    shuffled = changes["shuffled", "outliers"]  # the outliers of all images are alike
    assert shuffled.corloc.difference <= 0 and shuffled.seeds_on_outliers > 0.5


def test_differences_are_those_of_the_counts(of_plant):
    for one in of_plant.controls:
        change, untouched = one.corloc, of_plant.discovery
        found = untouched.found + change.only_after - change.only_before
        assert change.corloc == 100 * found / 16
        assert change.difference == pytest.approx(change.corloc - untouched.corloc)
    for one in of_plant.controls[::2]:
        (rest,) = (
            other for other in of_plant.controls if (other.control, other.group) == (one.control, "rest")
        )
        assert one.from_rest.difference == pytest.approx(one.corloc.corloc - rest.corloc.corloc)


def test_batches_do_not_matter(plant, stream):
    few = replace(stream, max_side=128).part(range(9))
    one_by_one, all_at_once = (
        measure(replace(few, loader=replace(LOADER, batch_size=size)), plant[0], ALL, dataset=SAMPLES)
        for size in (1, 9)
    )
    assert any(one.seeds_moved for one in one_by_one.controls)
    assert approximately(
        [asdict(one) for one in all_at_once.controls], [asdict(one) for one in one_by_one.controls]
    )


def test_the_seed_decides_on_the_other_patches(small, plain):
    few = small.part(range(6))
    options = ArtifactOptions(controls=("zeroed",), rule="fixed", cutoff=21.0)
    (first, rest), (again, other) = (
        measure(few, plain, replace(options, seed=seed)).controls for seed in (0, 1)
    )
    assert first == again and rest.patches == other.patches == first.patches > 0
    assert rest.class_cosine != other.class_cosine


@torch.inference_mode()
def test_class_tokens_by_hand(small, plain):
    """The blocks one after another, with the outliers of the last but one set to zero before the last."""
    few = small.part(range(8))
    cutoff = 25.5
    options = ArtifactOptions(controls=("zeroed",), rule="fixed", cutoff=cutoff)
    cosines, patches = [], 0
    for image in batches_of(replace(few, loader=replace(LOADER, batch_size=1)), plain):
        tokens = list(plain.block_outputs(image, with_prefix=True))
        entering = tokens[-2].clone()
        outliers = entering[0, 5:].norm(dim=1) > cutoff
        entering[0, 5:][outliers] = 0
        classes = [plain.model.norm(of[:, 0])[0] for of in (tokens[-1], plain.model.blocks[-1](entering))]
        patches += int(outliers.sum())
        if outliers.any():
            cosines.append(float(torch.cosine_similarity(*(one.double() for one in classes), dim=0)))
    change = measure(few, plain, options).controls[0]
    assert 2 <= len(cosines) == change.images < 8 and change.patches == patches
    assert (
        1 - change.class_cosine == pytest.approx(1 - np.mean(cosines), rel=1e-2) and min(cosines) < 1 - 1e-6
    )
    low, high = change.class_cosine_interval
    count = len(cosines)
    reach = t.ppf(0.975, count - 1) * np.std(cosines, ddof=1) / count**0.5
    assert (high - low) / 2 == pytest.approx(reach, rel=1e-2)


def test_the_layer_of_the_outliers_may_be_another(small, plain):
    few = small.part(range(3))
    for layer in (0, -1):
        norms = torch.cat(
            [
                list(plain.block_outputs(image))[layer].norm(dim=2).flatten()
                for image in batches_of(few, plain)
            ]
        )
        cutoff = float(norms.quantile(0.9))
        options = ArtifactOptions(controls=("mean",), rule="fixed", cutoff=cutoff, layer=layer)
        row = measure(few, plain, options)
        assert row.controls[0].patches == row.outliers.count == int((norms > cutoff).sum())


def test_test_time_registers_take_the_outliers_and_leave_little_to_control(stream, plant):
    model, neurons = plant
    repaired = planted.with_registers(model, AddedRegisters(RegisterNeurons(tuple(neurons))))
    row = measure(stream, repaired, replace(ALL, controls=("mean",)), dataset=SAMPLES)
    (outliers, _) = row.controls
    assert outliers.patches < 16 * planted.PATCHES and abs(outliers.corloc.difference) < 20


def test_p_values_are_adjusted_for_the_number_of_comparisons(of_plant):
    of_rest = [one.from_rest for one in of_plant.controls if one.from_rest]
    for changes, count in (([one.corloc for one in of_plant.controls], 6), (of_rest, 3)):
        assert len(changes) == count
        least = min(changes, key=lambda one: one.p)
        assert least.p_holm == pytest.approx(count * least.p) and least.p < least.p_holm < 1


def test_adjusted_p_values_by_hand():
    change = corloc_change(np.array([True, False]), np.array([False, False]))
    changes = {
        name: replace(change, p=p) for name, p in (("mean", 0.11), ("shuffled", 0.0075), ("zeroed", 0.011))
    }
    found = {name: one.p_holm for name, one in adjusted(changes).items()}
    # 3 x 0.0075; 2 x 0.011 = 0.022, but no less than that; 0.11
    assert found == pytest.approx({"mean": 0.11, "shuffled": 0.0225, "zeroed": 0.0225})


def test_mcnemar_and_intervals_by_hand():
    before = np.array([True, True, True, True, True, True, False, False, False, False])
    after = np.array([True, False, False, False, False, False, False, True, False, False])
    change = corloc_change(before, after)
    assert (change.only_before, change.only_after, change.corloc) == (5, 1, 20.0)
    assert change.difference == pytest.approx(-40) and change.interval[0] < -40 < change.interval[1]
    assert change.p == pytest.approx(binomtest(1, 6).pvalue) == pytest.approx(0.21875)
    nothing = corloc_change(before, before)
    assert (nothing.difference, nothing.interval, nothing.p) == (0, (0, 0), 1)


def test_unusable_images_are_misses(small, plain, monkeypatch):
    few = small.part(range(4))
    whole = ControlledDiscovery.find

    def find(self, part):
        results = whole(self, part)
        return [
            Failure(one.name, "made up") if one.name == few.names[2] else one for one in results
        ]  # fmt: skip

    expected = measure(few, plain, ALL, dataset=SAMPLES)
    monkeypatch.setattr(ControlledDiscovery, "find", find)
    failures: list = []
    row = measure(few, plain, ALL, dataset=SAMPLES, failures=failures)
    assert row.discovery.images == expected.discovery.images == 4 and row.discovery.unusable == 1
    assert row.failures == {few.names[2]: "made up"} and failures == [Failure(few.names[2], "made up")]


def test_what_fits_the_memory_until_the_controls_only_is_a_miss(small, plain, monkeypatch):
    few = replace(small.part(range(3)), loader=replace(LOADER, batch_size=1))
    whole, calls = plain.class_tokens_from, []

    def class_tokens_from(entering):
        calls.append(entering)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("too much")
        return whole(entering)

    monkeypatch.setattr(plain, "class_tokens_from", class_tokens_from)
    row = measure(few, plain, replace(ALL, controls=("mean",)), dataset=SAMPLES)
    assert list(row.failures) == [few.names[0]]
    assert (row.discovery.images, row.discovery.unusable) == (3, 1)


def test_features_that_are_not_finite_are_told(small, plain, monkeypatch):
    few, whole, calls = small.part(range(2)), plain.facets_from, []

    def facets_from(entering, parts):
        calls.append(entering)
        facets = whole(entering, parts)
        if len(calls) == 3:  # of outliers in the first image, when they have been changed
            facets[0] = torch.full_like(facets[0], torch.nan)
        return facets

    one_by_one = replace(few, loader=replace(LOADER, batch_size=1))
    options = replace(ALL, controls=("zeroed",))
    found = ControlledDiscovery(plain, 4, 1e6, options, few.places)
    monkeypatch.setattr(plain, "facets_from", facets_from)
    results = [one for part in one_by_one.map_decoded(plain, found.find, []) for one in part]
    assert [isinstance(one, Failure) for one in results] == [True, False]
    assert results[0].reason == "its features are not finite in fp32"


def test_memory_that_is_scarce_changes_nothing(small, plain, monkeypatch):
    few = small.part(range(5))
    expected = measure(few, plain, ALL, dataset=SAMPLES)
    whole = plain.facets_from

    def facets_from(entering, parts):
        if len(entering.tokens) > 1:
            raise torch.OutOfMemoryError("too much")
        return whole(entering, parts)

    monkeypatch.setattr(plain, "facets_from", facets_from)
    monkeypatch.setattr(plain, "facets", lambda images, parts: whole(plain._entering_first(images), parts))
    assert approximately(asdict(measure(few, plain, ALL, dataset=SAMPLES)), asdict(expected))


def test_progress_reaches_its_end(small, plain):
    few, reports = small.part(range(3)), []
    for options, truth, passes in (
        (ALL, None, 4),
        (ArtifactOptions(), SAMPLES, 3),
        (ArtifactOptions(), None, 2),
    ):
        reports.clear()
        measure(few, plain, options, dataset=truth, progress=lambda *one: reports.append(one))
        assert reports[-1] == (3 * passes, 0, 3 * passes)
        assert [done for done, *_ in reports] == sorted(done for done, *_ in reports)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"controls": ("median",)}, "unknown control 'median': choose among mean, shuffled, zeroed"),
        ({"controls": ("mean", "mean")}, "a control is given twice"),
        ({"lost": "best"}, "unknown `lost` 'best'"),
        ({"seed": -1}, "`seed` of at least 0"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    assert said in refusal(partial(ArtifactOptions, **options))
