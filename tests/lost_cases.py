"""What tests of LOST share: drawn images, and results in a form that is compared with the oracle's."""

from __future__ import annotations

import torch

from lost_reg.discovery.lost import LostResult, lost

GRIDS = [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (2, 2), (3, 3), (2, 5), (5, 4), (4, 7), (6, 6), (8, 5)]


def found_in(features, grid_hw: tuple[int, int], **options):
    """Box, seed and degree of one image, as tuples and a number."""
    found = lost(torch.as_tensor(features), grid_hw, **options)
    assert found.boxes_xyxy.shape == (1, 4) and found.seeds.shape == (1, 2) and found.degrees.shape == (1,)
    return tuple(found.boxes_xyxy[0].tolist()), tuple(found.seeds[0].tolist()), found.degrees[0].item()


def drawn(*rows: str) -> tuple[torch.Tensor, tuple[int, int]]:
    """Features of a drawn grid: 'o' is an object's patch, '.' the background's.

    o.o = 1, o.b = -1/4, b.b = 17/16: two kinds, each similar to itself only. Where 'o' is the rarer
    kind its degree is the lower, so the first 'o' is the seed, and the mask is exactly the 'o's.
    """
    kinds = {"o": [1.0, 0.0], ".": [-0.25, 1.0]}
    return torch.tensor([kinds[char] for row in rows for char in row]), (len(rows), len(rows[0]))


def same(one: LostResult, other: LostResult) -> bool:
    """Whether two results are the same, field by field."""
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))
