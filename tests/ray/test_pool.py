"""How many actors a run has, and the threads of each."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lost_reg.ray.engine import _Pool, shared_out
from lost_reg.ray.inputs import _READER_CPUS

nodes = st.lists(st.integers(1, 130), max_size=6)


@pytest.mark.parametrize(
    ("cpus", "asked", "expected"),
    [
        ([2], None, (2, 1)),
        ([2], 1, (1, 2)),
        ([2, 2], None, (4, 1)),
        ([2, 2], 3, (3, 1)),  # with two threads each, the third would have no place
        ([2, 2], 1, (1, 2)),  # no actor has the CPUs of two nodes
        ([64], None, (64, 1)),
        ([64], 16, (16, 4)),
        ([64], 1, (1, 64)),
        ([10, 4], 3, (3, 4)),
        ([1, 64], 2, (2, 32)),
        ([3, 3], 3, (3, 1)),
        ([2], 100, (100, 1)),
        ([], None, (1, 1)),
    ],
)
def test_actors_share_the_cpus_of_their_nodes(cpus, asked, expected):
    assert shared_out(cpus, asked) == expected


@given(nodes, st.none() | st.integers(1, 40))
def test_all_actors_have_a_place_if_there_are_as_many_cpus(cpus, asked):
    actors, threads = shared_out(cpus, asked)
    assert actors >= 1 and threads >= 1
    if sum(cpus) >= actors:
        assert sum(of_node // threads for of_node in cpus) >= actors


def test_beside_actors_on_all_cpus_a_task_that_reads_has_room():
    actors, threads = shared_out([2, 2], None)
    assert _Pool(actors, False, 1, threads).cpus * 2 < 2 - _READER_CPUS
    assert _Pool(1, True, 8, None).cpus < 1


def test_a_task_that_reads_images_imports_no_torch():
    code = "import sys, lost_reg.ray.inputs, lost_reg.runs.writer; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
