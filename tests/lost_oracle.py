"""LOST again, as slowly and plainly as it can be written: the oracle of `lost_reg.discovery.lost`.

Written from the protocol's text alone, one image at a time, in float64, with the whole Gram matrix and a
flood fill by hand. It shares no code with the package and knows nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

FLOAT32_STEP = 2.0**-23


@dataclass(frozen=True)
class OracleResult:
    """box: (xmin, ymin, xmax, ymax), half-open, in patches; seed: (row, column); degree: the seed's.

    positive_share: of all affinities between two different patches; 0 where there are none.

    affinity: mean cosine between the seed's feature and those in the box, 0 where one of them is zero.

    ambiguous: a number whose sign decides something lies within float32 rounding of zero, so that another
    order of summation may decide otherwise. Exact zeros of exact (integer) arithmetic count as ambiguous too:
    a test that knows its arithmetic to be exact pays no heed.
    """

    box: tuple[int, int, int, int]
    seed: tuple[int, int]
    degree: int
    positive_share: float
    affinity: float
    ambiguous: bool


def oracle_lost(
    features: np.ndarray,
    grid_hw: tuple[int, int],
    k_patches: int = 100,
    bias: float = 0.0,
    taken: Collection[int] = (),
) -> OracleResult:
    """LOST on the (N, D) features of one image, on the graph of all patches but those that are taken."""
    features = np.asarray(features, dtype=np.float64)
    rows, columns = grid_hw
    patches = rows * columns
    assert features.shape[0] == patches
    gram = (features @ features.T + bias).tolist()

    there = [p for p in range(patches) if p not in taken]
    degrees = {}
    for p in there:
        degrees[p] = sum(1 for q in there if q != p and gram[p][q] > 0)
    order = sorted(there, key=lambda p: (degrees[p], p))
    seed, candidates = order[0], order[:k_patches]

    similar = [p for p in candidates if gram[seed][p] > 0]
    summed = [sum(gram[p][q] for p in similar) for q in range(patches)]
    mask = [summed[q] > 0 and q in there for q in range(patches)]
    mask[seed] = True  # it is already, unless `similar` is empty

    component = flood(mask, seed, rows, columns)
    at_rows, at_columns = [p // columns for p in component], [p % columns for p in component]
    box = min(at_columns), min(at_rows), max(at_columns) + 1, max(at_rows) + 1
    ambiguous = _is_ambiguous(features, gram, bias, seed, candidates, similar, summed)
    affinity = _mean_cosine(features.tolist(), seed, box, columns)
    positive_share = sum(degrees.values()) / max(1, len(there) * (len(there) - 1))
    return OracleResult(
        box, (seed // columns, seed % columns), degrees[seed], positive_share, affinity, ambiguous
    )


def flood(mask: list[bool], seed: int, rows: int, columns: int) -> set[int]:
    """The patches that can be reached from the seed by steps up, down, left and right within the mask."""
    reached, to_visit = {seed}, [seed]
    while to_visit:
        row, column = divmod(to_visit.pop(), columns)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            patch = r * columns + c
            if 0 <= r < rows and 0 <= c < columns and mask[patch] and patch not in reached:
                reached.add(patch)
                to_visit.append(patch)
    return reached


def _mean_cosine(
    features: list[list[float]], seed: int, box: tuple[int, int, int, int], columns: int
) -> float:
    cosines = []
    for row in range(box[1], box[3]):
        for column in range(box[0], box[2]):
            a, b = features[seed], features[row * columns + column]
            lengths = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
            cosines.append(sum(x * y for x, y in zip(a, b)) / lengths if lengths else 0.0)
    return sum(cosines) / len(cosines)


def _is_ambiguous(features, gram, bias, seed, candidates, similar, summed) -> bool:
    patches, width = features.shape
    norms = np.sqrt((features**2).sum(axis=1))
    # what float32 may err by: the terms summed, times a step, relative to the sizes that are multiplied
    entry_error = (width + 2) * FLOAT32_STEP * (np.outer(norms, norms) + abs(bias))
    near_zero = np.abs(np.array(gram)) <= entry_error
    off_diagonal = ~np.eye(patches, dtype=bool)
    if (near_zero & off_diagonal).any() or near_zero[seed][candidates].any():
        return True
    if not similar:
        return False
    sum_of_sizes = norms[similar].sum() * norms + abs(bias) * len(similar)
    sum_error = (width + len(similar) + 2) * FLOAT32_STEP * sum_of_sizes
    decided = np.arange(patches) != seed
    return bool((np.abs(np.array(summed)) <= sum_error)[decided].any())
