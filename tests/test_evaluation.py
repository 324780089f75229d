"""The scripts of evaluation/ run, and say of a result what is so."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lost_reg.backbones import load_backbone
from lost_reg.discovery import discover
from lost_reg.records import Prediction

EVALUATION = Path(__file__).parent.parent / "evaluation"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(EVALUATION)


@pytest.fixture
def files(tmp_path):
    """Smooth colours, in two sizes."""
    paths = [tmp_path / f"{index}.jpg" for index in range(6)]
    for index, path in enumerate(paths):
        colours = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size_wh = (120, 90) if index % 2 else (90, 100)
        Image.fromarray(colours).resize(size_wh, Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


@pytest.mark.parametrize(
    "name", ["tiny", "dino_vits16", "dinov2_vits14", "dinov2_vits14_reg", "dinov3_vits16"]
)
def test_the_plain_pipeline_and_ours_find_the_same(files, name):
    import plain

    backbone = load_backbone(name, weights="random", device="cpu")
    found = discover(files, backbone, workers=0)
    expected = [plain.discover(path, backbone) for path in files]
    assert [one.box_xyxy for one in found] == [one.box_xyxy for one in expected]
    assert [one.seed for one in found] == [one.seed for one in expected]


# What rounding can decide: three patches in a row, each 10 pixels wide


def outcome(features, seed: int, box) -> bool:
    import agreement
    import plain
    import torch

    expected = plain.lost(torch.tensor(features), (1, len(features)), (10, 10 * len(features)), 10)
    found = Prediction("a", (10, 10 * len(features)), box, (0, seed), (1, len(features)), 0)
    return agreement.rounding_can_decide(expected, found, key_error=1e-6, patch=10)


def test_a_result_within_rounding_is_told_from_one_that_is_not():
    # Affinities (1 1 -1; 1 1 -1; -1 -1 1): degrees 1, 1 and 0, far from any rounding
    clear = [[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]
    assert outcome(clear, 2, (20, 0, 30, 10))
    assert not outcome(clear, 0, (0, 0, 20, 10))
    assert not outcome(clear, 2, (10, 0, 30, 10))


def test_an_affinity_within_rounding_of_zero_can_decide_the_box():
    # Of the first two, degrees are 1 and 2, or 0 and 1 where rounding makes their affinity negative: then the
    # second is not in S, nor in the mask.
    near = [[1.0, 0.0], [1e-7, 1.0], [-1.0, 0.5]]
    assert outcome(near, 0, (0, 0, 20, 10)) and outcome(near, 0, (0, 0, 10, 10))
    assert not outcome(near, 0, (0, 0, 30, 10))
    far = [[1.0, 0.0], [1e-2, 1.0], [-1.0, 0.5]]
    assert outcome(far, 0, (0, 0, 20, 10)) and not outcome(far, 0, (0, 0, 10, 10))
    assert not outcome(far, 1, (0, 0, 20, 10))


def test_agreement_prints_its_tables(files, tmp_path, make_voc, monkeypatch, capsys):
    import agreement

    make_voc(tmp_path / "voc", {"000001": [("thing", 33, 17, 96, 64)], "000002": [("thing", 1, 1, 50, 50)]})
    arguments = ["--dataset", str(tmp_path / "voc"), "--backbone", "tiny", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["agreement.py", *arguments])
    agreement.main()
    output = capsys.readouterr().out
    assert "| 100.0 % | 100.0 % | 100.0 % | 0 of 0 |" in output
    assert "| batches of 8, 4 workers | 100.0 % |" in output
    assert "| fp16, planted tokens |" in output


def test_the_benchmark_prints_its_table(monkeypatch, capsys):
    import benchmark

    monkeypatch.setitem(benchmark.BATCH_SIZES, "cpu", (1, 2))
    monkeypatch.setitem(benchmark.MATRIX_SIDE, "cpu", 64)
    monkeypatch.setattr(benchmark, "SIZES", {(50, 38): 1, (64, 48): 1})
    arguments = (
        "benchmark.py --device cpu --backbone tiny --images 3 --plain-images 1 --rounds 2 --batch-size 2"
    )
    monkeypatch.setattr(sys, "argv", arguments.split())
    benchmark.main()
    output = capsys.readouterr().out
    assert "| end to end, batch 2 |" in output and "| plain |" in output and "LOST is " in output


def test_memory_is_said_on_the_way(monkeypatch, capsys):
    import memory

    monkeypatch.setattr(sys, "argv", ["memory.py", "--images", "20"])
    memory.main()
    assert "| 20 |" in capsys.readouterr().out
