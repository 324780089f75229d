"""The settings that a sweep tries, parsed from what a user types: `-4:-1`, `k,v`, `-1:0:0.05,auto`."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lost_reg.discovery.methods import Setting, preset_setting, with_changes
from lost_reg.errors import LostRegError

MOST_SETTINGS = 10_000


def parse_values(text: str) -> list[Any]:
    """Parse comma-separated values and ranges; duplicates are dropped.

    A range includes both ends: FIRST:LAST for integers, as in -4:-1, or START:STOP:STEP for any numbers, as
    in -1:0:0.05. A value is a number if it is written as one, otherwise a word.

    Raises:
        LostRegError: anything else, or more than MOST_SETTINGS values.
    """
    values: list[Any] = []
    for part in text.split(","):
        if not part:
            raise LostRegError(f"cannot read the values {text!r}: one of them is empty")
        values += _range(part) if ":" in part else [_value(part)]
    return list(dict.fromkeys(values))


def _range(text: str) -> list[int] | list[float]:
    try:
        first, last, *steps = map(float, text.split(":"))
        step = steps[0] if steps else 1.0
        count = int((last - first) / step + 1e-9) + 1
        if len(steps) > 1 or not 0 < step < math.inf or last < first:
            raise ValueError
        if not steps and not (first.is_integer() and last.is_integer()):
            raise ValueError
    except (ValueError, ArithmeticError):  # also from infinite numbers
        raise LostRegError(
            f"cannot read the range {text!r}: write FIRST:LAST, such as -4:-1, or START:STOP:STEP, such as "
            "-1:0:0.05"
        ) from None
    if count > MOST_SETTINGS:
        raise LostRegError(f"the range {text!r} has {count:,} values: at most {MOST_SETTINGS:,}")
    if not steps:
        return [int(first) + index for index in range(count)]
    return [round(first + index * step, 10) for index in range(count)]


def _value(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text, text)


@dataclass(frozen=True)
class Grid:
    """What the settings of a sweep differ in: the values for fields of the features and method options.

    max_side: the same for all settings.
    """

    method: str = "lost"
    features: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    max_side: int | None = None


def grid_of_settings(grid: Grid) -> list[Setting]:
    """All combinations, grouped by features, with the options in their order.

    Raises:
        LostRegError: an option that the method does not have, an invalid value, or more combinations than
            MOST_SETTINGS.
    """
    base = with_changes(preset_setting(grid.method), {"max_side": grid.max_side})
    axes = {**grid.features, **grid.options}
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_SETTINGS:
        raise LostRegError(f"{count:,} settings are too many: at most {MOST_SETTINGS:,}")
    return [with_changes(base, dict(zip(axes, values))) for values in itertools.product(*axes.values())]
