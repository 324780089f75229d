"""Masks are read back by the programs that the formats are for; what cannot be written is one clear error."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from export_cases import MASK_FORMATS, export, load_coco, prediction
from helpers import names, refusal
from hypothesis import given
from hypothesis.extra import numpy as hnp
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import binary_fill_holes

from lost_reg.export.masks import polygon_of
from lost_reg.masks.grids import stored
from lost_reg.types import FoundObject, Mask, Prediction

SIZE = 96, 128


def ring() -> np.ndarray:
    """A disc with a hole, and a small part beside it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    radius = np.hypot(y - 50, x - 50)
    return (radius < 40) & (radius > 12) | (y < 20) & (x > 100)


def blob() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((y - 60) / 30) ** 2 + ((x - 90) / 25) ** 2 < 1


def found(image: str, *masks: np.ndarray | Mask | None, size_hw=SIZE) -> Prediction:
    objects = (
        FoundObject((0, 0, 9, 9), 0.5, (0, 0), {"degree": 1},
                    stored(mask, size_hw) if isinstance(mask, np.ndarray) else mask)
        for mask in masks
    )  # fmt: skip
    return Prediction(image, size_hw, (6, 8), tuple(objects))


def iou(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


# COCO


def test_segmentations_by_hand(tmp_path):
    grid = np.array([[True, False], [False, False]])
    patches = stored(grid, (12.0, 16.0))  # of 6 x 8 pixels; the image is a little smaller
    one = Prediction("a.jpg", (10, 15), (2, 2), (FoundObject((0, 0, 8, 6), 0.5, (0, 0), {}, patches),))
    export(tmp_path, [one, prediction("b.jpg", (0, 0, 9, 9))], "coco")
    with_mask, without = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert with_mask["segmentation"]["size"] == [10, 15] and with_mask["area"] == 48
    assert with_mask["bbox"] == [0, 0, 8, 6] and with_mask["iscrowd"] == 0
    assert "segmentation" not in without and without["area"] == 81
    expected = np.zeros((10, 15))
    expected[:6, :8] = 1
    assert (load_coco(tmp_path / "out.json").annToMask(with_mask) == expected).all()


def test_cocoeval_scores_the_segmentations(tmp_path):
    export(tmp_path, [found("a.jpg", ring(), blob()), found("b.jpg", blob())], "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = load_coco(tmp_path / "out.json")
        results = truth.loadRes(json.loads((tmp_path / "out.json").read_text())["annotations"])
        scored = COCOeval(truth, results, "segm")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] == pytest.approx(1)


def test_supervision_reads_the_segmentations(tmp_path, photos):
    sv = pytest.importorskip("supervision")
    root, _ = photos
    export(tmp_path, [found("a.jpg", ring(), blob())], "coco", root=root)
    dataset = sv.DetectionDataset.from_coco(str(root), str(tmp_path / "out.json"), force_masks=True)
    ((_, _, detections),) = dataset
    assert (detections.mask == [ring(), blob()]).all()


# YOLO polygons


def test_supervision_reads_the_polygons(tmp_path, photos):
    sv = pytest.importorskip("supervision")
    root, _ = photos
    export(tmp_path, [found("a.jpg", ring(), blob())], "yolo-seg", root=root)
    dataset = sv.DetectionDataset.from_yolo(
        *(str(tmp_path / "out" / name) for name in ("images", "labels", "data.yaml")), force_masks=True
    )
    ((_, _, detections),) = dataset
    assert iou(detections.mask[0], binary_fill_holes(ring())) > 0.98  # and the line between its parts
    assert (detections.mask[1] == blob()).all()


def test_a_polygon_by_hand(tmp_path):
    pixels = np.zeros((10, 20), bool)
    pixels[2:5, 4:9] = True  # x from 4 to 8, y from 2 to 4
    export(tmp_path, [found("a.jpg", pixels, np.zeros((10, 20), bool), size_hw=(10, 20))], "yolo-seg")
    (line,) = (tmp_path / "out/labels/a.txt").read_text().splitlines()  # an empty mask has no polygon
    class_id, *numbers = line.split()
    points = {(float(x), float(y)) for x, y in zip(numbers[::2], numbers[1::2])}
    assert class_id == "0" and points == {(0.2, 0.2), (0.4, 0.2), (0.4, 0.4), (0.2, 0.4)}


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_polygon_fills_the_mask_its_holes_and_the_lines_between_its_parts(pixels):
    polygon = polygon_of(pixels)
    if not pixels.any():
        assert len(polygon) == 0
        return
    assert len(polygon) >= 3 and pixels[polygon[:, 1], polygon[:, 0]].all()
    drawn = cv2.fillPoly(np.zeros(pixels.shape, np.uint8), [polygon.astype(np.int32)], 1) > 0
    assert drawn[pixels].all()
    if cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)[0] == 2:  # background and one part
        assert (drawn == binary_fill_holes(pixels)).all()


def test_parts_are_joined_where_they_are_closest():
    pixels = np.zeros((40, 60), bool)
    pixels[5:25, 5:25] = pixels[15:35, 30:50] = pixels[0:3, 55:60] = True
    drawn = cv2.fillPoly(np.zeros(pixels.shape, np.uint8), [polygon_of(pixels).astype(np.int32)], 1) > 0
    assert drawn[pixels].all() and drawn[~pixels].sum() == 8 + 12  # corner to corner


# PNG


def test_labels_by_hand(tmp_path):
    first, second = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    first[1:3, 1:4] = True
    second[2:, 2:] = True
    export(tmp_path, [found("x/a.jpg", first, second, size_hw=(4, 6))], "png")
    assert names(tmp_path / "out") == ["names.csv", "x_a.png"]
    labels = cv2.imread(str(tmp_path / "out/x_a.png"), cv2.IMREAD_UNCHANGED)
    expected = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 2, 2], [0, 0, 2, 2, 2, 2]]
    assert labels.dtype == np.uint8 and labels.tolist() == expected


def test_labels_are_numbers_of_objects(tmp_path):
    """Also if others are left out; and there can be many."""
    pixels = np.zeros((20, 20), bool)
    masks = []
    for place in range(300):
        masks.append(pixels.copy())
        masks[-1].flat[place] = True
    one = found("a.jpg", *masks, size_hw=(20, 20))
    kept = (replace(one.objects[0], box_xyxy=(0, 0, 20, 20)), *one.objects[1:])
    export(tmp_path, [replace(one, objects=kept)], "png", max_area=0.9)
    labels = cv2.imread(str(tmp_path / "out/a.png"), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint16
    assert labels.ravel().tolist() == [0, *range(2, 301), *[0] * 100]


# what cannot be written


@pytest.mark.parametrize("to", MASK_FORMATS)
def test_objects_without_masks_are_refused(lost_reg, tmp_path, save_scene, to):
    save_scene(tmp_path / "a.jpg")
    export(tmp_path, [prediction("a.jpg", (0, 0, 9, 9))], "csv", root=tmp_path)
    result = lost_reg("export", tmp_path / "run", "--to", to, "--out", tmp_path / "x")
    assert result.exit_code == 1 and result.stderr == (
        "Error: object 0 of a.jpg has no mask: `lost-reg run` with --masks or --refine writes them\n"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "mask",
    [
        Mask((6, 8), "4", (96.0, 128.0)),
        Mask((10**9, 10**9), "4", (96.0, 128.0)),
        Mask((6, 8), "\N{SNOWMAN}", (96.0, 128.0)),
    ],
    ids=("runs", "size", "text"),
)
@pytest.mark.parametrize("to", [*MASK_FORMATS, "coco"])
def test_malformed_masks_are_refused(tmp_path, to, mask):
    (tmp_path / "run").mkdir()
    line = export_refusal(tmp_path, to, found("a.jpg", blob(), mask))
    assert line.startswith("the mask of object 1 of a.jpg is malformed: ")
    assert {name.split("/")[0] for name in names(tmp_path)} == {"run"}


def export_refusal(tmp_path, to, one):
    from export_cases import FORMATS, write_predictions

    from lost_reg.export.run_export import ExportOptions, export_run

    folder = write_predictions(tmp_path / "run", [one])
    return refusal(export_run, folder, ExportOptions(to, tmp_path / f"x{FORMATS[to].suffix}", images="none"))


def test_an_image_of_absurd_size_is_refused(tmp_path):
    one = replace(found("a.jpg", blob()), size_hw=(10**9, 10**9))
    assert "too large" in export_refusal(tmp_path, "coco", one)
