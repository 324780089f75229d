"""What a column of the page shows of one backbone: pictures with their labels, and lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from lost_reg.backbones.base import CLASS_TOKEN, Backbone
from lost_reg.backbones.registers import describe
from lost_reg.discovery.maps import Maps
from lost_reg.discovery.methods import Setting, describe_setting
from lost_reg.errors import LostRegError
from lost_reg.explore.features import FeatureStore, OneImage
from lost_reg.explore.pictures import map_picture, objects_picture, outlined, photo, signed_picture
from lost_reg.explore.reader import PageImage
from lost_reg.explore.views import (
    MEAN,
    attention_of,
    found_by,
    lost_seed,
    patch_at,
    patch_view,
    rescaled,
    scale_of,
    setting_of,
    token_norms,
)
from lost_reg.report.map_words import MAPS
from lost_reg.text import counted
from lost_reg.types import Box

SLOTS = ("objects", "affinities", "expansion", "norms", "attention", "map")
OF_A_PATCH = ("affinities", "expansion")  # the slots that a click changes
_BOXES_SHOWN = 3
# by whether it is the cosine minus tau
_AFFINITY_LABELS = {False: "Affinity to {}: red is similar", True: "Cosine to {}: red is above tau"}
_SEED, _CLICKED = "LOST's seed", "your patch"  # what a column shows before a patch is chosen, and after


@dataclass(frozen=True)
class Model:
    """A backbone of the page; and the same with test-time registers, or None without."""

    plain: Backbone
    with_registers: Backbone | None = None

    def chosen(self, registers: bool) -> Backbone:
        """With test-time registers if they are asked for, and there are any."""
        return self.with_registers if registers and self.with_registers else self.plain


@dataclass(frozen=True)
class Choice:
    """What the controls of a column say.

    method: see `views.method_titles`. changes: fields of features and options, see `views.setting_of`.
    token, head: whose attention is shown. map: the name of a map of the method; "" for its first.
    max_side: the longest side of images, in place of the preset's.
    """

    method: str = "/best"
    changes: dict[str, Any] = field(default_factory=dict)
    token: str = CLASS_TOKEN
    head: int | str = MEAN
    map: str = ""
    max_side: int | None = None


@dataclass
class Column:
    """What is shown: a picture, or None, and its label, by slot; lines of text, and what went wrong.

    maps: the names of the method's maps. patch: (row, column) of the patch that was looked at.
    """

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    pictures: dict[str, Image.Image | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    maps: list[str] = field(default_factory=list)
    patch: tuple[int, int] | None = None

    def put(self, slot: str, label: str, picture: Image.Image | None) -> None:
        self.labels[slot], self.pictures[slot] = label, picture


def title_of(model: Backbone) -> str:
    """A backbone's name, and its test-time registers."""
    added = f", {describe(model.registers.settings)}" if model.registers else ""
    return f"{model.name}{added}"


def prepared(
    model: Backbone, image: PageImage, choice: Choice, store: FeatureStore
) -> tuple[OneImage, Setting]:
    """The setting of a choice, and the features of the image at the setting's size.

    Raises:
        LostRegError: see `views.setting_of` and `OneImage`.
    """
    setting = setting_of(model, choice.method, choice.changes, choice.max_side)
    return store.of(model, image.at[scale_of(setting)]), setting


def shown_of_method(model: Backbone, image: PageImage, choice: Choice, store: FeatureStore) -> Column:
    """What does not depend on a patch: the slots besides `OF_A_PATCH`.

    What cannot be shown, such as the attention of registers that the backbone does not have, is empty, and
    its reason is among the errors.
    """
    shown = Column()
    try:
        one, setting = prepared(model, image, choice, store)
        layer = max(setting.features.layers, key=one.block_index)
        norms = token_norms(one, layer)
    except LostRegError as error:
        shown.errors.append(str(error))
        return shown
    described = describe_setting(setting.recorded())
    shown.lines.append(f"{setting.method.title}: {described}" if described else setting.method.title)
    height, width = one.image.size_hw
    shown.lines.append(f"Used at {width} x {height} pixels")
    label = f"Token norms at layer {one.from_last(layer)}, {norms.min():.3g} to {norms.max():.3g}"
    shown.put("norms", label, map_picture(one.image, norms, one.patch_size))
    _show_attention(shown, one, choice, layer)
    _show_objects(shown, one, setting, choice)
    return shown


def shown_of_patch(
    model: Backbone,
    image: PageImage,
    choice: Choice,
    position: tuple[float, float] | None,
    store: FeatureStore,
) -> Column:
    """What follows from a patch: the slots `OF_A_PATCH`, empty if `shown_of_method` says that it failed.

    position: of the patch, see `views.patch_at`; None for the one that LOST would choose as seed.
    """
    shown = Column()
    try:
        one, setting = prepared(model, image, choice, store)
        patch = lost_seed(one, setting) if position is None else patch_at(one, position)
        view = patch_view(one, setting, patch)
    except LostRegError:
        return shown
    looked_at = _SEED if position is None else _CLICKED
    picture = signed_picture(one.image, view.affinities, one.patch_size, view.patch)
    shown.put("affinities", _AFFINITY_LABELS[view.above_tau].format(looked_at), picture)
    picture = objects_picture(one.image, view.expanded)
    shown.put("expansion", f"What LOST expands from {looked_at}", picture)
    shown.patch, (row, col), (rows, columns) = view.patch, view.patch, one.grid_hw
    (grown,) = rescaled(view.expanded, image.original_hw).objects
    shown.lines = [
        f"{looked_at[0].upper()}{looked_at[1:]}: row {row}, column {col} of {rows} x {columns}",
        f"Similar to {counted(view.degree, 'other')} (its degree); {100 * view.positive:.0f} % of all pairs "
        f"are similar. LOST expands it to {_box_text(grown.box_xyxy)}",
    ]
    return shown


def _show_attention(shown: Column, one: OneImage, choice: Choice, layer: int) -> None:
    label = f"Attention of {choice.token}, {'all heads' if choice.head == MEAN else f'head {choice.head}'}"
    try:
        weights = attention_of(one, choice.token, layer, choice.head)
        shown.put("attention", label, map_picture(one.image, weights, one.patch_size))
    except LostRegError as error:
        shown.put("attention", label, None)
        shown.errors.append(str(error))


def _show_objects(shown: Column, one: OneImage, setting: Setting, choice: Choice) -> None:
    title = setting.method.title
    try:
        prediction, maps = found_by(one, setting)
    except LostRegError as error:
        shown.put("objects", f"Objects by {title}", photo(one.image))
        shown.put("map", f"Maps of {title}", None)
        shown.errors.append(str(error))
        return
    shown.put("objects", f"Objects by {title}", objects_picture(one.image, prediction))
    found = rescaled(prediction, one.image.original_hw).objects
    words = [f"{_box_text(one_found.box_xyxy)}{_score_text(one_found.score)}" for one_found in found]
    more = f" and {len(words) - _BOXES_SHOWN} more" if len(words) > _BOXES_SHOWN else ""
    listed = ", ".join(words[:_BOXES_SHOWN]) or "it found nothing"
    shown.lines.insert(0, f"{counted(len(found), 'object')}: {listed}{more}")
    _show_map(shown, one, title, maps, choice.map)


def _show_map(shown: Column, one: OneImage, title: str, maps: Maps, wanted: str) -> None:
    """The map of the method that is wanted, or its first; methods without maps have none."""
    own = {name: values for name, values in maps.values.items() if name != "norms"}
    shown.maps = list(own)
    if not own:
        shown.put("map", f"{title} has no maps", None)
        return
    name = wanted if wanted in own else next(iter(own))
    picture = outlined(
        map_picture(one.image, own[name], one.patch_size), one.image, maps.seed, one.patch_size
    )
    shown.put("map", f"{map_title(name)}, and {title}'s seed", picture)


def map_title(name: str) -> str:
    """What a map is called."""
    return MAPS[name][0] if name in MAPS else name


def tokens_of(model: Model) -> list[str]:
    """The tokens whose attention can be shown of a backbone, with and without test-time registers."""
    return list((model.with_registers or model.plain).prefix_tokens)


def _box_text(box: Box) -> str:
    return f"[{', '.join(f'{round(side, 1):g}' for side in box)}]"


def _score_text(score: float | None) -> str:
    return "" if score is None else f" (score {score:.3g})"
