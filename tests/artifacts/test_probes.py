"""Probes, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lost_reg.artifacts.outliers import Probe, position_cells, sample_others


def test_positions_in_cells_by_hand():
    assert position_cells((16, 16)).tolist() == list(range(256))
    # the middles of two rows are in cells 4 and 12; of one column, in cell 8
    assert position_cells((2, 1)).tolist() == [4 * 16 + 8, 12 * 16 + 8]


def test_as_many_others_are_drawn_as_an_image_has_outliers():
    outliers = torch.zeros(3, 20, dtype=torch.bool)
    outliers[0, :4] = True
    outliers[1, 7] = True
    others = sample_others(outliers, torch.Generator().manual_seed(0))
    assert others.sum(dim=1).tolist() == [4, 1, 0] and not (others & outliers).any()


def test_a_probe_reads_what_is_there_and_no_more():
    random = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 256, (4000,), generator=random)
    pixels = torch.randn(4000, 12, generator=random)
    known = torch.cat([torch.nn.functional.one_hot(cells, 256) * 1.0, pixels], dim=1)
    for tokens, knows in ((known, True), (torch.randn(4000, 30, generator=random), False)):
        probe = Probe()
        assert probe.report() is None
        for start in (0, 1000):
            part = slice(start, start + 1000)
            probe.train(tokens[part], cells[part], pixels[part])
        probe.test(tokens[2000:], cells[2000:], pixels[2000:])
        report = probe.report()
        assert (report.learned_from, report.tested_on) == (2000, 2000)
        if knows:
            assert report.position_top1 > 0.99 and report.position_distance < 0.1
            assert report.pixel_l2 < 0.3
        else:
            assert report.position_top1 < 0.02 and report.position_distance > 5
            assert report.pixel_l2 == pytest.approx(math.sqrt(12), rel=0.05)
