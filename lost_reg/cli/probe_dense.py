"""`lost-reg probe --task segmentation` and `--task depth`: dense labels from patch tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError


def probe_segmentation(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Probe patch tokens for the class of each pixel."""
    raise LostRegError("`task` segmentation is not built yet")


def probe_depth(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Probe patch tokens for the depth of each pixel."""
    raise LostRegError("`task` depth is not built yet")
