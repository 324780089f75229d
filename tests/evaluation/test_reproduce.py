"""reproduce.py: its tables, beside published numbers and in pairs, and what is missing."""

from __future__ import annotations

import functools
import json
import re

import numpy as np
import pytest
import reproduce
from helpers import setting

from lost_reg.artifacts.neuron_search import SearchOptions
from lost_reg.datasets.catalog import Dataset
from lost_reg.scoring.published import published_rows
from lost_reg.scoring.sweep_scores import FoundByImage, SettingScore, SweepScores


@pytest.fixture
def small_voc(tmp_path, make_voc):
    objects = {f"{i:06}": [("thing", 33, 17, 96, 64)] for i in range(12)}
    return make_voc(tmp_path / "voc", objects)


@pytest.fixture
def reproduced(printed, monkeypatch):
    """A function that runs reproduce.py with three biases and gives what it prints."""
    monkeypatch.setattr(reproduce, "BIASES", "-0.5:0:0.5")
    return functools.partial(printed, reproduce, "--device", "cpu", "--workers", "0")


def test_reproduce_writes_its_table_continues_and_lists_what_is_missing(
    small_voc, tmp_path, monkeypatch, reproduced
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    out = tmp_path / "out"
    arguments = ["--out", out, "--backbones", "tiny", "dino_vits8_300ep", "tiny+test-time",
                 "--datasets", small_voc, "voc07", "--data-root", tmp_path]  # fmt: skip
    text = reproduced(*arguments)
    assert text == (out / "reproduce.md").read_text()
    assert "| tiny | LOST as published, all images | k of layer -1, raw, bias 0 | 12 |" in text
    # one image chooses among twelve settings, and ten are scored on: which one stands there is chance
    chosen, hindsight = (
        re.search(rf"\| tiny \| {what} on[^|]*\|", text)[0] for what in ("chosen", "BEST IN HINDSIGHT")
    )
    assert re.search(r"that tie\)", chosen) and "k of layer " in text and "normalised" in text
    assert hindsight.startswith("| tiny | BEST IN HINDSIGHT on that rest")
    assert "- dataset voc07: " in text and "`lost-reg datasets --download voc07" in text
    assert "- backbone dino_vits8_300ep: no hub carries" in text
    assert "- tiny+test-time on voc: tiny was trained with 4 registers" in text
    boxes = (out / "tiny-voc" / "boxes.jsonl").read_bytes()
    assert reproduced(*arguments) == text
    assert (out / "tiny-voc" / "boxes.jsonl").read_bytes() == boxes


def test_reproduce_labels_random_weights_and_limits(small_voc, tmp_path, reproduced):
    text = reproduced(
        "--out", tmp_path / "out", "--backbones", "tiny", "--datasets", small_voc,
        "--weights", "random", "--limit", "10",
    )  # fmt: skip
    assert "RANDOM WEIGHTS: these numbers mean nothing" in text and "| tiny (RANDOM WEIGHTS) |" in text
    assert "Only the first 10 images" in text
    assert "| 10 |" in text and "| 9 |" in text


def swept_scores(found, tuning, folder):
    """Scores of LOST as published and of two settings more, by which images each finds."""
    found, tuning = np.array(found, bool), np.array(tuning, bool)
    tried = [setting(), setting(bias=-0.1, normalize=True), setting(bias=-0.2, normalize=True)]
    settings = tuple(
        SettingScore(one.recorded(), int(row[tuning].sum()), int(row[~tuning].sum()))
        for one, row in zip(tried, found)
    )
    images = tuple(f"{index}.jpg" for index in range(len(tuning)))
    return SweepScores(
        folder, "b", "voc07", "trainval", int(tuning.sum()), int((~tuning).sum()), 0, 0, 0.1, 0, settings,
        by_image=FoundByImage(images, found, tuning),
    )  # fmt: skip


def planted_cells(tmp_path):
    dataset = Dataset("voc07", "trainval", tmp_path, ("a",) * 5, 5, list)
    tuning = [1, 0, 0, 0, 0]
    a = swept_scores([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], tuning, tmp_path)
    b = swept_scores([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0]], tuning, tmp_path)
    return [reproduce.Cell("dinov2", dataset, a), reproduce.Cell("dinov2_reg", dataset, b)]


def test_reproduce_sets_numbers_beside_the_published_ones_and_pairs_them(tmp_path):
    cells = planted_cells(tmp_path)
    rows = reproduce.rows_of(cells[0], is_random=False)
    # worked out by hand: 1 of 5 as published; the first bias was best on the tenth, and finds 1 of 4
    assert [row[3:5] for row in rows] == [
        ["5", "20.0"],
        ["4", "25.0"],
        ["4", "25.0"],
        ["4", "75.0"],
        ["4", "75.0"],
    ]
    assert [row[1] for row in rows[::2]] == [
        "LOST as published, all images",
        "chosen on a tenth, on the rest",
        "BEST IN HINDSIGHT on that rest",
    ]
    assert [row[6] for row in rows] == ["-", "35.3", "32.2", "35.3", "32.2"]
    assert rows[1][7].startswith("-10.3 (") and rows[2][7].startswith("-7.2 (")
    assert "Darcet" in rows[1][8] and "weights not public" in rows[1][8] and "Jiang" in rows[2][8]
    assert {row[7] for row in reproduce.rows_of(cells[0], is_random=True)} == {"-"}
    (published,) = reproduce.paired_rows(cells, "as published")
    assert (
        published[:6] == ["dinov2", "dinov2_reg", "5", "20.0", "60.0", "+40.0"] and published[7] == "0.5000"
    )
    (chosen,) = reproduce.paired_rows(cells, "chosen")
    assert chosen[:6] == ["dinov2", "dinov2_reg", "4", "25.0", "75.0", "+50.0"] and chosen[7] == "0.6250"


def test_reproduce_says_where_the_order_of_the_grid_decides(tmp_path):
    """Both biases find the one image that chooses, and two of the four others."""
    tied = swept_scores([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 1]], [1, 0, 0, 0, 0], tmp_path)
    dataset = Dataset("voc07", "trainval", tmp_path, ("a",) * 5, 5, list)
    _, chosen, hindsight = reproduce.lines_of(reproduce.Cell("dinov2", dataset, tied))
    assert chosen.what == "chosen on a tenth, on the rest (the first of 2 that tie)"
    assert hindsight.what == "BEST IN HINDSIGHT on that rest (the first of 2 that tie)"


def test_reproduce_knows_the_published_rows_of_all_its_backbones():
    titles = {row["backbone"] for row in published_rows()}
    assert {title for names in reproduce.BACKBONES.values() for title in names} <= titles
    assert {name for pair in reproduce.PAIRS for name in pair} <= reproduce.BACKBONES.keys()


def test_reproduce_finds_neurons_and_gives_a_register(small_voc, tmp_path, monkeypatch, reproduced):
    # no patch of this model at random weights is an outlier by the automatic threshold
    low = functools.partial(SearchOptions, threshold=1.0, top_layer=2)
    monkeypatch.setattr(reproduce, "SearchOptions", low)
    out = tmp_path / "out"
    text = reproduced(
        "--out", out, "--backbones", "timm:test_vit+test-time", "--datasets", small_voc,
        "--weights", "random", "--neuron-images", "3",
    )  # fmt: skip
    assert "timm:test_vit+test-time (RANDOM WEIGHTS)" in text, text
    neurons = json.loads((out / "neurons-timm-test_vit-voc.json").read_text())
    assert neurons["found"]["images"] == 3
    settings = json.loads((out / "timm-test_vit+test-time-voc" / "sweep.json").read_text())["settings"]
    assert settings["test_time_registers"]["count"] == 1
