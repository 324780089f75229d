"""Changing tokens: hand-worked patches, what is drawn from other images, and that batches do not matter."""

from __future__ import annotations

import pytest
import torch

from lost_reg.artifacts.controls import (
    DONOR_IMAGES,
    TOKENS_OF_DONOR,
    Chosen,
    Donors,
    changed_patches,
    donor_images,
    given_tokens,
)

PATCHES = torch.tensor([[1.0, 0.0], [90.0, 90.0], [3.0, 2.0], [5.0, 4.0], [-70.0, 8.0]])
OUTLIERS = torch.tensor([False, True, False, False, True])
MEAN = torch.tensor([3.0, 2.0])  # of the three that are no outliers


@pytest.fixture
def chosen():
    return Chosen.of(OUTLIERS, image=7, seed=0)


def test_as_many_other_patches_are_chosen_at_random(chosen):
    assert torch.equal(chosen.of_group("outliers"), OUTLIERS)
    assert int(chosen.rest.sum()) == 2 and not (chosen.rest & OUTLIERS).any()
    drawn = {tuple(Chosen.of(OUTLIERS, image, seed=0).rest.tolist()) for image in range(30)}
    assert len(drawn) == 3  # all pairs of three patches
    assert torch.equal(Chosen.of(OUTLIERS, image=7, seed=0).rest, chosen.rest)
    others = [Chosen.of(OUTLIERS, image=7, seed=seed).rest.tolist() for seed in range(10)]
    assert any(one != chosen.rest.tolist() for one in others)
    nearly_all = Chosen.of(torch.tensor([True, True, True, False]), image=0, seed=0)
    assert nearly_all.rest.tolist() == [False, False, False, True]


@pytest.mark.parametrize("group", ["outliers", "rest"])
@pytest.mark.parametrize("control, new", [("mean", MEAN), ("zeroed", torch.zeros(2))])
def test_chosen_patches_become_the_mean_or_zero(group, control, new, chosen):
    before = PATCHES.clone()
    changed, count = changed_patches(PATCHES, chosen, group, control, None, seed=0)
    at = chosen.of_group(group)
    assert count == 2 and torch.equal(PATCHES, before)
    assert torch.equal(changed[at], new.expand(2, -1)) and torch.equal(changed[~at], PATCHES[~at])


def test_an_image_of_outliers_alone_has_no_mean():
    chosen = Chosen.of(torch.ones(5, dtype=torch.bool), image=0, seed=0)
    changed, count = changed_patches(PATCHES, chosen, "outliers", "mean", None, seed=0)
    assert count == 5 and not changed.any()
    assert changed_patches(PATCHES, chosen, "rest", "mean", None, seed=0)[1] == 0


def donors_of(*images: tuple[int, list[float]]) -> Donors:
    """Donors with tokens (value, value) of both groups; those of the others are negative."""

    def tokens(values):
        return torch.tensor(values).reshape(-1, 1).expand(-1, 2)

    given = [(image, {"outliers": tokens(values), "rest": -tokens(values)}) for image, values in images]
    return Donors.of(given)


def test_shuffled_patches_are_of_their_group_in_other_images(chosen):
    donors = donors_of((7, [100.0, 101.0]), (2, [20.0]), (9, [90.0, 91.0]))
    for seed in range(20):
        for group, sign in (("outliers", 1), ("rest", -1)):
            changed, count = changed_patches(PATCHES, chosen, group, "shuffled", donors, seed)
            new = changed[chosen.of_group(group)][:, 0].tolist()
            assert count == 2 and set(new) <= {sign * value for value in (20, 90, 91)}
            assert len(set(new)) == 2  # without replacement
    few = donors_of((7, [100.0, 101.0]), (2, [20.0]))
    changed, _ = changed_patches(PATCHES, chosen, "outliers", "shuffled", few, seed=0)
    assert changed[OUTLIERS].tolist() == [[20, 20], [20, 20]]  # there is one, for both


def test_what_is_drawn_does_not_depend_on_the_order_of_images(chosen):
    images = [(image, [10.0 * image, 10.0 * image + 1]) for image in range(5)]
    one, other = donors_of(*images), donors_of(*reversed(images))
    for seed in range(5):
        first, second = (one.draw("outliers", 3, 4, seed), other.draw("outliers", 3, 4, seed))
        assert torch.equal(first, second)
    assert not torch.equal(one.draw("outliers", 3, 4, 0), one.draw("outliers", 3, 4, 1))


def test_an_only_image_stays_as_it_is(chosen):
    changed, count = changed_patches(PATCHES, chosen, "outliers", "shuffled", donors_of((7, [1.0])), seed=0)
    assert count == 0 and torch.equal(changed, PATCHES)


def test_an_image_gives_tokens_of_each_group(chosen):
    given = given_tokens(PATCHES, chosen, seed=0)
    assert sorted(given["outliers"][:, 0].tolist()) == [-70, 90]
    assert sorted(given["rest"][:, 0].tolist()) == sorted(PATCHES[chosen.rest][:, 0].tolist())
    many = torch.arange(300.0).reshape(-1, 1)
    every = Chosen.of(torch.arange(300) % 2 == 0, image=0, seed=0)
    given = given_tokens(many, every, seed=0)
    assert [len(tokens) for tokens in given.values()] == [TOKENS_OF_DONOR] * 2
    assert (given["outliers"] % 2 == 0).all() and (given["rest"] % 2 == 1).all()
    assert given["outliers"].max() > 200  # from all over the image


def test_some_images_give_tokens():
    assert donor_images(10, seed=0) == list(range(10))
    many = donor_images(10_000, seed=0)
    assert len(set(many)) == DONOR_IMAGES and many == sorted(many) and max(many) > 9000
    assert many != donor_images(10_000, seed=1)
