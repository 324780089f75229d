"""Probes: what they read, and how far their means can be trusted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.artifacts.probes import MeanOverPatches, Probe, position_cells, sample_others
from lost_reg.scoring.corloc import wilson_interval


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
        probe.test(tokens[2000:], cells[2000:], pixels[2000:], torch.arange(2000) % 20)
        report = probe.report()
        assert (report.learned_from, report.tested_on, report.tested_images) == (2000, 2000, 20)
        assert all(low <= getattr(report, name) <= high for name, (low, high) in report.intervals.items())
        if knows:
            assert report.position_top1 > 0.99 and report.position_distance < 0.1
            assert report.pixel_l2 < 0.3
        else:
            assert report.position_top1 < 0.02 and report.position_distance > 5
            assert report.pixel_l2 == pytest.approx(math.sqrt(12), rel=0.05)


def probe_of(trained: int, tested: int, images: int):
    """What a probe of tokens of nine numbers reports."""
    probe, tokens = Probe(), torch.randn(trained + tested, 9, generator=torch.Generator().manual_seed(0))
    cells, pixels = torch.zeros(len(tokens), dtype=torch.int64), torch.zeros(len(tokens), 3)
    probe.train(tokens[:trained], cells[:trained], pixels[:trained])
    places = torch.arange(tested) % images
    probe.test(tokens[trained:], cells[trained:], pixels[trained:], places)
    return probe.report()


def test_a_probe_of_too_few_patches_or_images_gives_no_number():
    """Ten weights, with the constant: at least twenty patches to learn from; twenty images to test on."""
    for trained, images, reason in ((19, 20, "patches (19 of 20)"), (20, 19, "images (19 of 20)")):
        report = probe_of(trained, 40, images)
        assert report.too_few == f"too few {reason}" and report.intervals == {}
        assert report.position_top1 is report.position_distance is report.pixel_l2 is None
        assert (report.learned_from, report.tested_on, report.tested_images) == (trained, 40, images)
    assert probe_of(20, 40, 20).position_top1 is not None and probe_of(20, 40, 20).too_few == ""


# --- means over patches -------------------------------------------------------------------------------


def mean_of(images: list[list[float]]) -> MeanOverPatches:
    """Over patches with these values, in two batches."""
    mean, middle = MeanOverPatches(), len(images) // 2
    for batch in (images[:middle], images[middle:]):
        values = torch.tensor([one for image in batch for one in image], dtype=torch.float64)
        places = torch.tensor([index for index, image in enumerate(batch) for _ in image], dtype=torch.int64)
        mean.update(values, places)
    return mean


VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=6)


@given(st.lists(VALUES, min_size=2, max_size=8))
def test_the_variance_is_that_of_a_ratio_of_sums_over_images(images):
    """By its definition: image by image, what is left of its sum at the mean of all."""
    found, every = mean_of(images), np.concatenate(images)
    left = [sum(image) - every.mean() * len(image) for image in images]
    expected = len(images) / (len(images) - 1) * np.square(left).sum() / len(every) ** 2
    assert found.mean == pytest.approx(every.mean(), abs=1e-9)
    assert found.variance == pytest.approx(expected, abs=1e-9)


def test_intervals_by_hand():
    """Three images of one patch: the textbook's interval of a mean, with t of two degrees of freedom."""
    low, high = mean_of([[1.0], [2.0], [3.0]]).interval()
    reach = 4.302652729911275 / math.sqrt(3)  # a standard deviation of 1
    assert (low, high) == pytest.approx((2 - reach, 2 + reach))


def test_patches_of_an_image_that_agree_count_as_one():
    """Ten copies of each patch say no more than the patch: p (1 - p) / variance does not see them."""
    once = [[1.0]] * 8 + [[0.0]] * 22
    ten_times = [10 * image for image in once]
    assert mean_of(ten_times).share_interval() == pytest.approx(mean_of(once).share_interval())
    assert mean_of(ten_times).interval() == pytest.approx(mean_of(once).interval())


def test_a_share_of_nothing_has_an_interval():
    t = 2.045229642132703  # of 29 degrees of freedom
    assert mean_of([[0.0] * 5] * 30).share_interval() == pytest.approx(wilson_interval(0, 30, t))
    assert mean_of([[1.0] * 5] * 30).share_interval() == pytest.approx(wilson_interval(30, 30, t))


def test_intervals_cover_the_truth_where_patches_of_an_image_resemble_each_other():
    """Of 300 draws of 25 images, whose shares differ: about 95 % cover; patches as the sample do not."""
    random, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        sizes, shares = random.integers(5, 40, 25), random.beta(1, 3, 25)  # a quarter on average
        images = [
            list(random.binomial(1, share, size).astype(float))
            for size, share in zip(sizes, shares, strict=True)
        ]
        low, high = mean_of(images).share_interval()
        covered += low <= 0.25 <= high
        every = np.concatenate(images)
        low, high = wilson_interval(every.sum(), len(every))
        naive += low <= 0.25 <= high
    assert covered > 0.91 * 300 > 0.8 * 300 > naive
