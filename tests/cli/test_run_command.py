"""`lost-reg run`: from a command to a run folder."""

from __future__ import annotations

import json
import shutil
import tarfile

import pytest
import torch
from helpers import find, setting, without_notes
from PIL import Image
from run_cases import lines_of

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.errors import UnreadableImage
from lost_reg.images import folders
from lost_reg.images.reading import SUFFIXES
from lost_reg.notebook.discover import discover
from lost_reg.runs import forecast
from lost_reg.runs.folder import read_run
from lost_reg.types import FoundObject


def test_batches_are_as_large_as_the_memory_allows(lost_reg, photos, tmp_path, monkeypatch):
    tried = []
    whole = VitBackbone.facets

    def facets(self, images, parts):
        tried.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("too much")
        return whole(self, images, parts)

    monkeypatch.setattr(VitBackbone, "facets", facets)
    for index in range(3):
        shutil.copy(photos / "a.jpg", photos / f"{index}.jpg")
    out = tmp_path / "out"
    assert lost_reg("run", photos, "--out", out, "--batch-size", "auto", "--workers", 0).exit_code == 0
    assert tried == [4, 2, 1, 1, 1, 1, 1]
    (session,) = json.loads((out / "run.json").read_text())["sessions"]
    assert session["batch_size"] == "auto" and session["out_of_memory"] == 2


def test_what_does_not_fit_is_noted_before_the_run(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "free_bytes", lambda device: 1000.0)
    result = lost_reg("run", photos, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "Note: images of 128 x 96 pixels need about" in result.stderr and "--max-side" in result.stderr


def test_a_folder_gives_boxes_in_original_pixels(lost_reg, photos, tmp_path):
    out = tmp_path / "out"
    result = lost_reg("run", photos, "--backbone", "tiny", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"results in {out}" in result.stdout
    by_name = {row["image"]: row for row in lines_of(out)}
    assert set(by_name) == {"a.jpg", "sub/B.PNG"}
    assert by_name["a.jpg"]["size_hw"] == [96, 128] and by_name["a.jpg"]["grid_hw"] == [6, 8]
    assert by_name["sub/B.PNG"]["size_hw"] == [80, 70] and by_name["sub/B.PNG"]["grid_hw"] == [5, 5]
    for row in by_name.values():
        (found,) = row["objects"]
        xmin, ymin, xmax, ymax = found["box_xyxy"]
        assert 0 <= xmin < xmax <= row["size_hw"][1] and 0 <= ymin < ymax <= row["size_hw"][0]
        assert set(row) == {"image", "size_hw", "grid_hw", "objects"}
        assert set(found) == {"box_xyxy", "score", "seed", "details"} and -1 <= found["score"] <= 1


def test_a_run_of_tiny_says_what_it_is_for(lost_reg, photos, tmp_path):
    line = "Note: tiny is for offline trials and tests: --backbone dino finds objects in photos\n"
    assert line in lost_reg("run", photos, "--out", tmp_path / "out").stderr
    assert line not in lost_reg("run", photos, "--weights", "random", "--out", tmp_path / "random").stderr


def test_lists_and_shards_give_what_the_folder_gives(lost_reg, photos, tmp_path):
    lost_reg("run", photos, "--out", tmp_path / "folder")
    expected = {row["image"]: row for row in lines_of(tmp_path / "folder")}
    (tmp_path / "list").write_text(f"{photos}/a.jpg\n{photos}/sub/B.PNG\n{photos}/gone.jpg\n")
    result = lost_reg("run", "--files-from", tmp_path / "list", "--out", tmp_path / "listed")
    assert result.exit_code == 0 and "1 of 3 images could not be used: gone.jpg" in result.stderr
    assert {row["image"]: row for row in lines_of(tmp_path / "listed")} == expected

    (tmp_path / "list").write_text(
        f"file://{photos}/a.jpg\n{photos}/sub/B.PNG\nfile://{photos}/gone.jpg\n{photos}/a.jpg\n"
    )
    listed = ("run", "--files-from", tmp_path / "list", "--out", tmp_path / "addresses", "--sort")
    result = lost_reg(*listed)
    assert "gone.jpg (cannot be fetched: no such file)" in result.stderr
    rows = lines_of(tmp_path / "addresses")
    assert [row["image"] for row in rows] == [f"file://{photos}/a.jpg", "sub/B.PNG", "a.jpg"]
    assert rows[0]["objects"] == expected["a.jpg"]["objects"] and rows[1:] == [
        expected["sub/B.PNG"], expected["a.jpg"]
    ]  # fmt: skip
    assert "3 were done before" in lost_reg(*listed, "--resume").stdout
    assert "not tar shards or addresses" in lost_reg(*listed, "--visualize", "--overwrite").stderr

    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        tar.add(photos, arcname=".")
    shards = ("run", str(tmp_path / "shard-{000..000}.tar"), "--out", tmp_path / "shards")
    result = lost_reg(*shards)
    assert result.exit_code == 0, result.output
    found = {row["image"]: row for row in lines_of(tmp_path / "shards")}
    assert {name: row["objects"] for name, row in found.items()} == {
        f"shard-000.tar/{name}": row["objects"] for name, row in expected.items()
    }
    assert "all 2 images were done before" in lost_reg(*shards, "--resume").output

    result = lost_reg("export", tmp_path / "shards", "--to", "csv", "--out", tmp_path / "boxes.csv")
    assert result.exit_code == 0 and len((tmp_path / "boxes.csv").read_text().splitlines()) == 3
    result = lost_reg("export", tmp_path / "shards", "--crops", tmp_path / "crops")
    assert result.exit_code == 1 and "images are in tar shards (shard-000.tar/a.jpg)" in result.stderr
    assert not (tmp_path / "crops").exists()


def test_pictures_are_not_made_of_shards(refused, photos, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(photos, arcname=".")
    assert "--visualize" in refused("run", tmp_path / "a.tar", "--out", tmp_path / "out", "--visualize")


def test_the_command_and_the_library_find_the_same(lost_reg, photos, tmp_path):
    lost_reg("run", photos, "--out", tmp_path / "out")
    found = discover([photos / "a.jpg"], load_backbone("tiny"))
    row = next(row for row in lines_of(tmp_path / "out") if row["image"] == "a.jpg")
    assert [
        FoundObject(tuple(one["box_xyxy"]), one["score"], tuple(one["seed"]), one["details"])
        for one in row["objects"]
    ] == list(found[0].objects)


def test_run_json_says_how_to_repeat_the_run(lost_reg, voc, tmp_path):
    out = tmp_path / "out"
    lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", out, "--facet", "v", "--layer", 5)
    record = json.loads((out / "run.json").read_text())
    assert record["settings"] == {
        "dataset": "voc07",
        "split": "trainval",
        "apply_exif": False,
        "background": "#ffffff",
        "backbone": "tiny",
        "weights": record["settings"]["weights"],
        "precision": "fp32",
        "method": "lost",
        "features": {
            "facet": "v",
            "layer": -1,  # the sixth of six
            "center": False,
            "normalize": False,
            "max_side": None,
        },
        "options": {"k_patches": 100, "bias": 0.0, "max_objects": 1},
    }
    assert len(record["settings"]["weights"]["sha256"]) == 64
    assert record["images"] == 3 and record["data_root"] == str(voc)
    session = record["sessions"][0]
    assert session["images"] == 3 and session["seconds"] > 0 and session["device"].startswith("cpu")
    assert {"torch", "timm", "python", "lost-reg"} <= set(session["versions"])


def test_further_objects_are_asked_for_by_number(lost_reg, photos, tmp_path):
    run = ("run", photos, "--method", "lost", "--weights", "random", "--max-objects", 3, "--center")
    assert lost_reg(*run, "--out", tmp_path / "three").exit_code == 0
    found = read_run(tmp_path / "three")
    assert found.settings["options"]["max_objects"] == 3
    images = [photos / name for name in found.predictions]
    chosen = setting(max_objects=3, center=True, max_side=448)
    expected = find(images, load_backbone("tiny", weights="random"), chosen)
    got = [one.objects for one in found.predictions.values()]
    assert got == [one.objects for one in expected] and max(map(len, got)) > 1


def test_runs_of_another_number_of_objects_are_not_continued(lost_reg, photos, tmp_path):
    out = tmp_path / "out"
    run = ("run", photos, "--method", "lost", "--out", out)
    lost_reg(*run, "--max-objects", 2, "--limit", 1)
    assert "other settings (max_objects)" in lost_reg(*run, "--resume").stderr
    assert lost_reg(*run, "--max-objects", 2, "--resume").exit_code == 0
    assert len(lines_of(out)) == 2


def test_implausible_boxes_are_counted(lost_reg, tmp_path, save_scene):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 5), (200, 30, 30)).save(tmp_path / name)  # smaller than a patch: the whole image
    result = lost_reg("run", tmp_path / "*.png", "--out", tmp_path / "out", "--limit", 1)
    assert "1 implausible box: 1 whole image (kept; " in result.stdout
    lost_reg("run", tmp_path / "*.png", "--out", tmp_path / "out", "--resume")
    sessions = json.loads((tmp_path / "out" / "run.json").read_text())["sessions"]
    assert [session["implausible"] for session in sessions] == [{"whole image": 1}] * 2
    save_scene(tmp_path / "plausible.jpg")
    result = lost_reg("run", tmp_path / "plausible.jpg", "--out", tmp_path / "plausible")
    assert "implausible box" not in result.stdout
    (session,) = json.loads((tmp_path / "plausible" / "run.json").read_text())["sessions"]
    assert "implausible" not in session


def test_a_run_of_whole_images_says_why_and_what_to_try(lost_reg, tmp_path, save_scene):
    """Of black images all affinities are positive, here with the weights of `tiny`."""
    for name in "abc":
        Image.new("RGB", (96, 64)).save(tmp_path / f"{name}.png")
    images = [tmp_path / "a.png", save_scene(tmp_path / "d.jpg"), tmp_path / "b.png", tmp_path / "c.png"]
    (tmp_path / "list").write_text("".join(f"{image}\n" for image in images))
    run = ("run", "--files-from", tmp_path / "list", "--method", "lost", "--out", tmp_path / "out")
    assert "Warning: 1 of 2 boxes is the whole image: 100 % of" in lost_reg(*run, "--limit", 2).stderr
    line = (
        "Warning: 3 of 4 boxes are the whole image: 100 % of the affinities in these images are positive, so "
        "all patches tie for the lowest degree and the seed is arbitrary; try --preset best; "
        "`lost-reg sweep` compares settings\n"
    )
    for _ in range(2):  # of all sessions, as is what a finished run says
        (warning,) = without_notes(lost_reg(*run, "--resume"))
        assert warning == line.rstrip()
    fewer = [images[1], images[2], save_scene(tmp_path / "e.jpg")]
    assert without_notes(lost_reg("run", *fewer, "--out", tmp_path / "fewer")) == []


def test_exif_is_applied_to_the_users_photos_and_not_to_datasets(lost_reg, voc, tmp_path):
    image = voc / "VOCdevkit/VOC2007/JPEGImages/000001.jpg"
    picture = Image.open(image)
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(image, exif=exif)
    lost_reg("run", image, "--out", tmp_path / "own")
    lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "voc")
    assert lines_of(tmp_path / "own")[0]["size_hw"] == [128, 96]
    sizes = {row["image"]: row["size_hw"] for row in lines_of(tmp_path / "voc")}
    assert sizes["000001.jpg"] == [96, 128]


@pytest.mark.parametrize("size", [(1, 1), (9, 5), (16, 3)])
def test_an_image_smaller_than_a_patch_is_its_own_box(lost_reg, tmp_path, size):
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "small.png")
    lost_reg("run", tmp_path / "small.png", "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out")[0]["objects"][0]["box_xyxy"] == [0, 0, *size]


def test_own_images_are_scaled_down_and_datasets_are_not(lost_reg, tmp_path, save_scene, make_voc):
    """To the preset's size, or 448 pixels; what was done is recorded, and shown."""
    save_scene(tmp_path / "big.png", size_hw=(480, 640), box_xyxy=(200, 100, 400, 300))
    shown = {
        (): ([16, 21], "by spread (preset best) at a longest side of 336 pixels; results in"),
        ("--method", "tokencut"): ([21, 28], "by tokencut at a longest side of 448 pixels; results in"),
        ("--max-side", "native"): ([30, 40], "by spread at native resolution; results in"),
        ("--square", 96): ([6, 6], "by spread at 96 x 96 pixels; results in"),
    }
    for index, (options, (grid, words)) in enumerate(shown.items()):
        out = tmp_path / f"own-{index}"
        assert words in lost_reg("run", tmp_path / "big.png", *options, "--out", out, "--workers", 0).stdout
        assert lines_of(out)[0]["grid_hw"] == grid
    make_voc(tmp_path / "voc", {"1": [("thing", 1, 1, 9, 9)]}, size_hw=(480, 640))
    result = lost_reg("run", "--dataset", tmp_path / "voc", "--out", tmp_path / "out", "--workers", 0)
    assert "by lost at native resolution; results in" in result.stdout, result.output
    assert lines_of(tmp_path / "out")[0]["grid_hw"] == [30, 40]


def test_max_side_keeps_boxes_in_original_pixels(lost_reg, tmp_path, save_scene):
    save_scene(tmp_path / "big.png", size_hw=(400, 600), box_xyxy=(200, 100, 400, 300))
    lost_reg("run", tmp_path / "big.png", "--max-side", 96, "--out", tmp_path / "out")
    row = lines_of(tmp_path / "out")[0]
    assert row["size_hw"] == [400, 600] and row["grid_hw"] == [4, 6]
    xmin, ymin, xmax, ymax = row["objects"][0]["box_xyxy"]
    assert xmax <= 600 and ymax <= 400 and (xmax - xmin) * (ymax - ymin) >= 100 * 100  # a patch is 100 px


def test_limit_and_resume(lost_reg, voc, tmp_path):
    arguments = ("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
    assert lost_reg(*arguments, "--limit", 1).exit_code == 0
    assert len(lines_of(tmp_path / "out")) == 1
    result = lost_reg(*arguments, "--resume")
    assert "2 images" in result.stdout and "1 was done before" in result.stdout
    assert len(lines_of(tmp_path / "out")) == 3
    lost_reg(*arguments[:-1], tmp_path / "whole")
    assert sorted(lines_of(tmp_path / "out"), key=str) == sorted(lines_of(tmp_path / "whole"), key=str)


def test_images_that_were_done_without_maps_and_pictures_are_noted_on_resuming(lost_reg, photos, tmp_path):
    arguments = ["run", str(photos), "--backbone", "tiny", "--workers", "0", "--out", str(tmp_path / "out")]
    count = len(list(photos.iterdir()))
    assert "have no" not in lost_reg(*arguments, "--limit", "1", "--save-maps").output
    assert "have no" not in lost_reg(*arguments, "--limit", "2", "--resume").output
    output = " ".join(lost_reg(*arguments, "--resume", "--save-maps", "--visualize").output.split())
    assert (
        f"1 image in '{tmp_path / 'out'}' has no maps: what was done before --save-maps was asked" in output
    )
    assert f"2 images in '{tmp_path / 'out'}' have no picture: what was done before --visualize was" in output
    assert len(list((tmp_path / "out" / "maps").iterdir())) == count - 1


def test_visualize_writes_a_picture_for_each_image(lost_reg, photos, tmp_path):
    lost_reg("run", photos, "--visualize", "--out", tmp_path / "out")
    assert Image.open(tmp_path / "out/pictures/a.jpg").size == (128, 96)
    assert Image.open(tmp_path / "out/pictures/sub/B.PNG.jpg").size == (70, 80)


def test_an_image_that_vanishes_before_its_picture_does_not_end_the_run(
    lost_reg, photos, tmp_path, monkeypatch
):
    def vanished(*_, **__):
        raise UnreadableImage("no such file")

    monkeypatch.setattr("lost_reg.runs.pictures.read_image", vanished)
    assert lost_reg("run", photos, "--visualize", "--out", tmp_path / "out").exit_code == 0
    assert len(lines_of(tmp_path / "out")) == 2


def test_results_may_go_into_the_input_folder_itself(lost_reg, photos):
    for _ in range(2):
        assert lost_reg("run", photos, "--visualize", "--resume", "--out", photos).exit_code == 0
    assert len(lines_of(photos)) == 2


def test_results_inside_the_input_folder_are_no_input(lost_reg, photos):
    for _ in range(2):
        lost_reg("run", photos, "--visualize", "--resume", "--out", photos / "out")
    assert len(lines_of(photos / "out")) == 2


def test_a_bad_file_is_recorded_and_the_run_goes_on(lost_reg, photos, tmp_path):
    (photos / "text.jpg").write_text("no image")
    whole = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    result = lost_reg("run", photos, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "2 of 4 images could not be used" in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    reasons = {row["image"]: row["reason"] for row in rows}
    assert "not an image" in reasons["text.jpg"] and "cut off" in reasons["cut.jpg"]
    assert len(lines_of(tmp_path / "out")) == 2


def test_files_that_are_passed_over_are_noted_and_recorded(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "readable_suffixes", lambda: SUFFIXES)
    for name in ("a.heic", "sub/b.HEIC", "c.mov", "labels.txt", ".hidden.jpg", "__MACOSX/a.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    out = tmp_path / "out"
    result = lost_reg("run", photos, "--out", out, "--workers", 0)
    assert result.exit_code == 0 and "2 images in" in result.stdout
    line = (
        "Note: 3 files passed over: 2 .heic, 1 .mov; "
        "after `pip install 'lost-reg[heif]'`, .heic can be read\n"
    )
    assert result.stderr.count(line) == 1
    assert read_run(out).record["passed_over"] == {".heic": 2, ".mov": 1}
    measured = lost_reg("artifacts", photos, "-b", "tiny", "--out", tmp_path / "measured", "--workers", 0)
    assert measured.exit_code == 0 and measured.stderr.count(line) == 1
    lost_reg("run", photos / "a.jpg", "--out", tmp_path / "one", "--workers", 0)
    assert "passed_over" not in read_run(tmp_path / "one").record


def test_random_weights_are_noted(lost_reg, photos, tmp_path):
    result = lost_reg("run", photos, "--weights", "random", "--out", tmp_path / "out")
    assert "random weights" in result.stderr
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["settings"]["weights"] == {"source": "random", "name": "random", "sha256": None}


def test_the_default_run_folder_names_what_was_run(lost_reg, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lost_reg("run", "photos")
    assert (tmp_path / "results/photos-tiny/run.json").is_file()


@pytest.mark.parametrize("most", [1, 3])
def test_how_many_objects_were_found_is_said_if_there_may_be_several(lost_reg, photos, tmp_path, most):
    out = tmp_path / "out"
    result = lost_reg("run", photos, "--out", out, "--method", "lost", "--max-objects", most, "--sort")
    assert result.exit_code == 0, result.output
    total = sum(len(row["objects"]) for row in lines_of(out))
    said = f"{total} objects found in 2 images"
    assert [line for line in result.stdout.splitlines() if "found" in line] == ([said] if most > 1 else [])
    assert [row["image"] for row in lines_of(out)] == ["a.jpg", "sub/B.PNG"]
