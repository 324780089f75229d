"""The masks of a COCO file: polygons and run lengths, decoded by hand, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import refusal
from pycocotools import mask as coco

from lost_reg.datasets.catalog import find_dataset
from lost_reg.masks.grids import cells

HEIGHT, WIDTH = 96, 128  # of make_coco's images
SQUARE = [[10, 20, 40, 20, 40, 60, 10, 60]]  # as x, y, x, y, ...


def rectangle(xmin, ymin, xmax, ymax):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[ymin:ymax, xmin:xmax] = 1
    return pixels


def counts_of(pixels):
    """The lengths of its runs, outside first, column by column: by a loop."""
    counts, current = [0], 0
    for value in pixels.T.ravel():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def with_segmentations(path, *segmentations):
    """The COCO file, with the segmentations for its annotations; None for none."""
    content = json.loads(path.read_text())
    for one, segmentation in zip(content["annotations"], segmentations, strict=True):
        if segmentation is not None:
            one["segmentation"] = segmentation
    path.write_text(json.dumps(content))
    return find_dataset(str(path), path.parent)


def test_polygons_and_run_lengths_without_crowds(tmp_path, make_coco):
    boxes = [(10, 20, 30, 40, 0), (0, 0, 9, 9, 1), (5, 6, 7, 8, 0), (5, 6, 7, 8, 0)]
    path = make_coco(tmp_path, {"a.jpg": boxes, "b.jpg": []})
    pixels = rectangle(5, 6, 12, 14)
    compressed = coco.encode(pixels)["counts"].decode()
    found = with_segmentations(
        path,
        SQUARE,
        {"size": [HEIGHT, WIDTH], "counts": counts_of(rectangle(0, 0, 9, 9))},
        {"size": [HEIGHT, WIDTH], "counts": counts_of(pixels)},
        {"size": [HEIGHT, WIDTH], "counts": compressed},
    )
    masks = [cells(mask) for mask in found.masks_of(found.truths["a.jpg"])]
    expected = [rectangle(10, 20, 40, 60), pixels, pixels]
    assert [(mask == one).all() for mask, one in zip(masks, expected, strict=True)] == [True] * 3
    assert found.masks_of(found.truths["b.jpg"]) == ()
    assert found.masks_of(found.truths["a.jpg"])[0].spans_hw == (HEIGHT, WIDTH)


def test_several_polygons_are_one_object(tmp_path, make_coco):
    path = make_coco(tmp_path, {"a.jpg": [(0, 0, 60, 60, 0)]})
    found = with_segmentations(path, [[0, 0, 10, 0, 10, 10, 0, 10], *SQUARE])
    (mask,) = found.masks_of(found.truths["a.jpg"])
    assert (cells(mask) == (rectangle(0, 0, 10, 10) | rectangle(10, 20, 40, 60))).all()


@pytest.mark.parametrize("segmentation", [None, []])
def test_a_file_whose_objects_lack_masks_has_none(tmp_path, make_coco, segmentation):
    path = make_coco(tmp_path, {"a.jpg": [(0, 0, 60, 60, 0), (1, 1, 2, 2, 0)]})
    assert with_segmentations(path, SQUARE, segmentation).masks_of is None


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["1", 2, 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, 1e9]],
        [[1, 2, 3, 4, 5, -1e300]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [5],
        "text",
        7,
        {"size": [HEIGHT, WIDTH]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 1]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": 5},
    ],
)
def test_malformed_masks(tmp_path, make_coco, segmentation):
    path = make_coco(tmp_path, {"a.jpg": [(0, 0, 60, 60, 0)]})
    found = with_segmentations(path, segmentation)
    line = refusal(found.masks_of, found.truths["a.jpg"])
    assert line.startswith(f"{path}: annotation 1 of image a.jpg: segmentation")
    assert "Error" not in line


def test_masks_of_an_image_of_unknown_size(tmp_path, make_coco):
    path = make_coco(tmp_path, {"a.jpg": [(0, 0, 60, 60, 0)]})
    content = json.loads(path.read_text())
    del content["images"][0]["height"]
    path.write_text(json.dumps(content))
    found = with_segmentations(path, SQUARE)
    line = refusal(found.masks_of, found.truths["a.jpg"])
    assert line == f"{path}: annotation 1 of image a.jpg has a mask, but the size of the image is not known"
    sized = found.with_sizes({"a.jpg": (HEIGHT, WIDTH)}, ["a.jpg"])
    assert (cells(sized.masks_of(sized.truths["a.jpg"])[0]) == rectangle(10, 20, 40, 60)).all()
