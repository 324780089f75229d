"""A column of the page, laid out with Gradio: the controls of its setting, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.features import FACETS
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError, one_line
from lost_reg.explore.columns import (
    OF_A_PATCH,
    SLOTS,
    Choice,
    Column,
    Model,
    map_title,
    prepared,
    shown_of_method,
    shown_of_patch,
    title_of,
    tokens_of,
)
from lost_reg.explore.features import FeatureStore
from lost_reg.explore.reader import PageImage
from lost_reg.explore.views import MEAN, centre_of, methods_offered, options_of, setting_of
from lost_reg.types import AUTO

Values = dict[Any, Any]  # of the page's components, as Gradio's events bring them
Position = tuple[float, float]  # in an image, see `views.patch_at`
_FACETS = (*FACETS, "qk", "qv", "kv", "qkv")
_SLIDERS = {"bias": (-1.0, 0.5), "tau": (0.0, 1.0)}
_OF_METHOD = tuple(slot for slot in SLOTS if slot not in OF_A_PATCH)


class Panel:
    """The components of a column.

    Attributes:
        block: the column itself. controls: what chooses its backbone and setting, by name.
        parts: its texts, "method" and "patch", and its pictures, by slot.
    """

    def __init__(self, models: Sequence[Model], number: int, max_side: int | None, *, visible: bool):
        """Lay it out; number: from 1."""
        self._models, self._max_side = models, max_side
        self.controls: dict[str, Any] = {}
        self.parts: dict[str, Any] = {}
        with gr.Column(visible=visible, min_width=340, elem_classes="lost-reg-column") as self.block:
            self._lay_out_method(number)
            with gr.Accordion("Features, options, attention", open=False, elem_id=f"more-{number}"):
                self._lay_out_options(number)
                self._lay_out_tokens(number)
            self._lay_out_pictures(number)

    # --- layout

    def _lay_out_method(self, number: int) -> None:
        controls, first = self.controls, (number - 1) % len(self._models)
        named = [(one.plain.name, index) for index, one in enumerate(self._models)]
        offered = _offered_for(self._models[first])["method"]
        with gr.Row():
            controls["backbone"] = gr.Dropdown(
                named, value=first, label="Backbone", min_width=170, elem_id=f"backbone-{number}"
            )
            controls["method"] = gr.Dropdown(
                label="Method", min_width=170, elem_id=f"method-{number}", **offered
            )

    def _lay_out_options(self, number: int) -> None:
        controls = self.controls
        first = self._models[controls["backbone"].value]
        shown = _controls_of(setting_of(first.plain, controls["method"].value, max_side=self._max_side))
        with gr.Row():
            controls["facet"] = gr.Dropdown(
                list(_FACETS), label="Facet", min_width=100, elem_id=f"facet-{number}", **shown["facet"]
            )
            controls["layer"] = gr.Dropdown(
                multiselect=True, label="Layers, joined", min_width=160, elem_id=f"layer-{number}",
                **shown["layer"], **_offered_for(first)["layer"],
            )  # fmt: skip
        with gr.Row():
            for name, (low, high) in _SLIDERS.items():
                controls[name] = gr.Slider(
                    low, high, step=0.01, label=name, min_width=220, elem_id=f"{name}-{number}", **shown[name]
                )
                auto = f"{name}_auto"
                controls[auto] = gr.Checkbox(label=f"{name}: {AUTO}", min_width=140, **shown[auto])
            controls["max_objects"] = gr.Slider(
                1, 10, step=1, label="Objects, at most", min_width=220, **shown["max_objects"]
            )

    def _lay_out_tokens(self, number: int) -> None:
        controls = self.controls
        offered = _offered_for(self._models[controls["backbone"].value])
        with gr.Row():
            controls["token"] = gr.Dropdown(label="Attention of", min_width=140, **offered["token"])
            controls["head"] = gr.Dropdown(
                label="Head", min_width=100, elem_id=f"head-{number}", **offered["head"]
            )
            controls["map"] = gr.Dropdown([], label="Map of the method", visible=False, min_width=140)
            controls["registers"] = gr.Checkbox(
                False,
                label="Test-time registers",
                elem_id=f"registers-{number}",
                **offered["registers"],
            )

    def _lay_out_pictures(self, number: int) -> None:
        for text in ("method", "patch"):
            self.parts[text] = gr.HTML(elem_classes=["lost-reg-text", f"{text}-text"], padding=False)
        for start in range(0, len(SLOTS), 2):
            with gr.Row():
                for slot in SLOTS[start : start + 2]:
                    self.parts[slot] = gr.Image(
                        label=slot, interactive=False, buttons=[], min_width=160,
                        format="jpeg" if slot in ("objects", "expansion") else "png",
                        elem_classes=["lost-reg-picture", f"slot-{slot}"],
                        alt_text=f"{slot}, column {number}",
                    )  # fmt: skip

    # --- what is chosen

    def choice(self, of_components: Values) -> tuple[Backbone, Choice]:
        """What the controls say."""
        values = {name: of_components[one] for name, one in self.controls.items()}
        changes: dict[str, Any] = {name: values[name] for name in ("facet", "max_objects")}
        changes["layer"] = tuple(values["layer"] or ()) or None
        for name in _SLIDERS:
            changes[name] = AUTO if values[f"{name}_auto"] else values[name]
        head = int(values["head"]) if str(values["head"]).isdigit() else MEAN
        changes["attention_head"] = None if head == MEAN else head  # DINO-seg's
        return self._models[values["backbone"]].chosen(bool(values["registers"])), Choice(
            method=values["method"],
            changes={name: value for name, value in changes.items() if value is not None},
            token=values["token"] or "",
            head=head,
            map=values["map"] or "",
            max_side=self._max_side,
        )

    def of_backbone(self, values: Values) -> Values:
        """What the controls offer for the backbone; what was chosen stays if it is still offered."""
        controls, offered = self.controls, _offered_for(self._models[values[self.controls["backbone"]]])
        for name in ("method", "token", "head"):
            if values[controls[name]] in [key for _, key in offered[name]["choices"]]:
                offered[name]["value"] = values[controls[name]]
        changes = self.of_method(values | {controls["method"]: offered["method"]["value"]})
        for name, change in offered.items():
            changes[controls[name]] = gr.update(**change) | changes.get(controls[name], {})
        return changes

    def of_method(self, values: Values) -> Values:
        """The controls that the method has, at the values of its preset for the backbone."""
        backbone, choice = self.choice(values)
        try:
            setting = setting_of(backbone, choice.method, max_side=self._max_side)
        except LostRegError:  # the column shows the error
            return {self.controls["map"]: gr.skip()}
        return {self.controls[name]: gr.update(**change) for name, change in _controls_of(setting).items()}

    def position_of(
        self, values: Values, image: PageImage, patch: tuple[int, int], store: FeatureStore
    ) -> Position:
        """The position of a patch in this column's grid; a place outside is moved into it.

        Raises:
            LostRegError: see `prepared`.
        """
        one, _ = prepared(*self._of(values, image), store)
        row, column = (min(max(0, at), count - 1) for at, count in zip(patch, one.grid_hw))
        return centre_of(one, (row, column))

    def _of(self, values: Values, image: PageImage) -> tuple[Backbone, PageImage, Choice]:
        backbone, choice = self.choice(values)
        return backbone, image, choice

    # --- what is shown

    def show(self, values: Values, image: PageImage, store: FeatureStore) -> Values:
        """The changes of what does not depend on a patch."""
        backbone, image, choice = self._of(values, image)
        shown = shown_of_method(backbone, image, choice, store)
        chosen = choice.map if choice.map in shown.maps else next(iter(shown.maps), None)
        offered = [(map_title(name), name) for name in shown.maps]
        maps = gr.update(choices=offered, value=chosen, visible=len(offered) > 1)
        return {
            **self._updates(shown, "method", _OF_METHOD, title_of(backbone)),
            self.controls["map"]: maps,
        }

    def show_patch(
        self, values: Values, image: PageImage, position: Position | None, store: FeatureStore
    ) -> tuple[Values, tuple[int, int] | None]:
        """The changes of what follows from a patch, and its row and column; see `shown_of_patch`."""
        shown = shown_of_patch(*self._of(values, image), position, store)
        return self._updates(shown, "patch", OF_A_PATCH), shown.patch

    def _updates(self, shown: Column, text: str, slots: Sequence[str], title: str = "") -> Values:
        """The changes of some pictures, and of a text."""
        lines = [("title", title)] if title else []
        lines += [("", line) for line in shown.lines] + [("error", error) for error in shown.errors]
        changes: Values = {self.parts[text]: paragraphs(lines)}
        for slot in slots:
            label = shown.labels.get(slot, slot)
            changes[self.parts[slot]] = gr.update(value=shown.pictures.get(slot), label=label)
        return changes


def _offered_for(model: Model) -> dict[str, dict[str, Any]]:
    """What those controls offer whose choices depend on the backbone, by name, and their first values."""
    plain, tokens = model.plain, tokens_of(model)
    heads = [MEAN, *map(str, range(plain.heads))]
    methods = methods_offered(plain).items()
    return {
        "method": {"choices": [(title, key) for key, title in methods], "value": Choice().method},
        "layer": {"choices": [(str(-layer), -layer) for layer in range(1, plain.depth + 1)]},
        "token": {
            "choices": [(token, token) for token in tokens],
            "value": next(iter(tokens), None),
            "visible": bool(tokens),
        },
        "head": {"choices": [(head, head) for head in heads], "value": MEAN, "visible": bool(tokens)},
        "registers": {"visible": model.with_registers is not None},
    }


def _controls_of(setting: Setting) -> dict[str, dict[str, Any]]:
    """Value and visibility of the controls, by name, for a method: those that it has, at its values."""
    known, features = options_of(setting), setting.features
    values: dict[str, Any] = {"facet": features.facet, "layer": list(features.layers)}
    for name in _SLIDERS:
        value = getattr(setting.config, name, None)
        values[name] = value if isinstance(value, (int, float)) else 0
        values[f"{name}_auto"] = value == AUTO
    values["max_objects"] = getattr(setting.config, "max_objects", 1)
    return {
        name: {"value": value, "visible": name.removesuffix("_auto") in known}
        for name, value in values.items()
    }


def paragraphs(lines: Sequence[tuple[str, str]]) -> Markup:
    """Lines with their CSS classes; names come from users, so everything is escaped."""
    return Markup("").join(
        Markup('<p class="{}">{}</p>').format(kind, one_line(line)) for kind, line in lines
    )
