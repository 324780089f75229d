"""What the scripts share: rounds, tables, and errors in one line."""

from __future__ import annotations

import sys

import agreement
import benchmark
import harness
import how_long
import pytest
import reproduce
import trials


def test_rounds_take_turns_and_ratios_are_taken_within_them():
    order = []

    def task(name, values):
        return lambda: (order.append(name), next(values))[1]

    tasks = {"a": task("a", iter([2.0, 3.0, 8.0])), "b": task("b", iter([1.0, 2.0, 2.0]))}
    taken = harness.measure_rounds(tasks, 3)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [2.0, 3.0, 8.0], "b": [1.0, 2.0, 2.0]}
    ratios = harness.ratios(taken["a"], taken["b"])
    assert harness.median_and_range(ratios) == "2.00 (1.50 to 4.00)"


def test_a_table_keeps_its_columns_whatever_the_cells_hold():
    assert harness.markdown_table(["a|b", "c"], [["x|y", 1]]) == "| a/b | c |\n|---|---|\n| x/y | 1 |"


@pytest.mark.parametrize("script", [agreement, benchmark, how_long, reproduce, trials])
def test_a_device_that_does_not_exist_is_one_line(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script.__file__, "--out", "nowhere", "--device", "abacus"])
    with pytest.raises(SystemExit) as ended:
        harness.run_script(script.main)
    message = ended.value.code
    assert message.startswith("Error: device 'abacus' cannot be used") and "\n" not in message
