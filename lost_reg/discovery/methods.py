"""The registry of discovery methods, and settings: the features, the method and its options."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lost_reg.discovery.background import BACKGROUND
from lost_reg.discovery.dino_seg import DINO_SEG
from lost_reg.discovery.features import FeatureConfig, describe_features
from lost_reg.discovery.head import HEAD, Head
from lost_reg.discovery.lost import LOST, LostConfig
from lost_reg.discovery.lost_rim import LOST_RIM
from lost_reg.discovery.maskcut import MASKCUT
from lost_reg.discovery.method import Method
from lost_reg.discovery.spread import SPREAD
from lost_reg.discovery.tokencut import TOKENCUT
from lost_reg.errors import LostRegError
from lost_reg.json_files import MALFORMED, as_json, convert, reason_of
from lost_reg.masks.refiners import check_refiner
from lost_reg.text import type_of

METHODS: dict[str, Method] = {
    one.name: one for one in (LOST, TOKENCUT, MASKCUT, DINO_SEG, BACKGROUND, LOST_RIM, SPREAD, HEAD)
}

PUBLISHED = "published"
DETECTOR = "detector"  # the method that runs record which a trained detector made; it has no features


@dataclass(frozen=True)
class Setting:
    """Everything but the backbone that determines an image's objects; the default is LOST as published.

    config: the method's options; its type identifies the method.
    refine: how masks are refined to pixels, one of `masks.refiners.REFINERS`; None leaves them as they are.
    """

    features: FeatureConfig = field(default_factory=FeatureConfig)
    config: Any = field(default_factory=LostConfig)
    refine: str | None = None

    def __post_init__(self) -> None:
        """Raises LostRegError for a way to refine that is unknown or not installed."""
        if self.refine is not None:
            check_refiner(self.refine)

    @property
    def method(self) -> Method:
        """Raises LostRegError for a config that belongs to no method."""
        return method_of(self.config)

    def recorded(self) -> dict[str, Any]:
        """As stored in run.json, with tuples as lists; without a `square` or `refine` that is not set."""
        record = {
            "method": self.method.name,
            "features": self.features.recorded(),
            "options": {name: _recorded(value) for name, value in vars(self.config).items()},
            **({"refine": self.refine} if self.refine else {}),
        }
        return dict(json.loads(as_json(record)))


def _recorded(value: Any) -> Any:
    """An option's value as in run.json: a head without its numbers."""
    return value.recorded() if isinstance(value, Head) else value


def find_method(name: str) -> Method:
    """The method with this name.

    Raises:
        LostRegError: there is none.
    """
    if name not in METHODS:
        raise LostRegError(f"unknown method {name!r}: choose among {', '.join(METHODS)}")
    return METHODS[name]


def method_of(config: Any) -> Method:
    """The method whose options these are.

    Raises:
        LostRegError: anything other than a method's options.
    """
    found = next((method for method in METHODS.values() if type(config) is method.config), None)
    if found is None:
        known = ", ".join(method.config.__name__ for method in METHODS.values())
        raise LostRegError(f"expected a method's options ({known}), but got {type_of(config)}")
    return found


def preset_setting(method: str, preset: str = PUBLISHED) -> Setting:
    """The setting that a method's preset stands for.

    Raises:
        LostRegError: an unknown method, or a preset that it does not have.
    """
    found = find_method(method)
    if preset not in found.presets:
        owners = [name for name, one in METHODS.items() if preset in one.presets]
        reason = f"it belongs to `method` {' and '.join(owners)}" if owners else ""
        reason = reason or f"choose among {', '.join(found.presets)}"
        raise LostRegError(f"{method} has no preset {preset!r}: {reason}")
    chosen = found.presets[preset]
    return Setting(chosen.features, chosen.config)


def list_methods() -> dict[str, str]:
    """The available discovery methods: each one's name and what it is."""
    return {name: method.about for name, method in METHODS.items()}


# --- descriptions ------------------------------------------------------------------------------------


def describe_setting(record: Mapping[str, Any]) -> str:
    """A recorded setting in a few words, such as "k of layer -1, normalised, bias -0.2".

    Options at their default are left out, except the method's main one.
    """
    without = METHODS[record["method"]].unaffected_by if record["method"] in METHODS else ()
    features = convert(record["features"], FeatureConfig)
    words = [] if record["method"] == DETECTOR else [describe_features(features, without)]
    published = _published(record["method"])["options"]
    for name, value in record["options"].items():
        if name == main_option(record["method"]) or (name, value) not in published.items():
            shown = _named(value)
            words.append(f"{name} {shown:g}" if isinstance(shown, float) else f"{name} {shown}")
    words += [f"refine {record['refine']}"] if record.get("refine") else []
    return ", ".join(words)


def _named(value: Any) -> Any:
    """A recorded option as it is shown: a head by its digest."""
    return value.get("digest") if isinstance(value, Mapping) else value


def main_option(method: str) -> str | None:
    """The option of a method that is tuned first; None if it has none, or is not installed."""
    return METHODS[method].main_option if method in METHODS else None


def differences(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which a recorded setting differs from its method as published, with their values.

    Fields that the method does not depend on are left out, see `Method.unaffected_by`.
    """
    plain, values = (_fields(one) for one in (_published(record["method"]), record))
    without = METHODS[record["method"]].unaffected_by if record["method"] in METHODS else ()
    return {
        name: values.get(name, plain.get(name))
        for name in {**plain, **values}
        if name not in without and values.get(name, plain.get(name)) != plain.get(name)
    }


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """All of a setting in one dictionary; what is not recorded if it is not set is None."""
    features = {**record["features"], "square": record["features"].get("square")}
    return {**features, **record["options"], "refine": record.get("refine")}


def describe_differences(changed: Mapping[str, Any]) -> list[str]:
    """Differences in words, such as ["max side 224", "center yes"]."""
    return [f"{name.replace('_', ' ')} {_in_words(value)}" for name, value in changed.items()]


def _in_words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", False: "no", True: "yes"}[value]
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(_named(value))


def departures(record: Mapping[str, Any]) -> list[str]:
    """How a recorded setting differs from its method as published, such as ["normalize=True"]."""
    published = _published(record["method"])
    plain = {**published["features"], **published["options"]}
    refine = {"refine": record["refine"]} if record.get("refine") else {}
    values = {**record["features"], **record["options"], **refine}
    changed = [f"{key}={_named(value)}" for key, value in values.items() if (key, value) not in plain.items()]
    return changed if record["method"] == LOST.name else [record["method"], *changed]


def _published(method: str) -> dict[str, Any]:
    """The record of a method as published; the options of a method that is not installed are not known."""
    if method in METHODS:
        return preset_setting(method).recorded()
    return {"features": FeatureConfig().recorded(), "options": {}}


def with_changes(setting: Setting, changes: Mapping[str, Any]) -> Setting:
    """A setting with some fields of its features or of its method's options changed.

    Raises:
        LostRegError: an unknown name, or an invalid value.
    """
    of_features = {name for name in FeatureConfig.__dataclass_fields__}
    of_method = {name for name in setting.method.config.__dataclass_fields__}
    if changes.get("max_side") and "square" not in changes:
        changes = {**changes, "square": None}  # of two sizes, the one that is given counts
    elif changes.get("square") and "max_side" not in changes:
        changes = {**changes, "max_side": None}
    unknown = [name for name in changes if name not in of_features | of_method]
    if unknown:
        raise LostRegError(
            f"the method {setting.method.name} has no option `{unknown[0]}`{whose_option(unknown[0])}"
        )
    try:
        return replace(
            setting,
            features=convert({**asdict(setting.features), **_of_names(of_features, changes)}, FeatureConfig),
            config=convert({**vars(setting.config), **_of_names(of_method, changes)}, setting.method.config),
        )
    except MALFORMED as error:
        place = re.search(r"\$\.(\w+)", str(error))
        reason = f"`{place[1]}` cannot be {changes.get(place[1])!r}" if place else reason_of(error)
        raise LostRegError(reason) from None


def whose_option(name: str) -> str:
    """Which methods have an option, as the end of a sentence; empty if none has."""
    owners = [one.name for one in METHODS.values() if name in one.config.__dataclass_fields__]
    return f": it belongs to `method` {' and '.join(owners)}" if owners else ""


def _of_names(names: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
