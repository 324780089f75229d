"""How results name a backbone: with all that sets it apart from its published weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lost_reg.backbones import registers


def backbone_label(
    name: str,
    weights: Mapping[str, Any],
    test_time_registers: Mapping[str, Any] | None = None,
    more: Sequence[str] = (),
) -> str:
    """A backbone's name, such as "dinov2_vitl14 (RANDOM WEIGHTS, bf16)".

    Args:
        weights: as `Weights.recorded` gives them.
        test_time_registers: as `AddedRegisters.settings` gives them.
        more: what else sets a result apart; stands between weights and registers.
    """
    notes = []
    if weights["source"] == "random":
        notes.append("RANDOM WEIGHTS")
    elif weights["source"] == "file":
        notes.append(weights["name"])
    notes += more
    if test_time_registers:
        notes.append(registers.describe(dict(test_time_registers)))
    return name + (f" ({', '.join(notes)})" if notes else "")
