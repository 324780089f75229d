"""Linear evaluation from folders to outcomes, with the bundled backbone."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_cases import SIDE, write_depth, write_png, write_segmentation
from harness import decoded
from helpers import names, refusal
from small_models import small_backbone

from lost_reg.backbones.base import normalized
from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.registers import AddedRegisters, RegisterNeurons
from lost_reg.datasets.pixel_labels import find_depth, find_segmentation
from lost_reg.probing import dense, dense_heads, dense_labels
from lost_reg.probing.dense import probe_dense
from lost_reg.probing.dense_heads import DepthHead
from lost_reg.probing.dense_options import DenseOptions
from lost_reg.probing.measures import value
from lost_reg.probing.options import ProbeOptions
from lost_reg.probing.records import PROBE_FILE, read_outcomes, read_probe
from lost_reg.runs.heads import WORK_FOLDER
from lost_reg.runs.options import LoaderOptions
from lost_reg.training.feature_cache import FeatureCache

HOW = ProbeOptions(LoaderOptions(workers=0))
FAST = DenseOptions(steps=40, learning_rate=0.02)


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny", device="cpu")


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    return find_segmentation(str(write_segmentation(tmp_path_factory.mktemp("squares"))), None)


@pytest.fixture(scope="module")
def probed(segmentation, tiny, tmp_path_factory):
    """A folder with a probe of segmentation, and its record."""
    out = tmp_path_factory.mktemp("probed") / "out"
    return out, probe_dense(segmentation, tiny, out, "segmentation", FAST, HOW)


def test_colours_are_segmented(probed, segmentation):
    _, record = probed
    (score,) = record.scores
    assert (record.task, record.classes, record.dataset) == ("segmentation", 3, segmentation.name)
    assert (score.tokens, score.classifier, score.measure) == ("patches", "linear", "miou")
    assert (score.train, score.val, score.test) == (6, 0, 3)
    assert score.value > 0.7  # logits are interpolated, so the edges of squares are off
    assert score.interval[0] <= score.value <= score.interval[1]
    assert record.failures == {}
    assert record.settings["protocol"]["steps"] == 40


def test_what_is_written(probed):
    out, record = probed
    assert names(out) == ["outcomes.npz", "probe.json"]
    assert read_probe(out) == record
    outcomes = read_outcomes(out, record)
    assert outcomes.names == tuple(f"val/images/{seed}.png" for seed in (1000, 1001, 1002))
    (rows,) = outcomes.rows
    assert value("miou", rows) == record.scores[0].value
    # each pixel counts once: all truths, and all predictions, are those of 64 x 64 pixels
    both, either = np.split(rows, 2, axis=1)
    assert ((both + either).sum(axis=1) == 2 * SIDE**2).all()


def test_depths_of_colours(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(dense_labels, "PIXELS", 64)
    monkeypatch.setattr(dense_heads, "_WARM_UP_STEPS", 0)  # till then, only the mean is learned
    data = find_depth(str(write_depth(tmp_path / "squares")), None)
    options = DenseOptions(steps=50, learning_rate=0.02, max_side=SIDE)
    record = probe_dense(data, tiny, tmp_path / "out", "depth", options, HOW)
    (score,) = record.scores
    assert (record.task, record.classes, score.measure) == ("depth", 0, "rmse")
    assert 0 < score.value < 1.3  # always the mean would be 2.1
    assert record.settings["max_depth"] == 10
    (rows,) = read_outcomes(tmp_path / "out", record).rows
    assert rows.shape == (3, 1) and rows.mean() == pytest.approx(score.value)


def test_a_probe_is_new_or_that_of_the_same_settings(probed, segmentation, tiny, tmp_path):
    out, _ = probed
    again = segmentation, tiny, out, "segmentation", FAST, HOW
    assert "exists already: choose another `out`" in refusal(probe_dense, *again)
    stopped(segmentation, tiny, tmp_path)
    other = replace(FAST, steps=41)
    text = refusal(probe_dense, segmentation, tiny, tmp_path, "segmentation", other, HOW)
    assert "other settings (protocol)" in text
    os.utime(segmentation.train[0].labels, (1, 1))  # labels that changed since
    text = refusal(probe_dense, segmentation, tiny, tmp_path, "segmentation", FAST, HOW)
    assert "other settings (files)" in text


def test_an_error_says_what_continues_a_probe(segmentation, tiny, tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "features").touch()
    text = refusal(probe_dense, segmentation, tiny, tmp_path, "segmentation", FAST, HOW)
    assert text.startswith("cannot write to") and text.endswith("the same command continues")


def stopped(data, backbone, out, phase="training", options=FAST):
    """A probe that is interrupted in the middle of a phase."""

    def progress(what, unit="image"):
        def report(done, failed, total):
            if what == phase and done >= total // 2 > 0:
                raise KeyboardInterrupt

        return report

    with pytest.raises(KeyboardInterrupt):
        probe_dense(data, backbone, out, "segmentation", options, HOW, progress=progress)


@pytest.mark.parametrize("phase", ["labels", "features", "training", "test"])
def test_an_interrupted_probe_continues(phase, probed, segmentation, tiny, tmp_path, monkeypatch):
    stopped(segmentation, tiny, tmp_path, phase)
    assert not (tmp_path / PROBE_FILE).exists()
    seen, whole = [], tiny.last_tokens

    def counted(images, **options):
        seen.append(len(images))
        return whole(images, **options)

    monkeypatch.setattr(tiny, "last_tokens", counted)
    record = probe_dense(segmentation, tiny, tmp_path, "segmentation", FAST, HOW)
    assert record == probed[1]
    assert sum(seen) == {"labels": 6 + 3, "features": 3 + 3}.get(phase, 3)
    mine, others = (read_outcomes(out, record).rows[0] for out in (tmp_path, probed[0]))
    assert (mine == others).all()


def test_an_interrupted_probe_of_views_continues(segmentation, tiny, tmp_path):
    options, data = replace(FAST, views=3), segmentation.limited(5, seed=0)
    whole = probe_dense(data, tiny, tmp_path / "whole", "segmentation", options, HOW)
    assert (whole.scores[0].train, whole.settings["views"]) == (5, 3)
    assert whole.scores[0].value > 0.7  # labels of enlarged and mirrored crops lie where they should
    stopped(data, tiny, tmp_path / "stopped", "features", options)
    with FeatureCache(tmp_path / "stopped" / WORK_FOLDER / "features", 1e9) as cache:
        assert len(cache) == 7  # the last image has some of its views
    again = probe_dense(data, tiny, tmp_path / "stopped", "segmentation", options, HOW)
    assert again == whole


def test_images_that_cannot_be_used_are_recorded(tiny, tmp_path):
    folder = write_segmentation(tmp_path / "squares", train=3, test=3)
    (folder / "train" / "images" / "1.png").write_bytes(b"?")
    (folder / "val" / "images" / "1001.png").write_bytes(b"?")
    write_png(folder / "val" / "labels" / "1002.png", np.full((SIDE, SIDE), 255, np.uint8))
    data = find_segmentation(str(folder), None)
    record = probe_dense(data, tiny, tmp_path / "out", "segmentation", DenseOptions(steps=2), HOW)
    assert sorted(record.failures) == ["train/images/1.png", "val/images/1001.png", "val/images/1002.png"]
    assert record.failures["val/images/1002.png"] == "no pixel has a label that counts"
    assert (record.scores[0].train, record.scores[0].test) == (2, 1)


def test_an_image_of_which_a_view_fails_is_one_failure(tiny, tmp_path, monkeypatch):
    """Progress is in views, and reaches its end."""
    folder = write_segmentation(tmp_path / "squares", train=4, test=2)
    (folder / "train" / "images" / "1.png").write_bytes(b"?")  # no size, so no crops of it
    (folder / "val" / "images" / "1001.png").write_bytes(b"?")
    image = folder / "train" / "images" / "3.png"
    image.write_bytes(image.read_bytes()[:200])  # it has a size, but no pixels
    whole = dense.image_features

    def features(images, backbone, job, failures, engine):
        for one, size_hw in whole(images, backbone, job, failures, engine):
            if one.image == "train/images/2.png view 1":
                failures[one.image] = "its features are not finite"
            else:
                yield one, size_hw

    monkeypatch.setattr(dense, "image_features", features)
    reports = {}

    def progress(what, unit="image"):
        return lambda *counts: reports.setdefault((what, unit), []).append(counts)

    data = find_segmentation(str(folder), None)
    options = DenseOptions(steps=2, views=3)
    record = probe_dense(data, tiny, tmp_path / "out", "segmentation", options, HOW, progress=progress)
    names = [*(f"train/images/{number}.png" for number in (1, 2, 3)), "val/images/1001.png"]
    assert sorted(record.failures) == names and record.scores[0].train == 1
    of_views = reports["features", "view"]
    assert of_views[-1] == (5, 1 + 1 + 3, 10)  # of the images 0 and 2; of 1, 2 and 3
    assert all(done + failed <= total for done, failed, total in of_views)
    assert reports["test", "image"][-1] == (1, 1, 2)


def test_what_cannot_be_probed(segmentation, tiny, tmp_path, colours):
    arguments = segmentation, tiny, tmp_path, "segmentation"
    text = refusal(probe_dense, *arguments, DenseOptions(cache_gib=1e-5), HOW)
    assert "features of 6 training images take 0.0 GiB" in text and "`cache_gib`" in text
    text = refusal(probe_dense, segmentation, colours, tmp_path, "segmentation", FAST, HOW)
    assert "has no transformer blocks" in text
    labels = segmentation.test[0].labels
    earlier = labels.read_bytes()
    write_png(labels, np.zeros((SIDE, SIDE + 1), np.uint8))
    text = refusal(probe_dense, *arguments, DenseOptions(), HOW)
    labels.write_bytes(earlier)
    assert f"{labels} has 65 x 64 pixels, but its image has 64 x 64" in text


@pytest.mark.parametrize("name", ["MLP", "no class token"])
def test_depth_reads_the_class_token_where_there_is_one(name, tmp_path, monkeypatch):
    data = find_depth(str(write_depth(tmp_path / "squares", train=2, test=1)), None)
    backbone, widths = small_backbone(name), set()
    whole = torch.nn.Linear.forward

    def forward(layer, tokens):
        if layer.out_features == 256:
            widths.add(layer.in_features)
        return whole(layer, tokens)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    probe_dense(data, backbone, tmp_path / "out", "depth", DenseOptions(steps=1), HOW)
    assert widths == {48 if name == "no class token" else 96}


def test_test_time_registers_are_not_read(tmp_path, monkeypatch):
    data = find_depth(str(write_depth(tmp_path / "squares", train=2, test=1)), None)
    added, seen, whole = AddedRegisters(RegisterNeurons(((0, 3), (1, 5))), count=2), [], DepthHead.forward
    backbone = small_backbone("MLP", added)

    def forward(head, tokens):
        seen.append(tokens)
        return whole(head, tokens)

    monkeypatch.setattr(DepthHead, "forward", forward)
    record = probe_dense(data, backbone, tmp_path / "out", "depth", DenseOptions(steps=1), HOW)
    assert record.settings["test_time_registers"] == added.settings
    images = normalized([decoded(data.test[0].image, backbone.patch_size)], backbone)
    tokens = list(backbone.block_outputs(images, with_prefix=True))[-1][0]
    patches = tokens[1 + added.count :]
    assert len(patches) == (images.shape[2] // backbone.patch_size) ** 2
    # each patch of the test image, which comes last, and the class token
    assert torch.allclose(seen[-1], torch.cat([patches, tokens[:1].expand_as(patches)], dim=1), atol=1e-4)
