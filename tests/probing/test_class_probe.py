"""The class probe: which tokens it takes, what it counts, and that it continues."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from artifact_cases import not_finite_where_flat
from colours import colour_backbone
from helpers import refusal
from small_models import small_backbone

from lost_reg.artifacts.options import ArtifactOptions
from lost_reg.artifacts.streams import ImageStream
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.probing import class_probe, extraction, kept_sweep, logistic
from lost_reg.probing.class_probe import ClassProbeOptions, probe_classes, rows_of
from lost_reg.probing.cutoffs import measured_cutoff
from lost_reg.probing.labelled import LabelledDataset, LabelledPart
from lost_reg.probing.measures import value
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import read_outcomes, read_probe
from lost_reg.probing.token_cache import TokenCache
from lost_reg.probing.tokens import KINDS, Tokens, check_kinds, tokens_of
from lost_reg.runs.options import LoaderOptions
from lost_reg.training.checkpoints import Checkpoint, write_checkpoint

LOADER = LoaderOptions(workers=0, batch_size=3)
CROP = {"resize": 56, "crop": 56}  # 4 x 4 patches of 14
COLOURS = ((230, 40, 40), (40, 200, 60), (50, 60, 220))


@pytest.fixture(autouse=True)
def fewer_values_of_c(monkeypatch):
    monkeypatch.setattr(logistic, "CS", logistic.CS[16:33:8])


def coloured(count: int, first: int) -> LabelledPart:
    """Images whose class is the colour of what is in the middle, before noise."""
    random = np.random.default_rng(first)
    labels = np.arange(count) % 3
    images = random.integers(90, 160, (count, 56, 56, 3), dtype=np.uint8)
    for image, label in zip(images, labels):
        image[14:42, 14:42] = COLOURS[label]
    return LabelledPart([f"{first + index}" for index in range(count)], list(images), labels)


@pytest.fixture(scope="module")
def colours() -> LabelledDataset:
    parts = {"train": coloured(30, 0), "val": coloured(9, 30), "test": coloured(24, 60)}
    return LabelledDataset("colours", ("red", "green", "blue"), parts)


@pytest.fixture
def backbone():
    return small_backbone("MLP")


def test_tokens_are_those_of_the_model(backbone, colours):
    part = colours.parts["test"]
    stream = ImageStream(part.images, part.names, loader=LOADER, crop=(56, 56))
    first = next(stream.map_batches(backbone, lambda images: images, []))
    norms = list(backbone.block_outputs(first))[2].norm(dim=2)  # (3, 16)
    cutoff = float(norms.flatten().sort().values[-8])  # 7 of the patches are outliers
    seeds = {name: (0, int(name)) for name in part.names}
    job = Tokens(("cls", "normal", "outlier", "mean"), 2, cutoff, seeds, LOADER, (56, 56))
    batch = next(tokens_of(stream, backbone, job, []))
    assert batch.names == list(part.names[:3]) and batch.tokens.shape == (3, 4, 48)
    *_, last = backbone.block_outputs(first)
    of_patches, tokens = backbone.model.norm(last), torch.from_numpy(batch.tokens)
    assert torch.allclose(tokens[:, 0], backbone.class_tokens(first), atol=1e-4)
    assert torch.allclose(tokens[:, 3], of_patches.mean(dim=1), atol=1e-4)
    is_outlier = norms > cutoff
    for image in range(3):
        for column, allowed in ((1, ~is_outlier[image]), (2, is_outlier[image])):
            if not allowed.any():
                assert tokens[image, column].isnan().all()
            else:
                distances = (of_patches[image] - tokens[image, column]).norm(dim=1)
                assert distances.min() < 1e-3 and allowed[distances.argmin()]
    assert 1 <= is_outlier.any(dim=1).sum() <= 3


def test_patches_are_drawn_by_the_seed_whatever_the_batch(backbone, colours):
    part = colours.parts["test"]

    def drawn(seed, batch_size):
        loader = replace(LOADER, batch_size=batch_size)
        stream = ImageStream(part.images, part.names, loader=loader, crop=(56, 56))
        seeds = {name: (seed, int(name)) for name in part.names}
        batches = tokens_of(stream, backbone, Tokens(("normal",), 2, np.inf, seeds, loader, (56, 56)), [])
        return np.concatenate([one.tokens[:, 0] for one in batches])

    assert drawn(0, 3) == pytest.approx(drawn(0, 8), abs=1e-4)
    assert np.abs(drawn(0, 3) - drawn(1, 3)).max() > 1


@pytest.mark.parametrize("test_time", [False, True])
def test_the_register_is_the_first(test_time):
    added = AddedRegisters(RegisterNeurons(((1, 3),)), 2, "paper")
    backbone = small_backbone("MLP", added) if test_time else load_backbone("tiny")
    assert check_kinds(backbone, None) == KINDS
    images = torch.randn(2, 3, backbone.patch_size * 3, backbone.patch_size * 3)
    *_, tokens = backbone.block_outputs(images, with_prefix=True)
    made = Tokens(("register",), 0, 1.0, {}, LOADER)._of_batch(backbone, images).prefix["register"]
    assert torch.allclose(made, backbone.model.norm(tokens[:, 1]), atol=1e-5)


def test_the_cut_off(backbone, colours):
    part = colours.parts["train"]
    stream = ImageStream(part.images, part.names, loader=LOADER, crop=(56, 56))

    def norms_of(images):
        return list(backbone.block_outputs(images))[2].norm(dim=2)

    batches = stream.map_batches(backbone, norms_of, [])
    norms = torch.cat([one.flatten() for one in batches]).double()
    expected = norms.mean() + 3 * norms.std(correction=0)
    assert measured_cutoff(stream, backbone, ArtifactOptions()) == pytest.approx(float(expected))
    assert measured_cutoff(stream, backbone, ArtifactOptions(rule="fixed", cutoff=7.0)) == 7.0
    of_reference = ArtifactOptions(rule="reference")
    assert "give its artifacts.json as `cutoff`" in refusal(measured_cutoff, stream, backbone, of_reference)


def probe(dataset, backbone, folder, **options):
    chosen = ClassProbeOptions(**{**CROP, **options})
    return probe_classes(dataset, backbone, folder, chosen, ProbeOptions(LOADER))


def test_colours_are_read_from_the_mean_of_all_patches(colours, backbone, tmp_path):
    record, outcomes = probe(colours, backbone, tmp_path)
    scores = {(one.tokens, one.classifier): one for one in record.scores}
    assert [one.key for one in record.scores] == [
        (kind, classifier, "top1")
        for kind in ("cls", "normal", "outlier", "mean")
        for classifier in ("logistic", "knn")
    ]
    mean = scores["mean", "logistic"]
    assert mean.value > 0.9 and mean.interval[0] <= mean.value <= mean.interval[1]
    assert (mean.train, mean.val, mean.test, mean.without) == (30, 9, 24, {})
    assert mean.chosen["C"] in logistic.CS
    for score, rows in zip(record.scores, outcomes.rows):
        covered = ~np.isnan(rows[:, 0])
        assert rows.shape == (24, 1) and covered.sum() == score.test
        assert score.test + score.without.get("test", 0) == 24
        if score.value is not None:
            assert score.value == value("top1", rows[covered])
    assert list(outcomes.names) == colours.parts["test"].names
    assert record.settings["crop"] == 56 and record.settings["images"] == {"train": 30, "val": 9, "test": 24}
    assert read_probe(tmp_path) == record
    again = read_outcomes(tmp_path, record)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(again.rows, outcomes.rows))


def test_images_without_an_outlier_are_counted(colours, backbone, tmp_path):
    none = ArtifactOptions(rule="fixed", cutoff=1e6)
    record, outcomes = probe(colours, backbone, tmp_path, tokens=("outlier", "normal"), outliers=none)
    (normal, _, outlier, _) = record.scores
    assert (normal.train, normal.without, normal.value is None) == (30, {}, False)
    assert (outlier.value, outlier.interval, outlier.test) == (None, None, 0)
    assert outlier.without == {"train": 30, "val": 9, "test": 24}
    assert outlier.too_few == "no training image has an outlier"
    assert np.isnan(outcomes.rows[2]).all()


def test_an_interrupted_probe_continues(colours, backbone, tmp_path, monkeypatch):
    whole, _ = probe(colours, backbone, tmp_path / "whole")
    add, added = extraction.TokenCache.add, []

    def stop_after_some(self, images, tokens):
        if len(added) == 4:
            with self._tokens.open("ab") as file:
                file.write(b"half a record")  # as a kill leaves it
            raise KeyboardInterrupt
        added.append(len(images))
        add(self, images, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(extraction.TokenCache, "add", stop_after_some)
        with pytest.raises(KeyboardInterrupt):
            probe(colours, backbone, tmp_path / "part")
    assert sum(added) == 12

    def count(self, images, tokens):
        added.append(len(images))
        add(self, images, tokens)

    monkeypatch.setattr(extraction.TokenCache, "add", count)
    monkeypatch.setattr(extraction, "measured_cutoff", lambda *_: pytest.fail("measured again"))
    text = refusal(probe, colours, backbone, tmp_path / "part", seed=1)
    assert "holds unfinished work with other settings (seed): choose another `out`" in text
    text = refusal(probe, replace(colours, name="other"), backbone, tmp_path / "part")
    assert "with other settings (dataset)" in text
    continued, _ = probe(colours, backbone, tmp_path / "part")
    assert sum(added) == 63 and continued == whole == read_probe(tmp_path / "part")
    assert {path.name for path in (tmp_path / "part").iterdir()} - {".lock"} == {"probe.json", "outcomes.npz"}


def test_kinds_that_were_scored_are_not_fitted_again(colours, backbone, tmp_path, monkeypatch):
    whole, of_whole = probe(colours, backbone, tmp_path / "whole")
    choose, fits = class_probe.choose_c, []

    def stop_at_the_third(*arguments):
        if len(fits) == 2:
            raise KeyboardInterrupt
        fits.append(1)
        return choose(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(class_probe, "choose_c", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            probe(colours, backbone, tmp_path / "part")

    def count(*arguments):
        fits.append(1)
        return choose(*arguments)

    monkeypatch.setattr(class_probe, "choose_c", count)
    learned = sum(score.value is not None for score in whole.scores) // 2
    assert learned > 2
    continued, outcomes = probe(colours, backbone, tmp_path / "part")
    assert len(fits) == learned and continued == whole
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outcomes.rows, of_whole.rows))


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupted_choice_of_c_continues_on_the_same_images(
    fails, colours, backbone, tmp_path, monkeypatch
):
    """If one image failed at first, for want of memory, there is another one to learn from: begin again."""
    monkeypatch.setattr(kept_sweep, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    fit, kinds, fits = logistic.fit_logistic, ("mean",), []
    flat = np.full_like(colours.parts["train"].images[0], 200)
    train = replace(colours.parts["train"], images=[flat, *colours.parts["train"].images[1:]])
    dataset = replace(colours, parts={**colours.parts, "train": train})
    whole, of_whole = probe(dataset, backbone, tmp_path / "whole", tokens=kinds)
    with monkeypatch.context() as patch:
        patch.setattr(logistic, "fit_logistic", stop_after(fit, 2))
        if fails:
            not_finite_where_flat(backbone, patch)
        with pytest.raises(KeyboardInterrupt):
            probe(dataset, backbone, tmp_path / "part", tokens=kinds)

    def count(*arguments, **named):
        fits.append(1)
        return fit(*arguments, **named)

    monkeypatch.setattr(logistic, "fit_logistic", count)
    continued, outcomes = probe(dataset, backbone, tmp_path / "part", tokens=kinds)
    assert len(fits) == (4 if fails else 2) and continued == whole
    assert all(np.array_equal(a, b) for a, b in zip(outcomes.rows, of_whole.rows))
    assert {path.name for path in (tmp_path / "part").iterdir()} - {".lock"} == {"probe.json", "outcomes.npz"}


def test_what_is_learned_from_does_not_depend_on_the_order_of_the_cache(colours, tmp_path):
    count = sum(len(part) for part in colours.parts.values())
    random = np.random.default_rng(0)
    tokens, found = random.normal(size=(count, 1, 4)).astype(np.float32), []
    for name, order in (("a", np.arange(count)), ("b", random.permutation(count))):
        (tmp_path / name).mkdir()
        cache = TokenCache(tmp_path / name, 1, 4)
        cache.add(order, tokens[order])
        extracted = extraction.Extraction(None, [], cache, cache.images())
        found.append(class_probe.TokenData.of(colours, extracted, 0, torch.device("cpu")))
    for split in ("train", "val", "test"):
        for a, b in zip(*(data.of_split(split) for data in found)):
            assert len(a) and torch.equal(a, b)


def test_a_device_that_is_too_small_to_learn_on_is_told(colours, backbone, tmp_path, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(class_probe, "choose_c", too_much)
        text = refusal(probe, colours, backbone, tmp_path, tokens=("mean",))
    assert text.startswith("out of memory on cpu while learning from 63 images: what was done is kept")
    monkeypatch.setattr(extraction, "tokens_of", lambda *_: pytest.fail("made again"))
    assert probe(colours, backbone, tmp_path, tokens=("mean",))[0].scores[0].value is not None


def test_what_was_kept_of_a_choice_and_is_damaged_is_told(tmp_path):
    images, model = torch.arange(3), logistic.Logistic(torch.ones(2, 4), torch.ones(2))
    kept = kept_sweep.KeptSweep(tmp_path, images)
    assert kept.read(torch.device("cpu")) == logistic.Sweep()
    kept.keep(logistic.Sweep(5, 0.5, 0.1, model))
    assert not any(tmp_path.iterdir())  # a minute has not passed
    write_checkpoint(tmp_path, Checkpoint(5, {}, {"images": images, "weights": model.weights}))
    assert "is not of this probe: delete it to begin again" in refusal(kept.read, torch.device("cpu"))


def test_a_kind_that_was_scored_on_other_tokens_is_fitted_again(colours, backbone, tmp_path, monkeypatch):
    """An image that failed, for want of memory, is among the tokens of the next call."""
    stop = pytest.MonkeyPatch()
    stop.setattr(class_probe, "write_probe", stop_after(class_probe.write_probe, 1))
    not_finite_where_flat(backbone, stop)
    train = colours.parts["train"]
    with_flat = replace(train, images=[np.full_like(train.images[0], 200), *train.images[1:]])
    dataset = replace(colours, parts={**colours.parts, "train": with_flat})
    with pytest.raises(KeyboardInterrupt):
        probe(dataset, backbone, tmp_path / "out", tokens=("cls", "mean"))
    assert read_probe(tmp_path / "out" / "unfinished" / "cls").scores[0].train == 29
    stop.undo()
    record, _ = probe(dataset, backbone, tmp_path / "out", tokens=("cls", "mean"))
    assert [one.train for one in record.scores] == [30] * 4 and record.failures == {}


def stop_after(function, calls):
    """The function, but it is interrupted after so many calls."""
    done = []

    def stopping(*arguments, **named):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return function(*arguments, **named)

    return stopping


def test_images_that_cannot_be_used_are_named(colours, backbone, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    test, train = colours.parts["test"], colours.parts["train"]
    parts = {
        **colours.parts,
        "test": replace(test, images=[tmp_path / "bad.png", *test.images[1:]]),
        "train": replace(train, images=[*train.images[:5], tmp_path / "bad.png", *train.images[6:]]),
    }
    record, outcomes = probe(replace(colours, parts=parts), backbone, tmp_path / "out", tokens=("cls",))
    assert set(record.failures) == {"60", "5"}
    assert (record.scores[0].train, record.scores[0].test, record.scores[0].without) == (29, 23, {})
    assert np.isnan(outcomes.rows[0][0]).all() and np.isfinite(outcomes.rows[0][1:]).all()


def test_an_image_whose_norms_are_not_finite_is_named_and_the_others_are_probed(
    colours, backbone, tmp_path, monkeypatch
):
    train = colours.parts["train"]
    flat = np.full_like(train.images[0], 200)
    with_flat = replace(train, images=[*train.images[:5], flat, *train.images[6:]])
    without = train.of(np.arange(30) != 5)
    some = {"tokens": ("normal", "outlier")}
    expected, _ = probe(
        replace(colours, parts={**colours.parts, "train": without}), backbone, tmp_path / "a", **some
    )
    not_finite_where_flat(backbone, monkeypatch)
    record, _ = probe(
        replace(colours, parts={**colours.parts, "train": with_flat}), backbone, tmp_path / "b", **some
    )
    assert list(record.failures) == ["5"] and record.failures["5"].endswith("not finite in fp32")
    assert record.settings["cutoff"] == expected.settings["cutoff"]
    assert [one.train + one.without.get("train", 0) for one in record.scores] == [29] * 4


def test_several_classes_of_an_image_are_scored_by_the_map(colours, backbone, tmp_path):
    def several(part):
        labels = np.stack([part.labels == 0, part.labels < 2], axis=1).astype(np.int8)
        labels[:3, 1] = -1  # such as an image with difficult objects alone
        return replace(part, labels=labels)

    parts = {split: several(part) for split, part in colours.parts.items()}
    dataset = LabelledDataset("several", ("red", "not blue"), parts, measure="map")
    record, outcomes = probe(dataset, backbone, tmp_path, tokens=("mean",))
    for score, rows in zip(record.scores, outcomes.rows):
        assert rows.shape == (24, 2) and score.measure == "map"
        assert score.value == value("map", rows, parts["test"].labels) > 0.8
    assert np.array_equal(read_outcomes(tmp_path, record).truth, parts["test"].labels)


def test_a_measure_of_classes_of_unequal_size():
    scores = np.eye(2)[[0, 0, 0, 0]]
    truth = np.array([0, 0, 0, 1])
    rows = rows_of("mean_per_class", scores, truth)
    assert (value("top1", rows), value("mean_per_class", rows, truth)) == (0.75, 0.5)


def test_what_is_refused(colours, backbone, tmp_path):
    assert check_kinds(backbone, ("mean", "cls")) == ("cls", "mean")
    assert "has no registers: choose other `tokens`" in refusal(check_kinds, backbone, ("register",))
    assert "unknown kind of token 'klass' in `tokens`" in refusal(check_kinds, backbone, ("klass",))
    assert "has no class token" in refusal(check_kinds, small_backbone("no class token"), ("cls",))
    assert check_kinds(small_backbone("no class token"), None) == ("normal", "outlier", "mean")
    assert "no transformer blocks" in refusal(check_kinds, colour_backbone(), None)
    assert "at most `resize`, but got 300 and 256" in refusal(ClassProbeOptions, crop=300)
    assert "has no layer 9" in refusal(
        probe, colours, backbone, tmp_path, outliers=ArtifactOptions(layer=9), tokens=("cls",)
    )
    (tmp_path / "file").touch()
    assert "cannot write" in refusal(probe, colours, backbone, tmp_path / "file", tokens=("cls",))
    (tmp_path / "tokens.bin").symlink_to("/dev/full")
    assert "what was done is kept, the same command continues" in refusal(TokenCache, tmp_path, 1, 8)


def test_the_square_fits_the_patches():
    assert ClassProbeOptions().crop_of(14) == ClassProbeOptions().crop_of(16) == (256, 224)
    assert ClassProbeOptions(resize=20, crop=20).crop_of(14) == (20, 14)
    assert ClassProbeOptions(resize=5, crop=5).crop_of(14) == (14, 14)
