"""Presets that go across methods: the best setting that this project knows for a backbone, without labels.

Each method has presets of its own besides, see `Method.presets`. How these were chosen, and what they gave,
is in evaluation/results/presets.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lost_reg.discovery.methods import METHODS, PUBLISHED, Setting, preset_setting
from lost_reg.errors import LostRegError

BEST = "best"
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
        return preset_setting(method or "lost", preset or PUBLISHED)
    setting = ACROSS_METHODS[preset].setting(family)
    if method not in (None, setting.method.name):
        raise LostRegError(
            f"the preset {preset!r} stands for the method {setting.method.name} with this backbone: "
            "leave out `method`"
        )
    return setting
