"""Seeds and expansion: on a part of the patches, in batches, and in every number format."""

from __future__ import annotations

import pytest
import torch
from lost_cases import GRIDS, drawn, found_in, same
from lost_oracle import oracle_lost

from lost_reg.discovery.lost import lost, lowest_degree_patches, objects_of, seed_and_expand
from lost_reg.discovery.method import PatchObject

# The graph of some of the patches


def among(features, grid_hw, remaining, *, k_patches=100, bias=None) -> list[PatchObject]:
    """The object of each image of a batch, on the patches that remain."""
    found = seed_and_expand(features, k_patches=k_patches, bias=bias, remaining=remaining)
    return objects_of(found.cpu(), grid_hw, digits=None)


def numbers(one: PatchObject) -> tuple:
    """Box, seed and degree."""
    return one.box_xyxy, one.seed, one.details["degree"]


def same_as_oracle(features, grid_hw, remaining, k_patches, biases, *, exact: bool) -> int:
    """Assert that each image is as by the oracle on the remaining patches; give how many were compared."""
    found = among(features, grid_hw, remaining, k_patches=k_patches, bias=biases)
    compared = 0
    for index, image in enumerate(features.numpy()):
        taken = set((~remaining[index]).nonzero()[:, 0].tolist())
        if len(taken) == len(image):
            continue  # nothing is said of an image without patches
        expected = oracle_lost(image, grid_hw, k_patches, biases[index].item(), taken)
        if expected.ambiguous and not exact:
            continue
        compared += 1
        assert numbers(found[index]) == (expected.box, expected.seed, expected.degree), index
        assert found[index].score == pytest.approx(expected.affinity, abs=1e-5)
    return compared


@pytest.mark.parametrize("grid_hw", GRIDS, ids=str)
@pytest.mark.parametrize("k_patches", [2, 100])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_lost_on_some_of_the_patches_is_the_oracles(grid_hw, k_patches, share):
    random = torch.Generator().manual_seed(100 * grid_hw[0] + grid_hw[1])
    patches = grid_hw[0] * grid_hw[1]
    remaining = torch.rand(20, patches, generator=random) < share
    remaining[torch.arange(20), torch.randint(patches, (20,), generator=random)] = True  # at least one
    integers = torch.randint(-2, 3, (20, patches, 3), generator=random).float()
    biases = torch.randint(-2, 3, (20,), generator=random).float()
    assert same_as_oracle(integers, grid_hw, remaining, k_patches, biases, exact=True) == 20
    smooth = torch.randn(20, patches, 16, generator=random)
    assert same_as_oracle(smooth, grid_hw, remaining, k_patches, biases, exact=False) >= 18


def test_patches_that_do_not_remain_count_in_nothing():
    # A of (1, 0), (1, 1), (0, 1), (-1, 1): 1 1 0 -1; 1 2 1 0; 0 1 1 1; -1 0 1 2. Degrees 1, 2, 2, 1.
    features = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]]])
    assert found_in(features, (1, 4)) == ((0, 0, 3, 1), (0, 0), 1)  # S = {0, 1}, M = (2, 3, 1, -1)
    # Without the first: degrees 1, 2, 1, the second is the seed, S = {1, 2}, M = (-, 3, 2, 1).
    found = among(features, (1, 4), torch.tensor([[False, True, True, True]]))
    assert numbers(found[0]) == ((1, 0, 4, 1), (0, 1), 1)
    # The outer two, which are not similar: the first is the seed, S = {0}, M = (1, -, -, -1).
    found = among(features, (1, 4), torch.tensor([[True, False, False, True]]))
    assert numbers(found[0]) == ((0, 0, 1, 1), (0, 0), 0)


def test_all_patches_are_as_if_none_were_named():
    features = torch.randn(6, 30, 8, generator=torch.Generator().manual_seed(2))
    bias = torch.linspace(-1, 1, 6)
    everything = torch.ones(6, 30, dtype=torch.bool)
    found, whole = among(features, (5, 6), everything, bias=bias), lost(features, (5, 6), bias=bias)
    assert [list(one.box_xyxy) for one in found] == whole.boxes_xyxy.tolist()
    assert [list(one.seed) for one in found] == whole.seeds.tolist()
    assert [one.details["degree"] for one in found] == whole.degrees.tolist()
    assert [one.score for one in found] == whole.affinities.tolist()


def test_an_image_without_patches_disturbs_no_other():
    features = torch.randn(3, 30, 8, generator=torch.Generator().manual_seed(2))
    remaining = torch.ones(3, 30, dtype=torch.bool)
    remaining[1] = False
    found, whole = among(features, (5, 6), remaining), among(features, (5, 6), None)
    for index in (0, 2):
        assert (numbers(found[index]), found[index].score) == (numbers(whole[index]), whole[index].score)


def test_cosines_are_left_out_where_they_are_not_asked_for():
    found = seed_and_expand(torch.randn(2, 12, 5), with_cosines=False)
    assert found.cosines is None and len(found.tensors()) == 4
    assert [one.score for one in objects_of(found.cpu(), (3, 4))] == [None, None]


# Batches and types


def test_a_batch_gives_what_its_images_give_alone():
    features = torch.randn(16, 35, 12, generator=torch.Generator().manual_seed(3))
    together = lost(features, (5, 7))
    alone = [lost(image[None], (5, 7)) for image in features]
    for name in vars(together):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in alone]))


def test_order_is_by_degree_and_then_by_index():
    degrees = torch.tensor([[3, 1, 2, 1, 0], [5, 5, 5, 5, 5]])
    assert lowest_degree_patches(degrees, 4).tolist() == [[4, 1, 3, 2], [0, 1, 2, 3]]
    many_ties = torch.arange(3000).remainder(3)[None]
    assert lowest_degree_patches(many_ties, 1500)[0].tolist() == [*range(0, 3000, 3), *range(1, 1500, 3)]


def test_features_of_one_image_need_no_batch_dimension():
    features, grid_hw = drawn("....", ".oo.")
    assert same(lost(features, grid_hw), lost(features[None], grid_hw))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    features = (100 * torch.randn(8, 30, 16, generator=torch.Generator().manual_seed(6))).to(dtype)
    assert same(lost(features, (5, 6)), lost(features.float(), (5, 6)))


def test_products_below_float16_do_not_vanish():
    # A = 1e-8 * (1, 1, -1; 1, 1, -1; -1, -1, 1), which float16 (smallest 6e-8) has as 0. Degrees 1, 1, 0.
    features = torch.tensor([[1e-4], [1e-4], [-1e-4]], dtype=torch.float16)
    assert found_in(features, (1, 3)) == ((2, 0, 3, 1), (0, 2), 0)


def test_float64_is_computed_in_float64():
    # A = 1e-12 beside terms of 1, which float32 rounds to 0
    features = torch.tensor([[1.0, 1.0], [1.0, -1.0 + 1e-12]], dtype=torch.float64)
    assert found_in(features, (1, 2)) == ((0, 0, 2, 1), (0, 0), 1)


def test_the_result_is_int64_on_the_cpu_and_the_input_is_left_alone():
    features = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(7))
    before = features.clone()
    found = lost(features, (2, 3), bias=-0.5)
    assert {t.dtype for name, t in vars(found).items() if name != "affinities"} == {torch.int64}
    assert {t.device.type for t in vars(found).values()} == {"cpu"}
    assert torch.equal(features, before)


def test_features_that_carry_gradients_are_taken():
    features, grid_hw = drawn("....", ".oo.")
    assert same(lost(features.clone().requires_grad_(), grid_hw), lost(features, grid_hw))
