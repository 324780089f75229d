"""What tests of runs share."""

from __future__ import annotations

import pytest
from colours import colour_backbone


@pytest.fixture
def colours():
    """A backbone whose features are colours: black is (-1, -1, -1), white (1, 1, 1)."""
    return colour_backbone()
