"""Outlier statistics: cosines by hand, and retries after running out of memory."""

from __future__ import annotations

import pytest
import torch
from helpers import batches_of

from lost_reg.artifacts.norms import block_norms
from lost_reg.artifacts.outliers import CosineHistogram, OutlierStatistics, neighbour_cosines


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


def test_a_retry_after_running_out_of_memory_measures_the_same(stream, plain):
    images = max(batches_of(stream, plain), key=len)
    statistics = OutlierStatistics(plain, 4, float(block_norms(plain, images)[4].quantile(0.95)))
    first, second = statistics.measure(images), statistics.measure(images)
    for kind, patches in first.to_probe.items():
        assert len(patches[0]) > 9 and all(map(torch.equal, patches, second.to_probe[kind]))
