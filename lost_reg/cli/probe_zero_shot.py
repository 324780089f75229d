"""`lost-reg probe --task zero-shot`: classes from their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError


def probe_zero_shot(dataset: str, out: Path, options: dict[str, Any]) -> None:
    """Classify images by the names of the classes."""
    raise LostRegError("`task` zero-shot is not built yet")
