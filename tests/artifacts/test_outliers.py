"""Outlier statistics: cosines by hand, and retries after running out of memory."""

from __future__ import annotations

import pytest
import torch
from helpers import batches_of
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.artifacts.norms import block_norms
from lost_reg.artifacts.outliers import CosineHistogram, OutlierStatistics, neighbour_cosines
from lost_reg.artifacts.records import SeedStatistics
from lost_reg.backbones.base import Backbone


def test_cosines_to_neighbours_by_hand():
    east, north = [1.0, 0.0], [0.0, 2.0]
    grid = torch.tensor([[east, east, north], [east, north, north]]).view(1, 6, 2)
    # row 0: (1 + 1) / 2; (1 + 0 + 0) / 3; (0 + 1) / 2; row 1: (1 + 0) / 2; (0 + 0 + 1) / 3; (1 + 1) / 2
    expected = [1, 1 / 3, 1 / 2, 1 / 2, 1 / 3, 1]
    assert neighbour_cosines(grid, (2, 3))[0].tolist() == pytest.approx(expected)
    assert neighbour_cosines(grid[:, :2], (1, 2))[0].tolist() == [1, 1]
    assert neighbour_cosines(grid[:, :1], (1, 1)).isnan().all()


def test_histogram_of_cosines_by_hand():
    cosines = CosineHistogram()
    assert cosines.report() is None
    cosines.update(torch.tensor([1.0, -1.0, 0.5, float("nan")]))
    report = cosines.report()
    assert report.count == 3 and report.mean == pytest.approx(1 / 6)
    assert [report.counts[index] for index in (0, 75, 99)] == [1, 1, 1]


def fixed(cutoff: float, layers: int = 1) -> list:
    """The same cut-off for all layers."""
    return [{"sigma": None, "fixed": cutoff, "reference": None}] * layers


def test_a_retry_after_running_out_of_memory_measures_the_same(stream, plain):
    images = max(batches_of(stream, plain), key=len)
    cutoffs = fixed(float(block_norms(plain, images)[4].quantile(0.95)), layers=6)
    statistics = OutlierStatistics(plain, cutoffs, 4, "fixed")
    first, second = statistics.measure(images), statistics.measure(images)
    for kind, patches in first.to_probe.items():
        assert len(patches[0]) > 9 and all(map(torch.equal, patches, second.to_probe[kind]))


# --- seeds -------------------------------------------------------------------------------------------


class FourPatches(Backbone):
    """Images of 2 x 2 patches of one pixel: red is the norm of a patch's token, green and blue its keys."""

    patch_size, name, depth = 1, "four patches", 1

    def facets(self, images, parts):
        return [images[:, 1:].flatten(2).mT]

    def patch_embeddings(self, images):
        return images.flatten(2).mT

    def block_outputs(self, images):
        yield images[:, :1].flatten(2).mT


def measured(*images) -> SeedStatistics:
    """The seeds of images given as (norm, key) of each of four patches; outliers have a norm above 5."""
    statistics = OutlierStatistics(FourPatches(), fixed(5.0), 0, "fixed")
    batch = torch.tensor([[(norm, *key) for norm, key in image] for image in images])  # (B, 4, 3)
    statistics.update(statistics.measure(batch.mT.unflatten(2, (2, 2))), is_training=True)
    return statistics.report().seeds


EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.1)


def test_where_patches_tie_the_share_of_outliers_among_them_counts():
    # all affinities are positive: all four tie, and one is an outlier
    assert measured([(9, EAST), (1, EAST), (1, EAST), (1, EAST)]) == SeedStatistics(1, 0.25, 0.25, 0.25, 1, 1)
    # degrees 1, 1, 0, 0: the last two tie, and one of them is an outlier
    tie = [(9, EAST), (1, EAST), (9, NORTH), (1, (0.0, -1.0))]
    assert measured(tie) == SeedStatistics(1, 0.5, 0.5, 0.5, 1, 1)
    # degrees 2, 2, 2, 0: no tie, and the seed is an outlier
    alone = [(1, EAST), (1, EAST), (1, EAST), (9, WEST)]
    assert measured(alone) == SeedStatistics(1, 1.0, 1.0, 0.25, 0, 0)
    assert measured(tie, alone) == SeedStatistics(2, 1.5, 0.75, 0.375, 1, 0.5)


@given(st.lists(st.lists(st.sampled_from([1, 9]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_where_all_patches_tie_the_seed_is_on_outliers_as_often_as_by_chance(norms):
    """The index would have decided: 0 % wherever the first patch is no outlier."""
    found = measured(*([(norm, EAST) for norm in image] for image in norms))
    assert found.share == pytest.approx(found.share_by_chance) and found.share_tied == 1


def test_images_without_finite_features_have_no_seed():
    broken = [(9, (float("nan"), 1.0))] * 4
    assert measured(broken) == SeedStatistics(0, 0.0, None, None, 0, None)
    assert measured(broken, [(1, EAST)] * 4) == SeedStatistics(1, 0.0, 0.0, 0.0, 1, 1)
