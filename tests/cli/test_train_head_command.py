"""`lost-reg train head`, `run --method head` and `score`, from images to how the head compares."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lost_reg.discovery.methods import METHODS


@pytest.fixture
def scenes(tmp_path, save_scene):
    """Twelve scenes with one rectangle each, as a COCO dataset."""
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(12):
        top, left = int(random.integers(0, 48)), int(random.integers(0, 64))
        save_scene(
            tmp_path / "images" / f"{number}.png", box_xyxy=(left, top, left + 48, top + 48), seed=number
        )
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [left, top, 48, 48], "iscrowd": 0}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "scenes.json").write_text(json.dumps(content))
    return tmp_path / "scenes.json"


def made(lost_reg, *args):
    result = lost_reg(*args)
    assert result.exit_code == 0, result.output
    return result


def test_from_images_to_a_comparison_on_held_out_images(lost_reg, refused, scenes, tmp_path):
    run, head, of_head = (tmp_path / name for name in ("run", "head", "of-head"))
    made(lost_reg, "run", "-d", scenes, "--masks", "--workers", 0, "--out", run)
    options = (
        "--out",
        head,
        "--facet",
        "k",
        "--max-side",
        128,
        "--holdout",
        0.5,
        "--rounds",
        2,
        "--workers",
        0,
    )
    text = made(lost_reg, "train", "head", run, *options).stdout
    assert "a head of 192 weights, trained on" in text and f"--method head --head {head}" in text
    assert "holds a head already: --overwrite" in refused("train", "head", run, *options)
    (head / "unfinished").mkdir()
    (head / "unfinished" / "mine.txt").write_text("mine")
    (head / "unfinished" / "settings.json").write_text('{"command": "probe"}')
    before = (head / "head.json").read_bytes()
    overwriting = ("train", "head", run, *options, "--overwrite")
    assert "holds the unfinished work of another command" in refused(*overwriting)
    (head / "unfinished" / "settings.json").write_text('{"command": "train head"}')
    refused(*overwriting, "--max-side", 1)
    assert (head / "head.json").read_bytes() == before
    made(lost_reg, *overwriting, "--rounds", 1)
    assert {path.name for path in head.iterdir()} == {"head.json", ".lock", "unfinished"}
    assert [path.name for path in (head / "unfinished").iterdir()] == ["mine.txt"]
    assert (head / "head.json").read_bytes() != before

    with_head = ("run", "-d", scenes, "--method", "head", "--head", head, "--workers", 0, "--out", of_head)
    made(lost_reg, *with_head)
    settings = json.loads((of_head / "run.json").read_text())["settings"]
    assert settings["method"] == "head" and settings["features"]["max_side"] == 128
    trained_on = settings["options"]["head"]["trained_on"]
    assert trained_on["method"] == "lost" and trained_on["images"] + trained_on["held_out"] == 12
    text = made(lost_reg, "score", of_head).stdout
    assert f"on the {trained_on['held_out']} images held out of the head's training, CorLoc" in text
    (record,) = json.loads(made(lost_reg, "score", of_head, "--json").stdout)
    assert record["held_out_images"] == trained_on["held_out"]
    made(lost_reg, "report", tmp_path, "--out", tmp_path / "page")
    made(
        lost_reg,
        "run",
        "-d",
        scenes,
        "--method",
        "head",
        "--head",
        head,
        "--workers",
        0,
        "--out",
        of_head,
        "--resume",
    )

    (run / "run.json").unlink()
    assert "not compared with" in made(lost_reg, "score", of_head).stdout


def test_what_is_wrong_is_one_line(lost_reg, refused, scenes, tmp_path):
    run = tmp_path / "run"
    made(lost_reg, "run", "-d", scenes, "--workers", 0, "--out", run)
    assert "run again with --masks" in refused("train", "head", run, "--out", tmp_path / "h")
    assert "no such folder" in refused("train", "head", tmp_path / "x", "--out", tmp_path / "h")
    assert "--holdout" in refused("train", "head", run, "--holdout", 2)
    images = tmp_path / "images"
    assert "no such head" in refused("run", images, "--method", "head", "--head", tmp_path / "x")
    assert "leave out --facet" in refused("run", images, "--method", "head", "--facet", "k")
    assert "not to both" in refused("train", "head", run, "--square", 64, "--max-side", 9)
    assert "for tiny" in refused("run", images, "--method", "head", "--out", tmp_path / "o")
    assert "is not a head" in refused("run", images, "--method", "head", "--head", images / "0.png")
    assert not (tmp_path / "h").exists()


def test_the_help_names_the_defaults(lost_reg):
    text = " ".join(lost_reg("train", "head", "--help").stdout.split())
    for shown in (
        "[default: 336]",
        "[default: v]",
        "[default: 20]",
        "[default: 0.2]",
        "[default: no-center]",
    ):
        assert shown in text
    assert METHODS["head"].config().head is None
