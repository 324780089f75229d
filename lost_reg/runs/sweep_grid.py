"""The settings that a sweep tries, from what a person types: `-4:-1`, `k,v`, `-1:0:0.05,auto`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lost_reg.discovery.methods import Setting, preset_setting, with_changes
from lost_reg.errors import LostRegError
from lost_reg.types import AUTO

MOST_SETTINGS = 10_000


def parse_layers(text: str) -> list[int]:
    """Whole numbers: a list (`-4,-1`) of numbers and of ranges that include both ends (`-4:-1`).

    Raises:
        LostRegError: anything else.
    """
    layers: list[int] = []
    for part in text.split(","):
        try:
            first, *last = (int(number) for number in part.split(":"))
        except ValueError:
            raise LostRegError(f"cannot read the layers {text!r}: write -1, or -4,-2, or -4:-1") from None
        if len(last) > 1 or (last and last[0] < first):
            raise LostRegError(f"cannot read the layers {text!r}: a range is FIRST:LAST, such as -4:-1")
        layers += range(first, (last[0] if last else first) + 1)
    return _each_once(layers)


def parse_biases(text: str) -> list[float | str]:
    """Numbers, `auto`, and ranges with both ends, `START:STOP:STEP`, in a list separated by commas.

    Raises:
        LostRegError: anything else.
    """
    biases: list[float | str] = []
    for part in text.split(","):
        if part == AUTO:
            biases.append(AUTO)
            continue
        try:
            numbers = [float(number) for number in part.split(":")]
        except ValueError:
            numbers = []
        if not all(map(math.isfinite, numbers)):
            numbers = []
        if len(numbers) == 1:
            biases += numbers
        elif len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
            start, stop, step = numbers
            count = int((stop - start) / step + 1e-9) + 1
            if count > MOST_SETTINGS:
                raise LostRegError(f"the biases {text!r} are {count:,} values: at most {MOST_SETTINGS:,}")
            biases += [round(start + index * step, 10) for index in range(count)]
        else:
            raise LostRegError(
                f"cannot read the biases {text!r}: write 0, or -0.2,auto, or START:STOP:STEP as in -1:0:0.05"
            )
    return _each_once(biases)


def parse_names(text: str) -> list[str]:
    """Names, separated by commas, each once."""
    return _each_once(text.split(","))


def parse_option(text: str) -> tuple[str, list[Any]]:
    """NAME=VALUE,VALUE: an option of the method, and its values; numbers where they are written as such.

    Raises:
        LostRegError: anything else.
    """
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise LostRegError(f"cannot read the option {text!r}: write NAME=VALUE,VALUE")
    return name.replace("-", "_"), _each_once([_value(value) for value in values.split(",")])


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


@dataclass(frozen=True)
class Grid:
    """What the settings of a sweep differ in: values of fields of the features, and of a method's options.

    max_side: the same for all settings.
    """

    method: str = "lost"
    features: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    max_side: int | None = None


def grid_of_settings(grid: Grid) -> list[Setting]:
    """All combinations; those that share features one after another, options in their order.

    Raises:
        LostRegError: an option that the method does not have, a value that no run can have, or more
            combinations than MOST_SETTINGS.
    """
    base = with_changes(preset_setting(grid.method), {"max_side": grid.max_side})
    axes = {**grid.features, **grid.options}
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_SETTINGS:
        raise LostRegError(f"{count:,} settings are too many: at most {MOST_SETTINGS:,}")
    return [with_changes(base, dict(zip(axes, values))) for values in itertools.product(*axes.values())]


def _each_once(values: list) -> list:
    return list(dict.fromkeys(values))
