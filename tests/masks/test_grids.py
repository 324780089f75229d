"""Stored masks: encoding, decoding, and which pixels of an image they cover."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from lost_reg.masks.grids import box_of, cells, coco_segmentation, in_pixels, on_grid, stored, unless_far
from lost_reg.types import Mask

GRIDS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(GRIDS)
def test_a_stored_mask_is_read_back(grid):
    assert (cells(stored(grid, (1.0, 1.0))) == grid).all()


@given(GRIDS, st.integers(1, 5), st.data())
def test_a_patch_covers_its_pixels(grid, patch, data):
    rows, columns = grid.shape
    height, width = (data.draw(st.integers((side - 1) * patch + 1, side * patch)) for side in (rows, columns))
    mask = stored(grid, (rows * patch, columns * patch))
    expected = np.kron(grid, np.ones((patch, patch), bool))[:height, :width]
    assert (in_pixels(mask, (height, width)) == expected).all()


@given(GRIDS, st.integers(1, 4))
def test_on_its_own_grid_a_mask_is_itself_and_on_a_finer_one_each_cell_is_several(grid, times):
    mask = stored(grid, (30.0, 50.0))
    rows, columns = grid.shape
    finer = np.kron(grid, np.ones((times, times), bool)).astype(bool)
    assert (on_grid(mask, (rows * times, columns * times), (30.0, 50.0)) == finer).all()


def test_a_cell_is_covered_from_a_half():
    mask = stored(np.array([[1, 1, 1, 0, 0, 0, 0, 1]], bool), (10.0, 80.0))
    assert on_grid(mask, (1, 4), (10.0, 80.0)).tolist() == [[True, True, False, True]]
    assert on_grid(mask, (1, 2), (10.0, 80.0)).tolist() == [[True, False]]


def test_a_grid_that_reaches_further_than_the_mask_continues_its_edge():
    mask = stored(np.array([[0, 1]], bool), (10.0, 20.0))
    assert on_grid(mask, (1, 3), (10.0, 30.0)).tolist() == [[False, True, True]]


@given(GRIDS)
def test_a_box_is_the_extent_of_a_mask(grid):
    assume(grid.any())
    rows, columns = grid.nonzero()
    assert box_of(grid) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_refined_mask_is_kept_from_an_iou_of_a_half():
    coarse, half, less = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]], bool)[:, None]
    assert unless_far(half, coarse) is half
    assert unless_far(less, coarse) is coarse


def test_a_grid_of_a_smaller_image_is_scaled_up():
    grid = np.array([[True, False], [False, True]])  # of 2 x 2 patches, each 2.5 pixels of the original
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert in_pixels(stored(grid, (5.0, 5.0)), (4, 4)).astype(int).tolist() == expected


def test_the_pixels_of_a_scaled_image():
    grid = np.array([[True, False], [False, True]])
    mask = stored(grid, (6.0, 12.0))
    assert in_pixels(mask, (6, 12), (2, 4)).astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert (in_pixels(mask, (6, 12), (2, 2)) == grid).all()


@pytest.mark.parametrize("size_hw", [(10**9, 10**9), (1, 10**12), (20_000, 20_000)])
def test_absurd_sizes_are_refused_before_memory_is_taken(size_hw):
    whole = Mask(size_hw, runs_of(size_hw[0] * size_hw[1]), (8.0, 8.0))
    with pytest.raises(ValueError, match="too large"):
        cells(whole)
    with pytest.raises(ValueError, match="too large"):
        in_pixels(stored(np.ones((2, 2), bool), (8.0, 8.0)), size_hw)


def test_a_mask_of_many_more_cells_than_its_image_is_refused():
    mask = Mask((2000, 2000), runs_of(4_000_000), (8.0, 8.0))
    assert not cells(mask).any()
    with pytest.raises(ValueError, match="too large"):
        in_pixels(mask, (8, 8))


def runs_of(length: int) -> str:
    """One run outside, in COCO's encoding: five bits a character, the lowest first."""
    text = ""
    while length > 15:
        text, length = text + chr(48 + 32 + (length & 31)), length >> 5
    return text + chr(48 + length)


def test_a_tiny_span_is_no_danger():
    assert in_pixels(
        Mask((3, 3), stored(np.eye(3, dtype=bool), (1, 1)).counts, (1e-300, 1e-300)), (4, 4)
    ).all()


def test_a_segmentation_is_of_the_image_size():
    grid = np.array([[True, False, True]])
    segmentation = coco_segmentation(stored(grid, (4.0, 12.0)), (4, 10))
    assert segmentation["size"] == [4, 10]
    assert coco.area(segmentation) == 4 * 4 + 4 * 2


@pytest.mark.parametrize("counts", ["", "4", "444444", "P" * 30, "o" * 30, "é", "04\n", "~"])
def test_runs_of_another_length_are_refused(counts):
    with pytest.raises(ValueError, match="mask"):
        cells(Mask((3, 3), counts, (3.0, 3.0)))


@given(hnp.arrays(bool, (7, 9)), st.data())
def test_damaged_runs_are_refused_or_decoded(grid, data):
    counts = list(stored(grid, (7.0, 9.0)).counts)
    place = data.draw(st.integers(0, len(counts) - 1))
    counts[place] = chr(data.draw(st.integers(32, 126)))
    try:
        assert cells(Mask((7, 9), "".join(counts), (7.0, 9.0))).shape == (7, 9)
    except ValueError as error:
        assert "mask" in str(error)


def test_a_mask_of_pixels_is_a_segmentation_as_it_is():
    grid = np.array([[True, False], [True, True]])
    mask = stored(grid, (2.0, 2.0))
    assert (coco.decode(coco_segmentation(mask, (2, 2))) == grid).all()
    with pytest.raises(ValueError, match="mask"):
        coco_segmentation(Mask((2, 2), "5", (2.0, 2.0)), (2, 2))
