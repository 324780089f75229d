"""What a run does with odd image files, end to end: transparent, without an end, or no images at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from run_cases import lines_of

from lost_reg.images import reading
from lost_reg.images.reading import read_image
from lost_reg.runs.folder import read_run

RED, HIDDEN = (255, 0, 0, 255), (0, 0, 255, 0)


@pytest.fixture
def clear(tmp_path):
    """A folder with one image: red on its left half, and transparent, over blue, on its right."""
    folder = tmp_path / "clear"
    folder.mkdir()
    pixels = np.array([[RED] * 64 + [HIDDEN] * 64] * 96, np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def right_of(path) -> list[int]:
    with Image.open(path) as picture:
        return list(picture.convert("RGB").getpixel((picture.width - 2, picture.height // 2)))


def with_a_whole_box(run) -> None:
    """Let the run have found all of its image, so that a crop shows it."""
    (row,) = lines_of(run)
    row["objects"] = [{"box_xyxy": [0, 0, 128, 96], "score": 1.0, "seed": [0, 0], "details": {}}]
    (run / "predictions.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.parametrize("colour, shown", [(None, 255), ("black", 0), ("#808080", 128)])
def test_the_run_and_all_its_pictures_show_one_background(lost_reg, clear, tmp_path, colour, shown):
    out, option = tmp_path / "out", ["--background", colour] if colour else []
    assert lost_reg("run", clear, "--out", out, "--visualize", "--workers", 0, *option).exit_code == 0
    assert read_run(out).settings["background"] == "#" + f"{shown:02x}" * 3
    with_a_whole_box(out)
    assert lost_reg("export", out, "--crops", tmp_path / "crops").exit_code == 0
    assert lost_reg("report", out, "--out", tmp_path / "report").exit_code == 0
    (thumbnail,) = (tmp_path / "report" / "thumbnails").iterdir()
    crops = [path for path in (tmp_path / "crops").rglob("*.png")]
    for picture in (thumbnail, *crops):
        assert np.abs(np.array(right_of(picture)) - shown).max() <= 12, picture
    with Image.open(next((out / "pictures").iterdir())) as picture:
        drawn = np.asarray(picture)[30:40, 90:100].mean(axis=(0, 1))
    assert np.abs(drawn - shown).max() <= 12


def test_a_run_of_an_earlier_version_is_read_and_shown_as_it_was_but_not_continued(
    lost_reg, refused, clear, tmp_path
):
    """It dropped transparency, so its images show what was hidden."""
    out = tmp_path / "out"
    lost_reg("run", clear, "--out", out, "--workers", 0)
    with_a_whole_box(out)
    record = json.loads((out / "run.json").read_text())
    del record["settings"]["background"]
    (out / "run.json").write_text(json.dumps(record))
    assert "was made by somebody else" in refused("export", out, "--crops", tmp_path / "crops")
    crops = ("export", out, "--crops", tmp_path / "crops", "--image-root", record["root"])
    assert lost_reg(*crops).exit_code == 0
    (crop,) = (tmp_path / "crops").rglob("*.png")
    assert right_of(crop) == [0, 0, 255]
    result = lost_reg("run", clear, "--out", out, "--resume")
    assert result.exit_code == 1 and result.stderr.split()[-3:] == ["background", "none", "#ffffff"]


def test_another_background_is_another_run(lost_reg, clear, tmp_path):
    lost_reg("run", clear, "--out", tmp_path / "out", "--workers", 0)
    again = ("run", clear, "--out", tmp_path / "out", "--resume")
    assert "other settings (background)" in lost_reg(*again, "--background", "black").stderr
    assert lost_reg(*again, "--background", "WHITE").exit_code == 0


def test_what_is_no_colour_is_one_line(refused, clear, voc, tmp_path):
    for command in (("run", clear), ("sweep", "--dataset", "voc07", "--data-root", voc)):
        text = refused(*command, "--out", tmp_path / "out", "--background", "whit")
        assert "--background" in text and "'whit'" in text and not (tmp_path / "out").exists()


def test_images_without_their_end_marker_are_counted_and_noted(lost_reg, photos, tmp_path):
    content = (photos / "a.jpg").read_bytes()
    for name in ("b.jpg", "c.jpg"):
        (photos / name).write_bytes(content.removesuffix(b"\xff\xd9"))
    (photos / "cut.jpg").write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    result = lost_reg("run", photos, "--out", out, "--workers", 1)
    assert result.exit_code == 0 and "2 images lack their end marker" in result.stdout
    assert "cut.jpg (cut off: " in result.stderr
    rows = {row["image"]: row for row in lines_of(out)}
    assert rows["b.jpg"]["note"] == rows["c.jpg"]["note"] == "without its end marker"
    assert "note" not in rows["a.jpg"] and rows["b.jpg"]["objects"] == rows["a.jpg"]["objects"]
    found = read_run(out)
    assert found.predictions["b.jpg"].note == "without its end marker"
    assert found.predictions["a.jpg"].note is None
    assert found.record["sessions"][0]["without_end_marker"] == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_heic_photo_is_decoded_in_its_process(lost_reg, photos, tmp_path, workers):
    pytest.importorskip("pillow_heif")
    read_image(photos / "a.jpg", apply_exif=True)
    assert reading.heif_is_readable()
    Image.open(photos / "a.jpg").save(photos / "b.heic", quality=95)
    out = tmp_path / "out"
    assert lost_reg("run", photos / "b.heic", "--out", out, "--workers", workers).exit_code == 0
    (row,) = lines_of(out)
    assert row["image"] == "b.heic" and row["size_hw"] == [96, 128]


def test_a_heic_photo_that_cannot_be_read_names_the_extra(refused, photos, tmp_path, without_heif):
    (photos / "b.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(99))
    text = refused("run", photos / "b.heic", "--out", tmp_path / "out", "--workers", 0)
    assert "pip install 'lost-reg[heif]'" in text
