"""Distributions of norms and moments, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lost_reg.artifacts.norms import Moments, NormHistograms


def test_quantiles_are_exact_to_a_percent():
    norms = torch.rand(2, 3, 500, generator=torch.Generator().manual_seed(0)) * torch.tensor([10, 1000]).view(
        2, 1, 1
    )
    histograms = NormHistograms()
    for part in norms.split(1, dim=1):
        histograms.update(part)
    flat = norms.flatten(1).double()
    assert histograms.count == 1500
    for share in (0.25, 0.5, 0.98, 0.999):
        assert histograms.quantiles(share).tolist() == pytest.approx(
            flat.quantile(share, dim=1).tolist(), rel=0.02
        )
    assert histograms.largest.tolist() == flat.amax(dim=1).tolist()
    report = histograms.report()
    assert [sum(counts) for counts in report.counts] == [1500, 1500]
    last_edge = report.first_edge * report.ratio ** len(report.counts[1])
    assert last_edge == pytest.approx(float(histograms.largest[1]), rel=0.011)


def test_norms_beyond_the_bins_are_counted_in_the_last():
    histograms = NormHistograms()
    histograms.update(torch.tensor([[[0.0, 1e-9, 1e9]]]))
    assert histograms.counts.sum() == 3 and histograms.counts[0, -1] == 1


def test_moments_by_hand():
    moments = Moments()
    moments.update(torch.tensor([[1.0, 2.0], [1e6 + 1, 1e6 + 1]]))
    moments.update(torch.tensor([[6.0], [1e6 + 4]]))
    assert moments.mean.tolist() == [3, 1e6 + 2]
    assert moments.deviation.tolist() == pytest.approx([math.sqrt(14 / 3), math.sqrt(2)])
    assert moments.cutoff.tolist() == pytest.approx([3 + 3 * math.sqrt(14 / 3), 1e6 + 2 + 3 * math.sqrt(2)])
