"""The paired statistics, against answers worked out by hand, exact enumeration and naive resampling."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lost_reg.scoring.paired import Paired, bootstrap_interval, holm, mcnemar_p

counts = st.integers(min_value=0, max_value=60)
tables = st.tuples(counts, counts, counts, counts).filter(any).map(lambda four: Paired(*four))


def test_a_table_worked_out_by_hand():
    paired = Paired(both=4, only_a=1, only_b=7, neither=8)
    assert (paired.images, paired.corloc_a, paired.corloc_b) == (20, 25, 55)
    assert paired.difference == 30
    # no or one toss of eight: 1 + 8 of 256 ways
    assert paired.p == pytest.approx(2 * (1 + 8) / 2**8, rel=1e-13)


# --- McNemar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),  # 2 * 1/2
        (0, 5, 2 / 32),
        (0, 6, 2 / 64),  # the fewest that make p < 0.05
        (3, 3, 1.0),  # twice the tail is more than one
        (1, 4, 2 * (1 + 5) / 32),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_p_worked_out_by_hand(only_a, only_b, expected):
    assert mcnemar_p(only_a, only_b) == mcnemar_p(only_b, only_a) == pytest.approx(expected, rel=1e-13)


def exact_p(only_a: int, only_b: int) -> float:
    """All outcomes at most as likely as the one seen."""
    tosses = only_a + only_b
    seen = math.comb(tosses, only_a)
    rare = sum(math.comb(tosses, k) for k in range(tosses + 1) if math.comb(tosses, k) <= seen)
    return float(Fraction(rare, 2**tosses))


def test_p_is_the_sum_of_the_rare_outcomes():
    for only_a, only_b in itertools.product(range(25), repeat=2):
        assert mcnemar_p(only_a, only_b) == pytest.approx(exact_p(only_a, only_b), rel=1e-13)


@pytest.mark.parametrize(("only_a", "only_b"), [(900, 1000), (2400, 2300), (5000, 5400), (0, 1000)])
def test_p_of_many_images(only_a, only_b):
    """The exact sum, in whole numbers."""
    tosses, fewer = only_a + only_b, min(only_a, only_b)
    ways = term = 1
    for chosen in range(1, fewer + 1):
        term = term * (tosses - chosen + 1) // chosen
        ways += term
    assert mcnemar_p(only_a, only_b) == pytest.approx(float(Fraction(2 * ways, 2**tosses)), rel=1e-13)


def test_p_of_a_million_images():
    assert mcnemar_p(499_000, 501_000) == pytest.approx(0.04560829986538208, rel=1e-12)  # by whole numbers


def test_p_too_small_for_a_float_is_zero():
    assert mcnemar_p(0, 19_817) == 0.0


def test_scipy_is_imported_for_a_p_value_alone():
    """It takes longer to import than the rest of `lost-reg corloc`."""
    code = (
        "import sys, lost_reg.scoring.compare, lost_reg.scoring.score_runs, lost_reg.scoring.sweep_scores\n"
        "from lost_reg.scoring.corloc import wilson_interval\n"
        "wilson_interval(1, 2)\n"
        "sys.exit('scipy' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the bootstrap -----------------------------------------------------------------------------------


def ends(chances: dict[int, Fraction]) -> tuple[int, int]:
    """The outermost values beyond which, themselves included, lies at least a fortieth."""
    fortieth = Fraction(1, 40)
    low = min(d for d in chances if sum(c for e, c in chances.items() if e <= d) >= fortieth)
    high = max(d for d in chances if sum(c for e, c in chances.items() if e >= d) >= fortieth)
    return low, high


@pytest.mark.parametrize("images", [1, 2, 3, 5, 6])
def test_interval_is_that_of_every_sample_there_is(images):
    for gains, losses in itertools.product(range(images + 1), repeat=2):
        if gains + losses > images:
            continue
        steps = [1] * gains + [-1] * losses + [0] * (images - gains - losses)
        sums = Counter(map(sum, itertools.product(steps, repeat=images)))
        chances = {total: Fraction(count, images**images) for total, count in sums.items()}
        assert bootstrap_interval(gains, losses, images) == ends(chances)


def test_interval_worked_out_by_hand():
    # 8 draws that gain with a chance of 1/4 each: none 10 %; 5 or more 2.73 %, 6 or more 0.42 %
    assert bootstrap_interval(2, 0, 8) == (0, 5)
    assert bootstrap_interval(0, 2, 8) == (-5, 0)
    assert bootstrap_interval(8, 0, 8) == (8, 8)
    assert bootstrap_interval(0, 0, 8) == (0, 0)


@pytest.mark.parametrize("table", [(30, 12, 25, 33), (400, 0, 9, 91), (5, 40, 38, 17)])
def test_interval_is_what_naive_resampling_tends_to(table):
    paired = Paired(*table)
    found_a, found_b = [1, 1, 0, 0], [1, 0, 1, 0]  # both, A alone, B alone, neither
    steps = np.repeat(np.array(found_b) - found_a, table)
    random = np.random.default_rng(0)
    drawn = steps[random.integers(0, paired.images, (20_000, paired.images))].mean(axis=1) * 100
    expected = np.quantile(drawn, [0.025, 0.975])
    one_image = 100 / paired.images
    assert paired.interval == pytest.approx(expected, abs=1.01 * one_image)


def test_interval_of_a_whole_dataset_is_the_normal_one():
    paired = Paired(both=5000, only_a=2000, only_b=3500, neither=9317)
    share = (3500 + 2000) / 19_817 - ((3500 - 2000) / 19_817) ** 2
    spread = 196 * math.sqrt(share / 19_817)
    assert paired.interval == pytest.approx(
        (paired.difference - spread, paired.difference + spread), abs=0.02
    )


# --- what holds for any counts -----------------------------------------------------------------------


@settings(max_examples=200)
@given(tables)
def test_swapping_the_sides_negates_the_difference_and_keeps_p(one):
    other = Paired(one.both, one.only_b, one.only_a, one.neither)
    assert other.difference == -one.difference
    assert other.interval == (-one.interval[1], -one.interval[0])
    assert other.p == one.p
    assert (other.corloc_a, other.corloc_b) == (one.corloc_b, one.corloc_a)


@settings(max_examples=200)
@given(tables)
def test_the_difference_lies_in_its_interval_and_p_in_its_range(one):
    low, high = one.interval
    assert -100 <= low <= one.difference + 1e-9 and one.difference - 1e-9 <= high <= 100
    assert 0 < one.p <= 1
    assert one.difference == pytest.approx(one.corloc_b - one.corloc_a)


@given(counts, counts)
def test_sides_that_found_the_same(both, neither):
    same = Paired(both, 0, 0, neither + 1)
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)


# --- Holm --------------------------------------------------------------------------------------------


def test_holm_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03] and holm([]) == []


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=12))
def test_holm_by_its_definition(p_values):
    ordered = sorted(p_values)
    for p, adjusted in zip(p_values, holm(p_values)):
        up_to_it = ordered[: ordered.index(p) + 1]
        assert adjusted == min(1, max((len(ordered) - rank) * q for rank, q in enumerate(up_to_it)))
