"""Controls: tokens that enter the last block, changed, to see what discovery and the class token owe to them.

Outliers are changed, and, for comparison, as many random other patches of the same images. A change that does
the same to both says nothing about outliers. There are three, each of one image's patches:

- "mean": each chosen patch becomes the mean of the image's patches that are no outliers.
- "shuffled": each gets a token of its own group, drawn at random from other images.
- "zeroed": each becomes zero. The block's LayerNorm makes its bias of it.

All that is random depends on the seed and on the image's place among all images, not on the batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lost_reg.artifacts.probes import sample_others
from lost_reg.artifacts.records import GROUPS, Control, Group

DONOR_IMAGES = 256  # the images that give tokens to others, drawn at random
TOKENS_OF_DONOR = 64  # at most, of each group
_CHOOSING, _GIVING, _TAKING = range(3)  # what is random, each with numbers of its own


@dataclass(frozen=True)
class Chosen:
    """The patches of one image that are to be changed: (N,) bool for each group, and those that are outliers.

    image: its place among all images.
    """

    image: int
    outliers: Tensor
    rest: Tensor

    @classmethod
    def of(cls, outliers: Tensor, image: int, seed: int) -> Chosen:
        """All outliers, (N,) bool, and as many random other patches (all of them, if there are fewer)."""
        rest = sample_others(outliers[None], _random(seed, image, _CHOOSING))[0]
        return cls(image, outliers, rest)

    def of_group(self, group: Group) -> Tensor:
        """(N,) bool."""
        return self.outliers if group == "outliers" else self.rest


@dataclass(frozen=True)
class Donors:
    """Tokens that images get from others, by group: (n, D), and (n,) the place of the image of each."""

    tokens: dict[Group, Tensor]
    images: dict[Group, Tensor]

    @classmethod
    def of(cls, given: Iterable[tuple[int, dict[Group, Tensor]]]) -> Donors:
        """Of what `given_tokens` gave of each image, with the image's place; their order does not matter."""
        ordered = sorted(given, key=lambda one: one[0])
        return cls(
            {group: torch.cat([tokens[group] for _, tokens in ordered]) for group in GROUPS},
            {
                group: torch.cat([torch.full((len(tokens[group]),), image) for image, tokens in ordered])
                for group in GROUPS
            },
        )

    def draw(self, group: Group, image: int, count: int, seed: int) -> Tensor:
        """Tokens of other images than this one, (count, D); (0, D) if no other image has any.

        Without replacement, if there are enough.
        """
        others = (self.images[group] != image).nonzero()[:, 0]
        random = _random(seed, image, _TAKING)
        if not len(others):
            chosen = others
        elif count <= len(others):
            chosen = others[torch.randperm(len(others), generator=random)[:count]]
        else:
            chosen = others[torch.randint(len(others), (count,), generator=random)]
        return self.tokens[group][chosen]


def donor_images(count: int, seed: int) -> list[int]:
    """The places of the images that give tokens to others, ascending, of `count` images."""
    random = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=random)[:DONOR_IMAGES].tolist())


def given_tokens(patches: Tensor, chosen: Chosen, seed: int) -> dict[Group, Tensor]:
    """The tokens of one image, (N, D), that others can get: (n, D) of each group, on the CPU."""
    random = _random(seed, chosen.image, _GIVING)
    order = torch.randperm(len(patches), generator=random)
    given = {group: order[chosen.of_group(group)[order]][:TOKENS_OF_DONOR] for group in GROUPS}
    return {group: patches[index.to(patches.device)].cpu() for group, index in given.items()}


def changed_patches(
    patches: Tensor, chosen: Chosen, group: Group, control: Control, donors: Donors | None, seed: int
) -> tuple[Tensor, int]:
    """The patches of one image, (N, D), those of a group changed, and how many these are.

    donors: for "shuffled"; where no other image has such tokens, nothing is changed.
    """
    at = chosen.of_group(group).nonzero()[:, 0].to(patches.device)
    if control == "shuffled":
        new = donors.draw(group, chosen.image, len(at), seed).to(patches)
        at = at[: len(new)]
    elif control == "mean":
        new = patches[~chosen.outliers.to(patches.device)].float().mean(dim=0).nan_to_num().to(patches)
    else:
        new = torch.zeros_like(patches[0])
    changed = patches.clone()
    changed[at] = new
    return changed, len(at)


def _random(seed: int, image: int, what: int) -> torch.Generator:
    """Random numbers for one image and purpose."""
    (mixed,) = np.random.SeedSequence((seed, image, what)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed >> 1))
