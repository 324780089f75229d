"""The settings that a sweep tries, parsed from what a user types: `-4:-1`, `k,v`, `-1:0:0.05,auto`."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.method import Method
from lost_reg.discovery.methods import Setting, find_method, preset_setting, whose_option, with_changes
from lost_reg.errors import LostRegError
from lost_reg.text import counted

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
        raise LostRegError(f"the range {text!r} has {counted(count, 'value')}: at most {MOST_SETTINGS:,}")
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
    """What the settings of a method differ in: the values for fields of the features and method options.

    What is not named is as the method is published, but for the size of the images.

    max_side: the same for all settings of a sweep, in place of the size that a method is published with.
    """

    method: str = "lost"
    features: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    max_side: int | None = None


def grid_of_settings(grid: Grid) -> list[Setting]:
    """All combinations, grouped by features, with the options in their order.

    Of settings that cannot differ in what they find, such as normalised and raw features for a method that
    normalises them itself, the first is kept.

    Raises:
        LostRegError: an option that the method does not have, an invalid value, or more combinations than
            MOST_SETTINGS.
    """
    base = with_changes(preset_setting(grid.method), {"max_side": grid.max_side, "square": None})
    axes = {**grid.features, **grid.options}
    count = math.prod(len(values) for values in axes.values())
    _check_count(count)
    settings = (with_changes(base, dict(zip(axes, values))) for values in itertools.product(*axes.values()))
    kept: dict[Setting, Setting] = {}
    for setting in settings:
        kept.setdefault(_without_effectless(setting), setting)
    return list(kept.values())


def settings_of_methods(
    methods: Sequence[str],
    features: Mapping[str, Sequence[Any]],
    options: Mapping[str, Sequence[Any]],
    max_side: int | None = None,
) -> list[Setting]:
    """The settings of a sweep, one method's after the other's; see `Grid`.

    Args:
        features, options: each applies to the methods that have it. Others have the values that their fields
            name under "sweep", if any: four layers, and for LOST 22 biases. All layers are from one forward
            pass, but a method works on each of them.

    Raises:
        LostRegError: an unknown method, an option that none of the methods has, an invalid value, or more
            settings than MOST_SETTINGS.
    """
    chosen = [find_method(name) for name in dict.fromkeys(methods)]
    _check_options(chosen, options)
    features = {**_by_default(FeatureConfig), **features}
    settings: list[Setting] = []
    for method in chosen:
        given = {name: options[name] for name in options if name in method.config.__dataclass_fields__}
        own = {**_by_default(method.config), **given}
        settings += grid_of_settings(Grid(method.name, features, own, max_side))
    _check_count(len(settings))
    return settings


def _by_default(config: type[Any]) -> dict[str, list[Any]]:
    """The values that the fields of a configuration name under "sweep"."""
    swept = {item.name: item.metadata.get("sweep") for item in fields(config)}
    return {name: parse_values(values) for name, values in swept.items() if values}


def _check_options(methods: Sequence[Method], options: Mapping[str, Any]) -> None:
    """Check that at least one of the methods has each option."""
    for name in options:
        if not any(name in method.config.__dataclass_fields__ for method in methods):
            have = "the method {} has no" if len(methods) == 1 else "none of the methods {} has the"
            names = ", ".join(method.name for method in methods)
            raise LostRegError(f"{have.format(names)} option `{name}`{whose_option(name)}")


def _check_count(count: int) -> None:
    if count > MOST_SETTINGS:
        raise LostRegError(f"{counted(count, 'setting')} are too many: at most {MOST_SETTINGS:,}")


def _without_effectless(setting: Setting) -> Setting:
    """The setting with the features' defaults in place of values that change nothing."""
    features = setting.features
    names = {*setting.method.unaffected_by, *(["normalize"] if len(features.parts) > 1 else [])}
    defaults = {name: getattr(FeatureConfig(), name) for name in names}
    return replace(setting, features=replace(features, **defaults))
