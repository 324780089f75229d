"""Removing a probe, so that another can take its folder."""

from __future__ import annotations

from pathlib import Path

from lost_reg.probing.records import OUTCOMES_FILE, PROBE_FILE, read_probe
from lost_reg.runs.overwriting import remove_recorded


def remove_probe(folder: Path) -> None:
    """Remove the probe in a folder, finished or not, and nothing else; see `remove_recorded`."""
    remove_recorded(folder, PROBE_FILE, read_probe, [OUTCOMES_FILE])
