"""The command line end to end: what it does, and that bad input gets one clear line and an exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from lost_reg.backbones.loading import load_backbone
from lost_reg.backbones.vit import VitBackbone
from lost_reg.cli.app import main
from lost_reg.errors import UnreadableImage
from lost_reg.runs import forecast as workload
from lost_reg.runs.discover import discover
from lost_reg.runs.folder import read_run
from lost_reg.types import Protocol


@pytest.fixture
def lost_reg():
    """Run `lost-reg ARGS...` in this process."""

    def invoke(*args):
        return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)

    return invoke


@pytest.fixture
def refused(lost_reg):
    """Run `lost-reg ARGS...`, see that it fails with one line, and give that line."""

    def invoke(*args, exit_code=1):
        result = lost_reg(*args)
        assert result.exit_code == exit_code, result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
        return lines[0]

    return invoke


@pytest.fixture
def photos(tmp_path, save_scene):
    folder = tmp_path / "photos"
    save_scene(folder / "a.jpg")
    save_scene(folder / "sub" / "B.PNG", size_hw=(80, 70), box_xyxy=(10, 10, 50, 60), seed=1)
    return folder


@pytest.fixture
def voc(tmp_path, make_voc):
    """A data root with three images of voc07; the second has no object."""
    objects = {
        "000001": [("thing", 33, 17, 96, 64)],
        "000002": [],
        "000003": [("thing", 1, 1, 8, 8), ("thing", 33, 17, 96, 64)],
    }
    make_voc(tmp_path / "root" / "VOCdevkit" / "VOC2007", objects)
    return tmp_path / "root"


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


class TestRun:
    def test_batches_are_as_large_as_the_memory_allows(self, lost_reg, photos, tmp_path, monkeypatch):
        tried = []
        whole = VitBackbone.features

        def features(self, images, *args):
            tried.append(len(images))
            if len(images) > 1:
                raise torch.OutOfMemoryError("too much")
            return whole(self, images, *args)

        monkeypatch.setattr(VitBackbone, "features", features)
        for index in range(3):
            shutil.copy(photos / "a.jpg", photos / f"{index}.jpg")
        out = tmp_path / "out"
        assert lost_reg("run", photos, "--out", out, "--batch-size", "auto", "--workers", 0).exit_code == 0
        assert tried == [4, 2, 1, 1, 1, 1, 1]
        (session,) = json.loads((out / "run.json").read_text())["sessions"]
        assert session["batch_size"] == "auto" and session["out_of_memory"] == 2

    def test_what_would_not_fit_is_said_before_the_run(self, lost_reg, photos, tmp_path, monkeypatch):
        monkeypatch.setattr(workload, "free_bytes", lambda device: 1000.0)
        result = lost_reg("run", photos, "--out", tmp_path / "out")
        assert result.exit_code == 0
        assert "Note: images of 128 x 96 pixels need about" in result.stderr and "--max-side" in result.stderr

    def test_a_folder_gives_boxes_in_original_pixels(self, lost_reg, photos, tmp_path):
        out = tmp_path / "out"
        result = lost_reg("run", photos, "--backbone", "tiny", "--out", out)
        assert result.exit_code == 0, result.output
        assert f"results in {out}" in result.stdout
        by_name = {row["image"]: row for row in predictions(out)}
        assert set(by_name) == {"a.jpg", "sub/B.PNG"}
        assert by_name["a.jpg"]["size_hw"] == [96, 128] and by_name["a.jpg"]["grid_hw"] == [6, 8]
        assert by_name["sub/B.PNG"]["size_hw"] == [80, 70] and by_name["sub/B.PNG"]["grid_hw"] == [5, 5]
        for row in by_name.values():
            xmin, ymin, xmax, ymax = row["box_xyxy"]
            assert 0 <= xmin < xmax <= row["size_hw"][1] and 0 <= ymin < ymax <= row["size_hw"][0]
            assert set(row) == {
                "image", "size_hw", "box_xyxy", "seed", "grid_hw", "degree", "affinity", "further"
            }  # fmt: skip
            assert -1 <= row["affinity"] <= 1 and row["further"] == []

    def test_lists_and_shards_give_what_the_folder_gives(self, lost_reg, photos, tmp_path):
        lost_reg("run", photos, "--out", tmp_path / "folder")
        expected = {row["image"]: row for row in predictions(tmp_path / "folder")}
        (tmp_path / "list").write_text(f"{photos}/a.jpg\n{photos}/sub/B.PNG\n{photos}/gone.jpg\n")
        result = lost_reg("run", "--files-from", tmp_path / "list", "--out", tmp_path / "listed")
        assert result.exit_code == 0 and "1 of 3 images could not be used: gone.jpg" in result.stderr
        assert {row["image"]: row for row in predictions(tmp_path / "listed")} == expected

        with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
            tar.add(photos, arcname=".")
        shards = ("run", str(tmp_path / "shard-{000..000}.tar"), "--out", tmp_path / "shards")
        result = lost_reg(*shards)
        assert result.exit_code == 0, result.output
        found = {row["image"]: row for row in predictions(tmp_path / "shards")}
        assert {f"shard-000.tar/{name}": row["box_xyxy"] for name, row in expected.items()} == {
            name: row["box_xyxy"] for name, row in found.items()
        }
        assert "2 were done before" in lost_reg(*shards, "--resume").output

        result = lost_reg("export", tmp_path / "shards", "--to", "csv", "--out", tmp_path / "boxes.csv")
        assert result.exit_code == 0 and len((tmp_path / "boxes.csv").read_text().splitlines()) == 3
        result = lost_reg("export", tmp_path / "shards", "--crops", tmp_path / "crops")
        assert result.exit_code == 0 and "2 of 2 images gave no crops" in result.stderr

    def test_pictures_are_not_made_of_shards(self, refused, photos, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            tar.add(photos, arcname=".")
        assert "--visualize" in refused("run", tmp_path / "a.tar", "--out", tmp_path / "out", "--visualize")

    def test_the_command_and_the_library_find_the_same(self, lost_reg, photos, tmp_path):
        lost_reg("run", photos, "--out", tmp_path / "out")
        found = discover([photos / "a.jpg"], load_backbone("tiny"))
        row = next(row for row in predictions(tmp_path / "out") if row["image"] == "a.jpg")
        assert tuple(row["box_xyxy"]) == found[0].box_xyxy and row["degree"] == found[0].degree

    def test_run_json_says_how_to_repeat_the_run(self, lost_reg, voc, tmp_path):
        out = tmp_path / "out"
        lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", out, "--facet", "v", "--layer", 5)
        record = json.loads((out / "run.json").read_text())
        assert record["settings"] == {
            "dataset": "voc07",
            "split": "trainval",
            "apply_exif": False,
            "backbone": "tiny",
            "weights": record["settings"]["weights"],
            "precision": "fp32",
            "protocol": {
                "facet": "v",
                "layer": -1,  # the sixth of six
                "center": False,
                "normalize": False,
                "bias": 0.0,
                "k_patches": 100,
                "max_side": None,
            },
        }
        assert len(record["settings"]["weights"]["sha256"]) == 64
        assert record["images"] == 3 and record["data_root"] == str(voc)
        session = record["sessions"][0]
        assert session["images"] == 3 and session["seconds"] > 0 and session["device"].startswith("cpu")
        assert {"torch", "timm", "python", "lost-reg"} <= set(session["versions"])

    def test_further_objects_are_asked_for_by_number(self, lost_reg, photos, tmp_path):
        assert lost_reg("run", photos, "--out", tmp_path / "one").exit_code == 0
        run = ("run", photos, "--weights", "random", "--max-objects", 3, "--center")
        assert lost_reg(*run, "--out", tmp_path / "three").exit_code == 0
        found = read_run(tmp_path / "three")
        assert found.settings["protocol"]["max_objects"] == 3
        assert (
            "max_objects" not in read_run(tmp_path / "one").settings["protocol"]
        )  # as earlier versions had it
        expected = discover(
            [photos / name for name in found.predictions],
            load_backbone("tiny", weights="random"),
            Protocol(max_objects=3, center=True),
        )
        got = [one.objects for one in found.predictions.values()]
        assert got == [one.objects for one in expected] and max(map(len, got)) > 1

    def test_runs_of_another_number_of_objects_are_not_continued(self, lost_reg, refused, photos, tmp_path):
        out = tmp_path / "out"
        lost_reg("run", photos, "--out", out, "--max-objects", 2, "--limit", 1)
        assert "max_objects" in refused("run", photos, "--out", out, "--resume")
        assert lost_reg("run", photos, "--out", out, "--max-objects", 2, "--resume").exit_code == 0
        assert len(predictions(out)) == 2

    def test_implausible_boxes_are_counted(self, lost_reg, tmp_path, save_scene):
        for name in ("a.png", "b.png"):
            Image.new("RGB", (9, 5), (200, 30, 30)).save(
                tmp_path / name
            )  # smaller than a patch: the whole image
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

    def test_exif_is_applied_to_the_users_photos_and_not_to_datasets(self, lost_reg, voc, tmp_path):
        image = voc / "VOCdevkit/VOC2007/JPEGImages/000001.jpg"
        picture = Image.open(image)
        exif = picture.getexif()
        exif[0x0112] = 6  # turned by 90 degrees
        picture.save(image, exif=exif)
        lost_reg("run", image, "--out", tmp_path / "own")
        lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "voc")
        assert predictions(tmp_path / "own")[0]["size_hw"] == [128, 96]
        sizes = {row["image"]: row["size_hw"] for row in predictions(tmp_path / "voc")}
        assert sizes["000001.jpg"] == [96, 128]

    @pytest.mark.parametrize("size", [(1, 1), (9, 5), (16, 3)])
    def test_an_image_smaller_than_a_patch_is_its_own_box(self, lost_reg, tmp_path, size):
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "small.png")
        lost_reg("run", tmp_path / "small.png", "--out", tmp_path / "out")
        assert predictions(tmp_path / "out")[0]["box_xyxy"] == [0, 0, *size]

    def test_max_side_keeps_boxes_in_original_pixels(self, lost_reg, tmp_path, save_scene):
        save_scene(tmp_path / "big.png", size_hw=(400, 600), box_xyxy=(200, 100, 400, 300))
        lost_reg("run", tmp_path / "big.png", "--max-side", 96, "--out", tmp_path / "out")
        row = predictions(tmp_path / "out")[0]
        assert row["size_hw"] == [400, 600] and row["grid_hw"] == [4, 6]
        xmin, ymin, xmax, ymax = row["box_xyxy"]
        assert xmax <= 600 and ymax <= 400 and (xmax - xmin) * (ymax - ymin) >= 100 * 100  # a patch is 100 px

    def test_limit_and_resume(self, lost_reg, voc, tmp_path):
        arguments = ("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
        assert lost_reg(*arguments, "--limit", 1).exit_code == 0
        assert len(predictions(tmp_path / "out")) == 1
        result = lost_reg(*arguments, "--resume")
        assert "2 images" in result.stdout and "1 were done before" in result.stdout
        assert len(predictions(tmp_path / "out")) == 3
        lost_reg(*arguments[:-1], tmp_path / "whole")
        assert sorted(predictions(tmp_path / "out"), key=str) == sorted(
            predictions(tmp_path / "whole"), key=str
        )

    def test_visualize_writes_a_picture_for_each_image(self, lost_reg, photos, tmp_path):
        lost_reg("run", photos, "--visualize", "--out", tmp_path / "out")
        assert Image.open(tmp_path / "out/pictures/a.jpg").size == (128, 96)
        assert Image.open(tmp_path / "out/pictures/sub/B.PNG.jpg").size == (70, 80)

    def test_an_image_that_vanishes_before_its_picture_does_not_end_the_run(
        self, lost_reg, photos, tmp_path, monkeypatch
    ):
        def vanished(*_, **__):
            raise UnreadableImage("no such file")

        monkeypatch.setattr("lost_reg.runs.pictures.read_image", vanished)
        assert lost_reg("run", photos, "--visualize", "--out", tmp_path / "out").exit_code == 0
        assert len(predictions(tmp_path / "out")) == 2

    def test_results_may_go_into_the_input_folder_itself(self, lost_reg, photos):
        for _ in range(2):
            assert lost_reg("run", photos, "--visualize", "--resume", "--out", photos).exit_code == 0
        assert len(predictions(photos)) == 2

    def test_results_inside_the_input_folder_are_not_taken_for_input(self, lost_reg, photos):
        for _ in range(2):
            lost_reg("run", photos, "--visualize", "--resume", "--out", photos / "out")
        assert len(predictions(photos / "out")) == 2

    def test_a_bad_file_is_recorded_and_the_run_goes_on(self, lost_reg, photos, tmp_path):
        (photos / "text.jpg").write_text("no image")
        whole = (photos / "a.jpg").read_bytes()
        (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        result = lost_reg("run", photos, "--out", tmp_path / "out")
        assert result.exit_code == 0 and "2 of 4 images could not be used" in result.stderr
        rows = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
        reasons = {row["image"]: row["reason"] for row in rows}
        assert "not an image" in reasons["text.jpg"] and "truncated" in reasons["cut.jpg"]
        assert len(predictions(tmp_path / "out")) == 2

    def test_random_weights_are_said(self, lost_reg, photos, tmp_path):
        result = lost_reg("run", photos, "--weights", "random", "--out", tmp_path / "out")
        assert "random weights" in result.stderr
        record = json.loads((tmp_path / "out/run.json").read_text())
        assert record["settings"]["weights"] == {"source": "random", "name": "random", "sha256": None}

    def test_the_default_run_folder_names_what_was_run(self, lost_reg, photos, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        lost_reg("run", "photos")
        assert (tmp_path / "results/photos-tiny/run.json").is_file()


class TestBadInput:
    def test_no_such_path(self, refused, tmp_path):
        assert "no such file or folder" in refused("run", tmp_path / "nowhere", "--out", tmp_path / "out")

    def test_empty_folder(self, refused, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "no images in" in refused("run", tmp_path / "empty", "--out", tmp_path / "out")

    def test_nothing_usable(self, refused, tmp_path):
        (tmp_path / "text.jpg").write_text("no image")
        line = refused("run", tmp_path / "text.jpg", "--out", tmp_path / "out")
        assert "1 of 1 images could not be used" in line and "not an image" in line

    def test_strict(self, refused, photos, tmp_path):
        whole = (photos / "a.jpg").read_bytes()
        (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        line = refused("run", photos, "--strict", "--out", tmp_path / "out")
        assert "1 of 3 images could not be used: cut.jpg" in line
        assert len(predictions(tmp_path / "out")) == 2  # and what was done is there

    def test_unknown_backbone(self, refused, photos, tmp_path):
        line = refused("run", photos, "--backbone", "dinov2_rag", "--out", tmp_path / "out")
        assert "did you mean" in line and "dinov2_reg" in line

    def test_unknown_timm_model(self, refused, photos, tmp_path):
        assert "not supported" in refused("run", photos, "-b", "timm:resnet18", "--out", tmp_path / "out")

    def test_unknown_dataset(self, refused, tmp_path):
        assert "voc07" in refused("run", "--dataset", "voc08", "--out", tmp_path / "out")

    def test_dataset_not_there(self, refused, tmp_path):
        line = refused("run", "--dataset", "voc07", "--data-root", tmp_path, "--out", tmp_path / "out")
        assert str(tmp_path / "VOCdevkit/VOC2007") in line and "lost-reg datasets --download voc07" in line

    def test_dataset_with_missing_images(self, refused, voc, tmp_path):
        (voc / "VOCdevkit/VOC2007/JPEGImages/000002.jpg").unlink()
        line = refused("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
        assert "1 of 3 images" in line and "--download" in line

    def test_weights_not_there(self, refused, photos, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        line = refused("run", photos, "--backbone", "dinov2_reg", "--out", tmp_path / "out")
        assert "lost-reg backbones --download dinov2_vitl14_reg" in line and str(tmp_path) in line

    def test_weight_file_not_there(self, refused, photos, tmp_path):
        assert "nope.pth" in refused("run", photos, "--weights", "nope.pth", "--out", tmp_path / "out")
        # noticed before a dataset is looked for, or downloaded
        line = refused("run", "-d", "voc07", "--weights", "nope.pth", "--data-root", tmp_path)
        assert "nope.pth" in line

    def test_weights_of_another_model(self, refused, photos, tmp_path):
        tiny = load_backbone("tiny").weights.path
        line = refused("run", photos, "-b", "dinov2_vits14", "--weights", tiny, "--out", tmp_path / "out")
        assert "does not fit dinov2_vits14" in line and "patch_embed.proj.weight" in line

    def test_a_name_that_is_too_long(self, refused, photos, tmp_path):
        assert "no such file" in refused("run", "x" * 300, "--out", tmp_path / "out")
        assert "too long" in refused("run", photos, "--out", tmp_path / ("x" * 300))

    def test_a_bias_that_is_no_number(self, refused, photos, tmp_path):
        assert "finite bias" in refused("run", photos, "--bias", "nan", "--out", tmp_path / "out")

    def test_output_path_is_a_file(self, refused, photos, tmp_path):
        (tmp_path / "file").touch()
        assert "it is a file" in refused("run", photos, "--out", tmp_path / "file")
        assert "cannot write results" in refused("run", photos, "--out", tmp_path / "file" / "below")

    def test_a_run_is_not_overwritten(self, lost_reg, refused, photos, tmp_path):
        lost_reg("run", photos, "--out", tmp_path / "out")
        before = (tmp_path / "out/predictions.jsonl").read_bytes()
        assert "--resume" in refused("run", photos, "--out", tmp_path / "out")
        line = refused("run", photos, "--facet", "v", "--resume", "--out", tmp_path / "out")
        assert "other settings" in line and "facet" in line
        assert (tmp_path / "out/predictions.jsonl").read_bytes() == before

    def test_results_folder_without_runs(self, refused, tmp_path):
        assert "no runs in" in refused("corloc", tmp_path)
        assert "no such" in refused("corloc", tmp_path / "nowhere")

    def test_malformed_results_line(self, lost_reg, refused, voc, tmp_path):
        lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
        file = tmp_path / "out/predictions.jsonl"
        lines = file.read_text().splitlines()
        lines[1] = lines[1][:20]
        file.write_text("\n".join(lines) + "\n")
        line = refused("corloc", tmp_path / "out")
        assert "line 2" in line and str(file) in line

    def test_ground_truth_missing_for_an_image(self, lost_reg, refused, voc, tmp_path):
        lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "out")
        (voc / "VOCdevkit/VOC2007/Annotations/000003.xml").unlink()
        line = refused("corloc", tmp_path / "out")
        assert "no ground truth for 000003.jpg" in line

    @pytest.mark.parametrize(
        "option",
        [
            ("--facet", "x"),
            ("--precision", "fp8"),
            ("--batch-size", "0"),
            ("--batch-size", "all"),
            ("--layer", "a"),
            ("--k-patches", "0"),
            ("--max-side", "-3"),
            ("--limit", "0"),
            ("--nonsense",),
        ],
    )
    def test_unknown_option_values(self, refused, photos, tmp_path, option):
        assert option[0] in refused("run", photos, *option, "--out", tmp_path / "out", exit_code=2)

    def test_options_that_only_the_library_can_judge(self, refused, photos, tmp_path):
        assert "no layer 6" in refused("run", photos, "--layer", 6, "--out", tmp_path / "out")
        assert "nonsense" in refused("run", photos, "--device", "nonsense", "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_images_and_a_dataset_at_once_or_neither(self, refused, photos):
        assert "either" in refused("run", photos, "--dataset", "voc07", exit_code=2)
        assert "either" in refused("run", exit_code=2)

    def test_hostile_names_stay_on_one_line(self, refused, tmp_path):
        (tmp_path / "a\nError: b\x1b[31m.jpg").write_text("no image")
        assert "\\n" in refused("run", tmp_path, "--out", tmp_path / "out")


class TestCorloc:
    @pytest.fixture
    def run_folder(self, lost_reg, voc, tmp_path):
        lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--out", tmp_path / "results/one")
        return tmp_path / "results"

    def test_table(self, lost_reg, run_folder):
        result = lost_reg("corloc", run_folder)
        assert result.exit_code == 0, result.output
        header, _, row, counts = result.stdout.splitlines()
        assert re.split(r"  +", header) == [
            *("backbone", "dataset", "images", "found", "CorLoc", "95 % interval"),
            *("centred box", "whole image", "published"),
        ]
        assert row.split()[:4] == ["tiny", "voc07", "trainval", "2"] and "no comparable number" in row
        assert "0 undecodable" in counts and "1 without any box" in counts and "0 not done" in counts

    def test_json_and_csv_agree(self, lost_reg, run_folder):
        (row,) = json.loads(lost_reg("corloc", run_folder, "--json").stdout)
        names, values = lost_reg("corloc", run_folder, "--csv").stdout.splitlines()
        from_csv = dict(zip(names.split(","), values.split(",")))
        assert {key: str(value if value is not None else "") for key, value in row.items()} == from_csv

    def test_an_incomplete_run_needs_partial(self, lost_reg, refused, voc, tmp_path):
        lost_reg("run", "--dataset", "voc07", "--data-root", voc, "--limit", 1, "--out", tmp_path / "out")
        assert "1 of the 3 images" in refused("corloc", tmp_path / "out")
        assert "2 not done" in lost_reg("corloc", tmp_path / "out", "--partial").stdout

    def test_photos_that_exif_turned_are_said(self, lost_reg, voc, tmp_path):
        folder = voc / "VOCdevkit/VOC2007/JPEGImages"
        picture = Image.open(folder / "000001.jpg")
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(folder / "000001.jpg", exif=exif)
        lost_reg("run", folder, "--out", tmp_path / "out")
        result = lost_reg("corloc", tmp_path / "out", "--dataset", "voc07", "--data-root", voc)
        assert "1 images are not of the size that was annotated" in result.stdout

    def test_no_hard_is_said(self, lost_reg, run_folder):
        assert "trainval no_hard" in lost_reg("corloc", run_folder, "--no-hard").stdout

    def test_a_file_needs_a_dataset(self, refused, tmp_path):
        (tmp_path / "detections.json").write_text("[]")
        assert "--dataset" in refused("corloc", tmp_path / "detections.json")


class TestCompare:
    @pytest.fixture
    def runs(self, lost_reg, voc, tmp_path):
        for name, weights in (("random", ("--weights", "random")), ("tiny", ())):
            lost_reg("run", "-d", "voc07", "--data-root", voc, *weights, "--out", tmp_path / "results" / name)
        return tmp_path / "results/random", tmp_path / "results/tiny"

    def test_text(self, lost_reg, runs):
        result = lost_reg("compare", *runs)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].startswith("A: tiny (RANDOM WEIGHTS), ") and lines[1].startswith("B: tiny, ")
        assert lines[2].startswith("voc07 trainval: 2 images; left out: 1 without any box")
        assert any(re.match(r"weights.source +random +bundled$", line) for line in lines)
        assert any(line.startswith("all images  ") for line in lines)
        assert any("points of CorLoc (95 %" in line for line in lines)

    def test_json_and_corloc_agree(self, lost_reg, runs):
        content = json.loads(lost_reg("compare", *runs, "--json").stdout)
        rows = json.loads(lost_reg("corloc", runs[0].parent, "--json").stdout)
        assert [content["total"]["corloc_a"], content["total"]["corloc_b"]] == [row["corloc"] for row in rows]
        assert {one["setting"] for one in content["differences"]} == {
            *("weights.source", "weights.name", "weights.sha256")
        }

    def test_csv_of_the_table_or_of_the_images(self, lost_reg, runs):
        rows = lost_reg("compare", *runs, "--csv").stdout.splitlines()
        assert rows[0].startswith("kind,name,images,both,") and rows[1].startswith("all images,,2,")
        content = json.loads(lost_reg("compare", *runs, "--json").stdout)
        images = lost_reg("compare", *runs, "--csv", "--images").stdout.splitlines()
        assert len(images) == 1 + len(content["only_a"]) + len(content["only_b"])

    def test_images_lists_all(self, lost_reg, runs):
        file = runs[0] / "predictions.jsonl"
        rows = predictions(runs[0])
        for row in rows:
            row["box_xyxy"] = [0, 0, 1, 1]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        rows = predictions(runs[1])
        for row in rows:
            row["box_xyxy"] = [32, 16, 96, 64]
        (runs[1] / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        lines = lost_reg("compare", *runs, "--images").stdout.splitlines()
        assert lines[-3:] == ["Found by B alone: 2", "  000001.jpg", "  000003.jpg"]

    def test_partial_and_no_hard(self, lost_reg, refused, voc, runs, tmp_path):
        lost_reg("run", "-d", "voc07", "--data-root", voc, "--limit", 1, "--out", tmp_path / "part")
        assert "covers 1 of the 3 images" in refused("compare", runs[0], tmp_path / "part")
        result = lost_reg("compare", runs[0], tmp_path / "part", "--partial", "--no-hard")
        assert "voc07 trainval no_hard: 1 images; left out: 0 without any box, 2 not done" in result.stdout

    def test_bad_input_is_one_line(self, refused, runs, tmp_path):
        assert "holds 2 runs" in refused("compare", runs[0].parent, runs[1])
        assert "no such" in refused("compare", runs[0], tmp_path / "nowhere")
        assert "Missing argument 'B'" in refused("compare", runs[0], exit_code=2)
        assert "--json and --csv" in refused("compare", *runs, "--json", "--csv", exit_code=2)
        assert "voc12 is not there" in refused("compare", *runs, "-d", "voc12", "--data-root", tmp_path)
        (tmp_path / "empty.pkl").write_bytes(b"")
        assert "neither a LOST pickle" in refused("compare", runs[0], tmp_path / "empty.pkl")

    def test_torch_is_not_imported(self, runs):
        code = (
            "import sys\n"
            "from lost_reg.cli.app import main\n"
            f"try: main(['compare', {str(runs[0])!r}, {str(runs[1])!r}])\n"
            "finally: print(sorted({'torch', 'timm'} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout.splitlines()[-1] == "[]", result.stderr


class TestInventory:
    def test_backbones(self, lost_reg):
        result = lost_reg("backbones")
        assert result.exit_code == 0
        assert "dinov2_vitl14_reg" in result.stdout and "dinov2_reg" in result.stdout

    def test_datasets(self, lost_reg, voc):
        result = lost_reg("datasets", "--data-root", voc)
        assert "here: 3 images of it" in result.stdout and "not here" in result.stdout

    def test_what_cannot_be_downloaded(self, refused):
        assert "samples" in refused("datasets", "--download", "samples")
        assert "dino_deitsmall8_300ep_pretrain.pth" in refused("backbones", "--download", "dino_vits8_300ep")


class TestProcess:
    def test_help_imports_nothing_heavy(self):
        code = (
            "import sys\n"
            "from lost_reg.cli.app import main\n"
            "try: main(['--help'])\n"
            "finally: print(sorted({'torch', 'timm', 'cv2', 'numpy', 'rich'} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout.splitlines()[-1] == "[]" and "Usage" in result.stdout

    def test_python_m_and_no_traceback(self, tmp_path):
        command = [sys.executable, "-m", "lost_reg", "run", "nowhere"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr == "Error: no such file or folder: 'nowhere'\n"


def test_the_public_names_are_no_modules():
    code = (
        "from lost_reg import *\n"
        "import lost_reg, types\n"
        "assert not [n for n in lost_reg.__all__ if isinstance(globals()[n], types.ModuleType)]"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
