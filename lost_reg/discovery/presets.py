"""Presets that go across methods: the best setting that this project knows for a backbone, without labels.

Each method has presets of its own besides, see `Method.presets`. How these were chosen, and what they gave,
is in evaluation/results/presets.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lost_reg.discovery.features import NATIVE
from lost_reg.discovery.methods import METHODS, PUBLISHED, Setting, preset_setting
from lost_reg.errors import LostRegError
from lost_reg.text import counted

BEST = "best"
OWN_IMAGES_SIDE = 448  # pixels: nothing is lost on photos at 336 to 448, see evaluation/results/presets.md
DINO_LIKE = ("DINO", "bundled")  # families whose keys LOST finds objects in as published


@dataclass(frozen=True)
class PresetAcrossMethods:
    """A preset that chooses the method, too.

    method: its name; its features and options are those as published.
    dino_like: another method for backbones of the families `DINO_LIKE`, at native resolution.
    max_side: see `FeatureConfig`.
    """

    about: str
    method: str
    dino_like: str | None = None
    max_side: int | None = None

    def setting(self, family: str) -> Setting:
        """Its setting for a backbone of a family, see `BackboneSpec.family`; "" for a user's function.

        A function has no facets to choose from.
        """
        if self.dino_like and family in DINO_LIKE:
            return preset_setting(self.dino_like)
        setting = preset_setting(self.method)
        facet = setting.features.facet if family else "k"
        return replace(setting, features=replace(setting.features, facet=facet, max_side=self.max_side))


ACROSS_METHODS = {
    "lost": PresetAcrossMethods(
        "LOST at its best: as published for DINO, lost-rim for other backbones", "lost-rim", dino_like="lost"
    ),
    BEST: PresetAcrossMethods(
        "the method that finds most: spread, at 336 pixels; the default for your own images",
        "spread",
        max_side=336,
    ),
}


def preset_names() -> list[str]:
    """The names of all presets, those of methods first."""
    of_methods = (name for method in METHODS.values() for name in method.presets)
    return list(dict.fromkeys([*of_methods, *ACROSS_METHODS]))


def chosen_preset(method: str | None, preset: str | None, family: str) -> Setting:
    """The setting that a method and a preset stand for.

    Args:
        method: None for the preset's own, or LOST.
        preset: None for the method as published.
        family: the backbone's, see `BackboneSpec`.

    Raises:
        LostRegError: an unknown name, or a preset that is not one of the method's.
    """
    if preset not in ACROSS_METHODS:
        if not method and preset not in (None, *METHODS["lost"].presets):
            raise LostRegError(_without_method(str(preset)))
        return preset_setting(method or "lost", preset or PUBLISHED)
    setting = ACROSS_METHODS[preset].setting(family)
    if method not in (None, setting.method.name):
        raise LostRegError(
            f"the preset {preset!r} stands for the method {setting.method.name} with this backbone: "
            "leave out `method`"
        )
    return setting


def _without_method(preset: str) -> str:
    """Why a preset that no method is named for does not stand for a setting."""
    if preset in METHODS:
        return f"{preset!r} is a method, not a preset: give it as `method`"
    owners = [name for name, one in METHODS.items() if preset in one.presets]
    if owners:
        return f"the preset {preset!r} belongs to a method: add `method` {' or '.join(owners)}"
    return f"unknown `preset` {preset!r}: choose among {', '.join(preset_names())}"


def scaled_for_own_images(setting: Setting, preset: str | None) -> Setting:
    """The setting at a longest side of OWN_IMAGES_SIDE, where it has no size of its own.

    Datasets are run at native resolution, as published. A user's photos can have any size, and the time that
    affinities take grows with the fourth power of it. A head has the size that it was trained at.

    Args:
        preset: the name of the setting's preset; MaskCut's `native` keeps its word.
    """
    features = setting.features
    if features.max_side or features.square or setting.method.name == "head" or preset == NATIVE:
        return setting
    return replace(setting, features=replace(features, max_side=OWN_IMAGES_SIDE))


def preset_of(record: Mapping[str, Any]) -> str | None:
    """The name of the preset across methods that a recorded setting is, such as "best"; None if it is none.

    Only presets that no method has as published; whether masks are refined does not count.
    """
    keys = ("method", "features", "options")
    recorded = {key: record.get(key) for key in keys}
    for name, preset in ACROSS_METHODS.items():
        for family in (DINO_LIKE[0], "another", ""):
            setting = preset.setting(family)
            is_published = setting == preset_setting(setting.method.name)
            if not is_published and {key: setting.recorded().get(key) for key in keys} == recorded:
                return name
    return None


def described(record: Mapping[str, Any]) -> str:
    """How a run found its objects, in a few words: "spread (preset best) at a longest side of 336 pixels"."""
    preset, features = preset_of(record), record["features"]
    size = "at native resolution"
    if features.get("max_side"):
        size = f"at a longest side of {counted(features['max_side'], 'pixel')}"
    elif features.get("square"):
        size = f"at {features['square']} x {counted(features['square'], 'pixel')}"
    return f"{record['method']}{f' (preset {preset})' if preset else ''} {size}"
