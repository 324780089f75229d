"""`lost-reg cluster`: from images of two kinds to labels, a page, scores and exports."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest
from helpers import write_predictions
from PIL import Image
from run_cases import contents, lines_of

from lost_reg.backbones.vit import VitBackbone
from lost_reg.report.clusters import CLUSTERS_PAGE
from lost_reg.runs import labels
from lost_reg.runs.folder import TOKENS_FILE, read_run

IMAGES = 8


def save_kind(path, kind, seed):
    """Red stripes or green noise on grey."""
    random = np.random.default_rng(seed)
    pixels = random.integers(110, 130, (96, 128, 3), dtype=np.uint8)
    inside = pixels[16:64, 32:96]
    if kind == "stripes":
        inside[:, :, 0], inside[:, :, 1:] = np.where(np.arange(64) // 4 % 2, 250, 60), 20
    else:
        inside[:, :, 1], inside[:, :, ::2] = random.integers(0, 256, (48, 64)), 10
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A COCO dataset of two kinds of objects, and a run on it."""
    from click.testing import CliRunner

    from lost_reg.cli.app import main

    folder = tmp_path_factory.mktemp("kinds")
    images, annotations = [], []
    for number in range(IMAGES):
        name = f"{number}.png"
        save_kind(folder / "images" / name, ("stripes", "noise")[number % 2], number)
        images.append({"id": number, "file_name": name, "height": 96, "width": 128})
        annotations.append(
            {
                **{"id": number + 1, "image_id": number, "category_id": 1 + number % 2, "iscrowd": 0},
                **{"bbox": [32, 16, 64, 48], "area": 64 * 48},
            }
        )
    categories = [{"id": 1, "name": "stripes"}, {"id": 2, "name": "noise"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "kinds.json").write_text(json.dumps(content))
    arguments = [
        "run",
        "--dataset",
        str(folder / "kinds.json"),
        "--backbone",
        "tiny",
        "--out",
        str(folder / "run"),
    ]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made / "run", tmp_path / "run")


def labels_of(folder):
    return [
        one["label"]
        for line in sorted(lines_of(folder), key=lambda one: one["image"])
        for one in line["objects"]
    ]


def test_from_a_run_to_scores_page_and_exports(lost_reg, run, tmp_path):
    before = read_run(run)
    result = lost_reg("cluster", run, "--k", 2)
    assert result.exit_code == 0, result.output
    assert "8 boxes in 2 clusters, silhouette 0." in result.stdout and "4  cluster 01" in result.stdout
    assert labels_of(run) == ["cluster 01", "cluster 02"] * 4
    after = read_run(run)
    for image, one in after.predictions.items():  # nothing else has changed
        for old, new in zip(before.predictions[image].objects, one.objects):
            assert (old.box_xyxy, old.score, old.seed) == (new.box_xyxy, new.score, new.seed)
            assert old.details.items() <= new.details.items()
    clusters = after.record["clusters"]
    assert {**before.record, "clusters": clusters} == after.record
    assert (clusters["k"], clusters["sizes"], clusters["backbone"]) == (2, [4, 4], "tiny")
    page = (run / CLUSTERS_PAGE).read_text()
    assert page.count("data:image/jpeg;base64,") == 8 and "cluster 02" in page and "<script" not in page

    (row,) = json.loads(lost_reg("score", run, "--json").stdout)
    assert row["purity"] == 100 and row["nmi"] == pytest.approx(100) and row["labelled_boxes"] == 8
    assert {one["cluster"] for one in row["classes"]} == {"cluster 01", "cluster 02"}
    text = lost_reg("score", run).stdout
    assert "purity 100.0 (100.0 to 100.0), by chance" in text and "mean of 2" in text

    assert lost_reg("export", run, "--to", "coco", "--out", tmp_path / "a.json").exit_code == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert [one["name"] for one in content["categories"]] == ["cluster 01", "cluster 02"]
    assert [one["category_id"] for one in content["annotations"]] == [1, 2] * 4


def test_the_same_twice_and_without_the_backbone(lost_reg, run, monkeypatch):
    lost_reg("cluster", run, "--k", 3, "--seed", 1)
    first = contents(run)
    monkeypatch.setattr(VitBackbone, "class_tokens", None)  # the tokens are there already
    lost_reg("cluster", run, "--k", 2)
    assert labels_of(run) == ["cluster 01", "cluster 02"] * 4
    lost_reg("cluster", run, "--k", 3, "--seed", 1)
    again = contents(run)
    assert all(again[name] == first[name] for name in ("predictions.jsonl", "run.json", TOKENS_FILE))
    result = lost_reg("cluster", run, "--k", "2:5")
    assert "8 boxes in 2 clusters" in result.stdout
    assert read_run(run).record["clusters"]["tried"].keys() == {"2", "3", "4", "5"}


def test_names_are_given_at_once_or_later_and_merge(lost_reg, run, tmp_path, monkeypatch):
    names = tmp_path / "names.txt"
    names.write_text("cluster 02 = a <b>\n")
    lost_reg("cluster", run, "--k", 2, "--names", names)
    assert labels_of(run) == ["cluster 01", "a <b>"] * 4
    assert "a &lt;b&gt;" in (run / CLUSTERS_PAGE).read_text()
    monkeypatch.setattr(VitBackbone, "__init__", None)  # renaming loads no backbone
    names.write_text('{"1": "a <b>"}')
    assert "8  a <b>" in lost_reg("cluster", run, "--names", names).stdout
    assert labels_of(run) == ["a <b>"] * 8
    names.write_text("1 = red\n2 = green\n")
    lost_reg("cluster", run, "--names", names)
    assert labels_of(run) == ["red", "green"] * 4


def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_lost(refused, made, run, tmp_path):
    before = contents(run)
    names = tmp_path / "names.txt"
    names.write_text("cluster 09 = cat\n")
    siglip = "timm:vit_base_patch16_siglip_224"
    refusals = {
        ("--k", 9): "9 clusters need more boxes than the 8 of the run: lower --k",
        ("--k", "2:8"): "8 clusters need more boxes",
        ("--k", 1): "at least 2 clusters",
        ("--k", 2, "--names", names): "no cluster 'cluster 09' in the run",
        ("--k", 2, "--names", tmp_path / "none"): "cannot read --names",
        ("--k", 2, "--image-root", tmp_path): "8 of 8 images are missing below",
        ("--k", 2, "--image-root", tmp_path / "none"): "no such folder of images",
        ("--k", 2, "--backbone", siglip, "--weights", "random"): "has no class token",
        ("--k", 2, "--weights", tmp_path / "none.pth"): "none.pth",
    }
    for arguments, reason in refusals.items():
        assert reason in refused("cluster", run, *arguments)
    assert "neither a number" in refused("cluster", run, "--k", "many", exit_code=2)
    assert contents(run) == before
    assert "no run in" in refused("cluster", made / "images", "--k", 2)


def test_a_run_without_boxes_is_refused(refused, tmp_path):
    empty = write_predictions(tmp_path / "empty", [])
    assert "holds no boxes" in refused("cluster", empty, "--k", 2)


def test_images_that_are_gone_or_changed_are_named(refused, made, run, tmp_path):
    images = shutil.copytree(made / "images", tmp_path / "images")
    one_each = ("--batch-size", 1)
    (images / "3.png").unlink()
    line = refused("cluster", run, "--k", 2, "--image-root", images)
    assert "1 of 8 images" in line and "(3.png)" in line and "--image-root" in line
    Image.new("RGB", (5, 5)).save(images / "3.png")
    line = refused("cluster", run, "--k", 2, "--image-root", images, *one_each)
    assert "3.png has another size" in line
    (images / "3.png").write_text("no image")
    assert "3.png of the run" in refused("cluster", run, "--k", 2, "--image-root", images)
    assert (run / TOKENS_FILE).exists()  # what was done is kept


def test_an_interrupted_command_continues(lost_reg, run, monkeypatch):
    whole, calls = VitBackbone.class_tokens, []

    def stopped(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, images)

    monkeypatch.setattr(VitBackbone, "class_tokens", stopped)
    before = contents(run)
    result = lost_reg("cluster", run, "--k", 2, "--batch-size", 2)
    assert "the same command continues" in result.stderr and result.exit_code > 100
    kept = contents(run)
    assert {name: kept[name] for name in before} == before
    assert lost_reg("cluster", run, "--k", 2).exit_code == 0
    assert sum(calls[:2]) + sum(calls[3:]) == IMAGES


def test_a_full_disk_loses_nothing(lost_reg, refused, run, monkeypatch):
    lost_reg("cluster", run, "--k", 2)
    before = contents(run)

    def no_room(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(labels, "line_of", no_room)
    assert "No space left on device" in refused("cluster", run, "--k", 3)
    assert contents(run) == before


def test_a_run_that_goes_on_keeps_its_clusters(lost_reg, made, tmp_path):
    out = tmp_path / "part"
    command = ("run", "--dataset", made / "kinds.json", "--backbone", "tiny", "--out", out)
    lost_reg(*command, "--limit", 5)
    result = lost_reg("cluster", out, "--k", 2)
    clusters = read_run(out).record["clusters"]
    lost_reg(*command, "--resume")
    assert read_run(out).record["clusters"] == clusters
    found = read_run(out).predictions.values()
    assert [one.objects[0].label for one in found].count(None) == 3
    assert "run is not finished" not in lost_reg("cluster", out, "--k", 2).stderr
    assert labels_of(out) == ["cluster 01", "cluster 02"] * 4
    assert result.exit_code == 0
