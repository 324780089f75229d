"""Connected components, against a flood fill by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lost_oracle import flood

from lost_reg.discovery.components import component_of


def test_a_component_and_its_box():
    mask = np.array([[0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0]], dtype=bool)
    component, box = component_of(mask, (1, 0))
    assert component.dtype == bool and component.astype(int).tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [0] * 4]
    assert box == (0, 0, 2, 2)
    assert component_of(mask, (2, 2))[1] == (2, 2, 3, 3)  # diagonal neighbours are apart
    assert component_of(mask, (0, 3))[1] == (3, 0, 4, 2)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))), st.data())
def test_components_are_those_of_aflood_fill(mask, data):
    rows, columns = mask.shape
    seed = data.draw(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)))
    mask[seed] = True
    component, (xmin, ymin, xmax, ymax) = component_of(mask, seed)
    reached = flood(mask.ravel().tolist(), seed[0] * columns + seed[1], rows, columns)
    assert set(np.flatnonzero(component)) == reached
    at_rows, at_columns = np.nonzero(component)
    assert (xmin, ymin) == (at_columns.min(), at_rows.min())
    assert (xmax, ymax) == (at_columns.max() + 1, at_rows.max() + 1)


@pytest.mark.parametrize("view", [lambda m: m, lambda m: np.asfortranarray(m), lambda m: m[::-1][::-1]])
@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_the_mask_is_left_alone_however_it_lies_in_memory(view, dtype):
    mask = view(np.array([[1, 1, 0], [0, 1, 1]], dtype=dtype))
    before = mask.copy()
    component, box = component_of(mask, (0, 0))
    assert (mask == before).all() and (component == before.astype(bool)).all() and box == (0, 0, 3, 2)
