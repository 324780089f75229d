"""Runs without and with registers that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lost_reg.backbones.zoo import register_pairs
from lost_reg.report.loading import ReportRun
from lost_reg.scoring.found_boxes import register_kind

REGISTER_KINDS = {
    "without": "without registers",
    "with": "with registers",
    "test-time": "test-time register",
}


def paired_by_registers(runs: Sequence[ReportRun]) -> list[tuple[ReportRun, ReportRun]]:
    """Pairs of a run without registers and one with trained or test-time ones, alike in all else.

    They share backbone, dataset and settings; those with test-time registers also the very weights. Of each
    run without, the pairs with trained registers come first.
    """
    return [
        (one, other)
        for one in runs
        if register_kind(one.results.settings) == "without"
        for kind in ("with", "test-time")
        for other in runs
        if register_kind(other.results.settings) == kind and _differ_in_registers(one, other)
    ]


def _differ_in_registers(one: ReportRun, other: ReportRun) -> bool:
    """Whether a run with registers is of the model, the data and the settings of a run without."""
    settings, others = one.results.settings, other.results.settings
    if _conditions(one) != _conditions(other):
        return False
    if others.get("test_time_registers"):
        same_weights = settings["weights"]["sha256"] == others["weights"]["sha256"]
        return settings["backbone"] == others["backbone"] and same_weights
    return register_pairs().get(settings["backbone"]) == others["backbone"]


def _conditions(run: ReportRun) -> tuple:
    """What runs share that differ only in their registers."""
    settings = run.results.settings
    dataset = run.title or run.results.record.get("root")
    setting = json.dumps([settings[name] for name in ("method", "features", "options")], sort_keys=True)
    return dataset, setting, settings["precision"], settings["weights"]["source"] == "random"
