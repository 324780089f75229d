"""Datasets of images with one PNG mask each: their layouts, their boxes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import refusal
from PIL import Image

from lost_reg.datasets.catalog import datasets_table, find_dataset, missing_images
from lost_reg.masks.grids import cells

LAYOUTS = {
    "ecssd": ("ECSSD/images", "ECSSD/ground_truth_mask"),
    "duts-te": ("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
    "dut-omron": ("DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG"),
}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def mask_of(box_xyxy, size_hw=(20, 30), value=255):
    xmin, ymin, xmax, ymax = box_xyxy
    pixels = np.zeros(size_hw, np.uint8)
    pixels[ymin:ymax, xmin:xmax] = value
    return pixels


def make(images, masks, boxes, size_hw=(20, 30)):
    """Images and masks with the given boxes, by stem."""
    for stem, box in boxes.items():
        save(images / f"{stem}.jpg", np.zeros((*size_hw, 3)))
        save(masks / f"{stem}.png", mask_of(box, size_hw))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_archives_are_found_as_they_are(tmp_path, monkeypatch, name, elsewhere):
    images, masks = (tmp_path / folder for folder in LAYOUTS[name])
    make(images, masks, {"0002": (3, 4, 10, 12), "0001": (0, 0, 30, 20)})
    monkeypatch.chdir(tmp_path)
    found = find_dataset(f"{name}={images.parent.name}" if elsewhere else name, tmp_path)
    assert found.name == (f"{name}={images.parent}" if elsewhere else name)
    assert (found.title, found.images, found.root) == (name, ("0001.jpg", "0002.jpg"), images)
    assert not found.is_full and missing_images(found) == []
    truth = found.truths["0002.jpg"]
    assert (truth.boxes_xyxy, truth.size_hw, truth.image_id) == (((3, 4, 10, 12),), (20, 30), "0002")
    (mask,) = found.masks_of(found.truths["0002.jpg"])
    assert (cells(mask) == (mask_of((3, 4, 10, 12)) > 0)).all() and mask.spans_hw == (20, 30)


def test_the_sizes_of_the_full_datasets(tmp_path):
    for name, size in {"ecssd": 1000, "duts-te": 5019, "dut-omron": 5168}.items():
        make(*(tmp_path / folder for folder in LAYOUTS[name]), {"a": (0, 0, 1, 1)})
        assert find_dataset(name, tmp_path).full_size == size


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("img", "gt"),
        ("imgs", "GT"),
        ("photos", "ground_truth"),
        ("JPEGImages", "object_masks"),
        ("inner/images", "inner/masks"),
        ("DUT-OMRON-image/DUT-OMRON-image", "pixelwiseGT-new-PNG/pixelwiseGT-new-PNG"),
    ],
)
def test_a_folder_of_ones_own(tmp_path, images, masks):
    make(tmp_path / "birds" / images, tmp_path / "birds" / masks, {"a": (1, 1, 2, 2)})
    (tmp_path / "birds" / "._masks").mkdir()  # such as archives from macOS have
    found = find_dataset(f"masks={tmp_path / 'birds'}", tmp_path)
    assert (found.title, found.images, found.full_size) == ("birds", ("a.jpg",), None)
    assert found.truths["a.jpg"].boxes_xyxy == ((1, 1, 2, 2),)


def test_duts_test_beside_duts_train(tmp_path):
    for part in ("TE", "TR"):
        make(tmp_path / f"DUTS-{part}-Image", tmp_path / f"DUTS-{part}-Mask", {part: (0, 0, 1, 1)})
    assert find_dataset(f"duts-te={tmp_path}", tmp_path).images == ("TE.jpg",)
    assert "one folder of images and one of masks" in refusal(find_dataset, f"masks={tmp_path}", tmp_path)


def test_what_is_transparent_in_a_mask_is_no_object(tmp_path):
    make(tmp_path / "images", tmp_path / "masks", {"a": (0, 0, 9, 9)})
    shape = mask_of((2, 2, 9, 9))
    Image.fromarray(np.dstack([shape * 0 + 255] * 3 + [shape])).save(tmp_path / "masks" / "a.png")
    assert find_dataset(f"masks={tmp_path}", tmp_path).truths["a.jpg"].boxes_xyxy == ((2, 2, 9, 9),)


def test_grey_above_127_is_object(tmp_path):
    make(tmp_path / "images", tmp_path / "masks", dict.fromkeys("abcd", (0, 0, 9, 9)))
    shades = mask_of((2, 2, 9, 9), value=127)
    shades[5, 6:8] = 128
    save(tmp_path / "masks" / "a.png", shades)
    save(tmp_path / "masks" / "b.png", mask_of((2, 2, 9, 9), value=127))
    save(
        tmp_path / "masks" / "c.png", np.stack([mask_of((1, 2, 3, 4)), *[mask_of((0, 0, 0, 0))] * 2], axis=2)
    )
    Image.fromarray(mask_of((4, 4, 5, 5))).convert("1").save(tmp_path / "masks" / "d.png")
    found = find_dataset(f"masks={tmp_path}", tmp_path)
    boxes = {name: truth.boxes_xyxy for name, truth in found.truths.items()}
    assert boxes == {
        "a.jpg": ((6, 5, 8, 6),),
        "b.jpg": (),
        "c.jpg": ((1, 2, 3, 4),),
        "d.jpg": ((4, 4, 5, 5),),
    }
    assert [found.masks_of(found.truths[name]) for name in ("b.jpg",)] == [()]
    assert cells(found.masks_of(found.truths["a.jpg"])[0]).sum() == 2


def test_masks_of_zeros_and_ones_are_refused(tmp_path):
    make(tmp_path / "images", tmp_path / "masks", {"a": (0, 0, 1, 1)})
    save(tmp_path / "masks" / "a.png", mask_of((0, 0, 9, 9), value=1))
    assert "grey value above 127" in refusal(lambda: find_dataset(f"masks={tmp_path}", tmp_path).truths)


@pytest.mark.parametrize(
    ("remove", "reason"),
    [("masks/a.png", "masks has no PNG mask for a.jpg"), ("images/b.jpg", "images has no image for b.png")],
)
def test_an_image_or_mask_alone_is_refused(tmp_path, remove, reason):
    make(tmp_path / "images", tmp_path / "masks", dict.fromkeys("ab", (0, 0, 9, 9)))
    (tmp_path / remove).unlink()
    assert reason in refusal(find_dataset, f"masks={tmp_path}", tmp_path)


def test_damaged_masks_are_named(tmp_path):
    make(tmp_path / "images", tmp_path / "masks", {"a": (0, 0, 9, 9)})
    mask = tmp_path / "masks" / "a.png"
    whole = mask.read_bytes()

    def reason():
        return refusal(lambda: find_dataset(f"masks={tmp_path}", tmp_path).truths)

    save(mask, mask_of((0, 0, 1, 1), (20, 31)))
    assert f"{mask} has 31 x 20 pixels, but its image a.jpg has 30 x 20" in reason()
    mask.write_bytes((tmp_path / "images" / "a.jpg").read_bytes())
    assert f"{mask}: not a PNG file" in reason()
    mask.write_bytes(whole[: len(whole) // 2])
    assert f"{mask}: cannot be decoded" in reason()
    mask.write_bytes(b"")
    assert f"{mask}: not a PNG file" in reason()
    mask.write_bytes(whole)
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    assert "a.jpg: not an image" in reason()


def test_the_listing_says_what_is_there(tmp_path):
    assert f"not here: looked for {tmp_path / 'ECSSD'}" in datasets_table(tmp_path)
    make(*(tmp_path / folder for folder in LAYOUTS["ecssd"]), dict.fromkeys("ab", (0, 0, 9, 9)))
    assert "here: 2 images of it" in datasets_table(tmp_path)
    (tmp_path / "ECSSD" / "images" / "a.jpg").unlink()
    assert "not usable: " in datasets_table(tmp_path) and "no image for a.png" in datasets_table(tmp_path)


def test_what_is_not_there(tmp_path):
    text = refusal(find_dataset, "ecssd", tmp_path)
    assert f"looked for {tmp_path / 'ECSSD'}" in text and "ecssd=FOLDER" in text and "data/README.md" in text
    assert "no such folder" in refusal(find_dataset, f"ecssd={tmp_path / 'nowhere'}", tmp_path)
    (tmp_path / "images").mkdir()
    assert "one folder of images and one of masks" in refusal(find_dataset, f"ecssd={tmp_path}", tmp_path)
    (tmp_path / "masks").mkdir()
    assert "no images in" in refusal(find_dataset, f"ecssd={tmp_path}", tmp_path)
