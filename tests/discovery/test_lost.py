"""LOST: worked by hand where it can be, and against the scalar oracle everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lost_cases import GRIDS, drawn, found_in
from lost_oracle import oracle_lost

from lost_reg.discovery.lost import lost


def compare_with_oracle(features, grid_hw, k_patches, biases, *, exact: bool) -> int:
    """Assert that lost, all images in one batch, is the oracle on each; give how many were compared."""
    found = lost(features, grid_hw, k_patches=k_patches, bias=biases)
    compared = 0
    for index, image in enumerate(features.numpy()):
        expected = oracle_lost(image, grid_hw, k_patches, biases[index].item())
        if expected.ambiguous and not exact:
            continue
        compared += 1
        got = (
            tuple(found.boxes_xyxy[index].tolist()),
            tuple(found.seeds[index].tolist()),
            found.degrees[index].item(),
        )
        assert got == (expected.box, expected.seed, expected.degree), (index, image.tolist(), biases[index])
        assert found.affinities[index].item() == pytest.approx(expected.affinity, abs=1e-5)
    return compared


# Against the oracle


@pytest.mark.parametrize("grid_hw", GRIDS, ids=str)
@pytest.mark.parametrize("width, shift, k_patches", [(3, 0.0, 100), (16, 0.3, 5), (64, 0.0, 1)])
def test_gaussian_features_give_the_oracles_result(grid_hw, width, shift, k_patches):
    random = torch.Generator().manual_seed(1000 * grid_hw[0] + 100 * grid_hw[1] + width)
    features = torch.randn(60, grid_hw[0] * grid_hw[1], width, generator=random) + shift
    # biases on the scale of the affinities, a third of them zero
    biases = torch.randn(60, generator=random) * width**0.5 * (torch.arange(60) % 3 > 0)
    assert compare_with_oracle(features, grid_hw, k_patches, biases, exact=False) >= 50


@pytest.mark.parametrize("grid_hw", GRIDS, ids=str)
@pytest.mark.parametrize("largest, width, k_patches", [(1, 2, 100), (1, 4, 4), (3, 3, 7), (2, 8, 100)])
def test_integer_features_give_the_oracles_result_exactly(grid_hw, largest, width, k_patches):
    """Whole numbers leave nothing to rounding: ties and exact zeros (A = 0 is not positive) abound."""
    random = torch.Generator().manual_seed(1000 * grid_hw[0] + 100 * grid_hw[1] + width)
    shape = (50, grid_hw[0] * grid_hw[1], width)
    features = torch.randint(-largest, largest + 1, shape, generator=random).float()
    biases = torch.randint(-3, 3, (50,), generator=random).float()
    assert compare_with_oracle(features, grid_hw, k_patches, biases, exact=True) == 50


def test_smooth_fields_with_large_objects_give_the_oracles_result():
    """Features that vary slowly over the grid, as an image's do: components of many shapes."""
    random = torch.Generator().manual_seed(5)
    coarse = torch.randn(100, 6, 3, 4, generator=random)
    fields = torch.nn.functional.interpolate(coarse, size=(8, 11), mode="bicubic")
    features = fields.flatten(2).mT.contiguous()  # (100, 88, 6)
    assert compare_with_oracle(features, (8, 11), 20, torch.zeros(100), exact=False) >= 80


def test_the_oracle_sees_what_rounding_decides():
    assert oracle_lost(np.array([[1.0, 0.0], [0.0, 1.0]]), (1, 2)).ambiguous  # A = 0
    assert oracle_lost(np.array([[1.0, 0.0], [1e-8, 1.0]]), (1, 2)).ambiguous  # A = 1e-8
    assert not oracle_lost(np.array([[1.0, 0.0], [0.5, 1.0]]), (1, 2)).ambiguous


# Worked by hand


def test_the_seed_is_the_patch_of_lowest_degree():
    # a.a = 1, a.b = -1, b.b = 2: each a is similar to the two others (degree 2), b to none (0).
    # S: of a.b = -1 and b.b = 2 only b's own is positive, so M = (-1, -1, 2, -1).
    a, b = [1.0, 0.0], [-1.0, 1.0]
    assert found_in([a, a, b, a], (1, 4)) == ((2, 0, 3, 1), (0, 2), 0)


def test_k_is_how_many_of_the_lowest_degrees_may_expand():
    # s.s = 1, s.p = 1, s.q = -1, p.p = 5, p.q = 5, q.q = 10. Degrees s 1 (p), p 2 (s, q), q 1 (p);
    # so the order is s, q, p.
    s, p, q = [1.0, 0.0], [1.0, 2.0], [-1.0, 3.0]
    # k = 2: s and q are asked, S = {s}; M = (1, 1, -1).
    assert found_in([s, p, q], (1, 3), k_patches=2) == ((0, 0, 2, 1), (0, 0), 1)
    # k = 3: p joins, S = {s, p}; M = (1 + 1, 1 + 5, -1 + 5).
    assert found_in([s, p, q], (1, 3), k_patches=3) == ((0, 0, 3, 1), (0, 0), 1)


def test_a_zero_affinity_is_not_positive():
    # Unit vectors at right angles: A = 0 off the diagonal, so no patch has a neighbour, the first is
    # the seed, S = {seed} and M = (1, 0, 0).
    assert found_in(torch.eye(3), (1, 3)) == ((0, 0, 1, 1), (0, 0), 0)


def test_equal_degrees_go_to_the_first_patch_in_row_major_order():
    features, grid_hw = drawn("....", ".o..", "..o.")  # both have degree 1
    assert found_in(features, grid_hw) == ((1, 1, 2, 2), (1, 1), 1)


def test_equal_features_are_one_object_seeded_at_the_first_patch():
    # every A is 3: all degrees are N - 1
    assert found_in(torch.ones(600, 3), (20, 30)) == ((0, 0, 30, 20), (0, 0), 599)


def test_zero_features_give_the_first_patch_alone():
    assert found_in(torch.zeros(12, 4), (3, 4)) == ((0, 0, 1, 1), (0, 0), 0)


def test_one_patch_is_its_own_box():
    assert found_in([[2.0, 1.0]], (1, 1)) == ((0, 0, 1, 1), (0, 0), 0)


def test_k_above_the_number_of_patches_takes_all():
    features, grid_hw = drawn("....", ".oo.", "....")
    expected = ((1, 1, 3, 2), (1, 1), 1)
    assert found_in(features, grid_hw, k_patches=12) == expected
    assert found_in(features, grid_hw, k_patches=10**6) == expected


@pytest.mark.parametrize("k_patches", [1, 100])
@pytest.mark.parametrize(
    "rows, box",
    [
        (["....", "..o.", "...."], (2, 1, 3, 2)),  # alone
        (["oo..", "o...", "...."], (0, 0, 2, 2)),  # in the corner of the first patch
        (["....", "...o", "..oo"], (2, 1, 4, 3)),  # in the corner of the last
        (["..o..", "..o..", "..o.."], (2, 0, 3, 3)),  # from border to border
        (["......", ".ooo..", ".o....", ".ooo..", "......"], (1, 1, 4, 4)),  # its extent holds background
        (["o.......", "..ooo..."], (0, 0, 1, 1)),  # the seed's component is the smaller of two
        ([".o.", "o..", "..."], (1, 0, 2, 1)),  # diagonal neighbours
        (["..o..", ".o...", "..o.."], (2, 0, 3, 1)),
        (["o.....ooo."], (0, 0, 1, 1)),  # 1 x N
        (list(".....ooo.."), (0, 5, 1, 8)),  # N x 1
        (["....oo", "o....."], (4, 0, 6, 1)),  # the end of one row is no neighbour of the next one's start
    ],
)
def test_the_box_is_the_extent_of_the_seeds_4_connected_component(rows, box, k_patches):
    features, grid_hw = drawn(*rows)
    assert found_in(features, grid_hw, k_patches=k_patches)[0] == box


def test_the_grid_is_rows_by_columns():
    features, _ = drawn("...", "..o", "..o", "...")
    assert found_in(features, (4, 3))[:2] == ((2, 1, 3, 3), (1, 2))
    # the same patches in 3 rows of 4: numbers 5 and 8 are (1, 1) and (2, 0)
    assert found_in(features, (3, 4))[:2] == ((1, 1, 2, 2), (1, 1))


# Bias


def test_bias_is_added_to_affinities_in_degrees_and_in_the_expansion():
    # A = (1 2 1; 2 5 4; 1 4 5) from (1, 0), (2, 1), (1, 2): all similar, the first is the seed.
    features = [[1.0, 0.0], [2.0, 1.0], [1.0, 2.0]]
    assert found_in(features, (1, 3)) == ((0, 0, 3, 1), (0, 0), 2)
    # b = -1: A = (0 1 0; 1 4 3; 0 3 4). Degrees 1, 2, 1: the first is the seed. S: 0, 1 and 0, only
    # the second is in. M is the second row, (1, 4, 3): all.
    assert found_in(features, (1, 3), bias=-1.0) == ((0, 0, 3, 1), (0, 0), 1)
    # b = -3: A = (-2 -1 -2; -1 2 1; -2 1 2). Degrees 0, 1, 1; S is empty: the seed alone.
    assert found_in(features, (1, 3), bias=-3.0) == ((0, 0, 1, 1), (0, 0), 0)


def test_bias_counts_once_for_each_member_of_s():
    # Products: s.s 4, s.p 4, s.q 2, s.r 0; p.p 5, p.q 1, p.r -3; q.q 2, q.r 3; r.r 9. With b = -2 the
    # degrees are s 1 (p), p 1 (s), q 2 (both r), r 2: s is the seed and S = {s, p}.
    s, p, q, r = [2.0, 0.0], [2.0, 1.0], [1.0, -1.0], [0.0, -3.0]
    # M_q = (2 - 2) + (1 - 2) = -1, and M is positive at s and p alone; with b once, M_q were 1.
    assert found_in([s, p, q, r, r], (1, 5), bias=-2.0) == ((0, 0, 2, 1), (0, 0), 1)


def test_an_empty_s_gives_the_seeds_own_patch():
    features = torch.eye(4)[[0, 0, 1, 1, 1, 2]]  # one-hot: normalised without rounding
    # at b = -1 even equal patches have A = 1 - 1 = 0, and no patch is similar to itself
    assert found_in(features, (2, 3), bias=-1.0) == ((0, 0, 1, 1), (0, 0), 0)
    assert found_in(features, (2, 3), bias=-1e6) == ((0, 0, 1, 1), (0, 0), 0)


def test_s_may_hold_others_without_the_seed():
    # b = -2: A = (-1 1; 1 7), from (1, 0) and (3, 0). Degrees 1 and 1, the first is the seed and not
    # similar to itself; S = {second}, M = (1, 7).
    assert found_in([[1.0, 0.0], [3.0, 0.0]], (1, 2), bias=-2.0) == ((0, 0, 2, 1), (0, 0), 1)


def test_a_bias_for_each_image_is_that_images():
    features = torch.randint(-3, 4, (4, 20, 3), generator=torch.Generator().manual_seed(8)).float()
    biases = torch.tensor([0.0, -1.0, 2.0, -6.0])
    together = lost(features, (4, 5), bias=biases)
    for index, bias in enumerate(biases.tolist()):
        alone = lost(features[index], (4, 5), bias=bias)
        assert torch.equal(together.boxes_xyxy[index], alone.boxes_xyxy[0])
        assert torch.equal(together.seeds[index], alone.seeds[0])
        assert together.degrees[index] == alone.degrees[0]
    assert len({*together.degrees.tolist()}) > 1  # the biases matter


def test_affinity_is_the_mean_cosine_over_the_whole_box():
    # 'o' and '.' have the cosine -1/4 / sqrt(17/16) = -1/sqrt(17); 7 of the box's 9 patches are 'o'
    features, grid_hw = drawn("......", ".ooo..", ".o....", ".ooo..", "......")
    found = lost(features, grid_hw)
    assert found.boxes_xyxy.tolist() == [[1, 1, 4, 4]]
    assert found.affinities.tolist() == [pytest.approx((7 - 2 / 17**0.5) / 9)]


# Properties


@st.composite
def integer_images(draw):
    rows, columns, width = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    values = draw(
        st.lists(st.integers(-3, 3), min_size=rows * columns * width, max_size=rows * columns * width)
    )
    return torch.tensor(values, dtype=torch.float32).view(rows * columns, width), (rows, columns)


@settings(max_examples=100)
@given(integer_images(), st.integers(-8, 2), st.integers(1, 30))
def test_the_box_holds_the_seed_and_lies_in_the_grid(image, bias, k_patches):
    features, grid_hw = image
    (xmin, ymin, xmax, ymax), (row, column), degree = found_in(
        features, grid_hw, bias=bias, k_patches=k_patches
    )
    assert 0 <= xmin <= column < xmax <= grid_hw[1]
    assert 0 <= ymin <= row < ymax <= grid_hw[0]
    assert 0 <= degree < len(features)


@settings(max_examples=100)
@given(integer_images(), st.data())
def test_neither_the_order_of_dimensions_nor_the_scale_matters(image, data):
    features, grid_hw = image
    found = found_in(features, grid_hw)
    order = data.draw(st.permutations(range(features.shape[1])))
    scale = 2.0 ** data.draw(st.integers(-8, 8))
    assert found_in(features[:, order] * scale, grid_hw) == found


@settings(max_examples=100)
@given(integer_images(), st.integers(-8, 2))
def test_any_integer_image_gives_the_oracles_result(image, bias):
    features, grid_hw = image
    expected = oracle_lost(features.numpy(), grid_hw, bias=bias)
    assert found_in(features, grid_hw, bias=bias) == (expected.box, expected.seed, expected.degree)


# Errors


@pytest.mark.parametrize("shape", [(7, 3), (2, 7, 3), (6,), (1, 1, 6, 3), (0, 6, 3), (1, 6, 0)])
def test_features_that_do_not_fit_the_grid_are_refused(shape):
    with pytest.raises(ValueError, match=r"N = 2 \* 3 patches, but got \("):
        lost(torch.ones(shape), (2, 3))


@pytest.mark.parametrize("k_patches", [0, -1])
def test_k_below_1_is_refused(k_patches):
    with pytest.raises(ValueError, match=f"k_patches of at least 1, but got {k_patches}"):
        lost(torch.ones(6, 2), (2, 3), k_patches=k_patches)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    features = torch.ones(2, 6, 2)
    features[1, 3, 0] = value
    with pytest.raises(ValueError, match="expected finite features"):
        lost(features, (2, 3))


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (2, 6)])
def test_a_bias_that_is_neither_one_nor_one_for_each_image_is_refused(shape):
    with pytest.raises(ValueError, match="expected one bias or 2, but got shape"):
        lost(torch.ones(2, 6, 2), (2, 3), bias=torch.zeros(shape))
