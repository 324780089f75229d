"""How scores name what was run, from its recorded settings."""

from __future__ import annotations

from typing import Any

from lost_reg.backbones.zoo import SPECS, backbone_label
from lost_reg.discovery.methods import departures

_TRAINED_WITH_REGISTERS = frozenset(spec.name for spec in SPECS if spec.registers)


def describe_backbone(settings: dict[str, Any]) -> str:
    """A backbone's name, with all that sets it apart from its published weights and LOST as published.

    Settings of a sweep have no features and options of their own, so the label has none.
    """
    notes = departures({"features": {}, "options": {}, **settings})
    if settings["precision"] != "fp32":
        notes.append(settings["precision"])
    return backbone_label(
        settings["backbone"], settings["weights"], settings.get("test_time_registers"), notes
    )


def register_kind(settings: dict[str, Any]) -> str:
    """The registers of a run, by its settings: "with" trained ones, "test-time" ones, or "without"."""
    if settings.get("test_time_registers"):
        return "test-time"
    return "with" if settings["backbone"] in _TRAINED_WITH_REGISTERS else "without"
