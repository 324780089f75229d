"""The page, laid out with Gradio: controls, and a column of pictures for each backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

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
    all_tokens,
    map_title,
    shown_of_method,
    shown_of_patch,
    title_of,
)
from lost_reg.explore.features import FeatureStore
from lost_reg.explore.pictures import canvas_hw
from lost_reg.explore.reader import Reader
from lost_reg.explore.views import MEAN, centre_of, methods_offered, options_of, setting_of
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import readable_suffixes
from lost_reg.types import AUTO

TITLE = "lost-reg explore"
PRESETS_OWN = "preset's"  # leaves a feature as the preset has it
_FACETS = (PRESETS_OWN, *FACETS, "qk", "qv", "kv", "qkv")
_SLIDERS = {"bias": (-1.0, 0.5), "tau": (0.0, 1.0)}
_SECONDS = 3600  # after which the pictures of a session, and how often, are deleted
_STYLE = """
.lost-reg-title h1 {font-size: 1.25rem; font-weight: 600; margin: 0}
.lost-reg-text p {margin: 0 0 .35em} .lost-reg-text .title {font-weight: 600}
.lost-reg-text .error {color: #b91c1c} .dark .lost-reg-text .error {color: #fca5a5}
.lost-reg-picture img {cursor: crosshair; width: 100%}
.lost-reg-picture [data-testid="block-label"] {position: static; border: 0; background: none}
"""


def look() -> dict[str, Any]:
    """The page's theme and style: arguments of Gradio's `launch` and `mount_gradio_app`.

    Fonts are those of the system: the page loads nothing from elsewhere.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": _STYLE, "footer_links": [], "run_history": False}


def page(models: Sequence[Backbone | Model], reader: Reader | None = None) -> gr.Blocks:
    """The page for some backbones, side by side; launch it with `look()`.

    Args:
        models: at least one; a `Model` also has its backbone with test-time registers.
        reader: the images that it pages through; without, it only takes uploads.

    Raises:
        LostRegError: no backbone.
    """
    if not models:
        raise LostRegError("a page needs at least one backbone")
    return _Page([one if isinstance(one, Model) else Model(one) for one in models], reader or Reader()).blocks


@dataclass(frozen=True)
class _Session:
    """What one browser looks at: an image, its number in the folder, and a position in it, or None."""

    image: DecodedImage | None = None
    index: int = 0
    position: tuple[float, float] | None = None


class _Page:
    """The components, and what happens when they are used. `blocks` is the page itself."""

    def __init__(self, models: list[Model], reader: Reader):
        self.models, self.reader, self.store = models, reader, FeatureStore()
        self._plain = [model.plain for model in models]
        self.controls: dict[str, Any] = {}
        with gr.Blocks(
            title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(_SECONDS, _SECONDS)
        ) as self.blocks:
            gr.HTML(f"<h1>{TITLE}</h1>", elem_classes="lost-reg-title", padding=False)
            self.session = gr.State(_Session(), time_to_live=_SECONDS)
            with gr.Row():
                self._lay_out_images()
            with gr.Accordion("Method and features"):
                self._lay_out_method()
                self._lay_out_tokens()
            self._lay_out_patch()
            with gr.Row():
                self.columns = [self._lay_out_column(model) for model in models]
            self._wire()

    # --- layout

    def _lay_out_images(self) -> None:
        with gr.Column(scale=1, min_width=280):
            kinds = list(readable_suffixes())
            self.upload = gr.File(label="Drop an image here", file_types=kinds, height=120, elem_id="upload")
            _take_uploads_alone(self.upload)
        with gr.Column(scale=2, min_width=280):
            self.status = gr.HTML(elem_id="status", elem_classes="lost-reg-text")
            with gr.Row(visible=self.reader.count > 1):
                self.back = gr.Button("Previous", elem_id="previous", min_width=80)
                label = f"Image, of {self.reader.count:,}"
                self.number = gr.Number(1, label=label, minimum=1, precision=0, min_width=80)
                self.forth = gr.Button("Next", elem_id="next", min_width=80)

    def _lay_out_method(self) -> None:
        controls = self.controls
        with gr.Row():
            offered = [(label, key) for key, label in methods_offered(self._plain).items()]
            controls["method"] = gr.Dropdown(offered, value=Choice().method, label="Method", elem_id="method")
            controls["facet"] = gr.Dropdown(list(_FACETS), value=PRESETS_OWN, label="Facet", min_width=130)
            depth = max(backbone.depth for backbone in self._plain)
            layers = [PRESETS_OWN, *(str(layer) for layer in range(-1, -depth - 1, -1))]
            controls["layer"] = gr.Dropdown(layers, value=PRESETS_OWN, label="Layer", min_width=130)
            for name, (low, high) in _SLIDERS.items():
                controls[name] = gr.Slider(
                    low, high, step=0.01, label=name, elem_id=name, visible=False, min_width=220
                )
                label = f"{name}: {AUTO}"
                controls[f"{name}_auto"] = gr.Checkbox(
                    False, label=label, visible=False, min_width=140, elem_id=f"{name}-auto"
                )
            controls["max_objects"] = gr.Slider(
                1, 10, value=1, step=1, label="Objects, at most", visible=False, min_width=220
            )

    def _lay_out_tokens(self) -> None:
        tokens, controls = all_tokens(self.models), self.controls
        heads = max(backbone.heads for backbone in self._plain)
        with gr.Row():
            controls["token"] = gr.Dropdown(
                tokens, value=tokens[0] if tokens else None, label="Attention of", visible=bool(tokens)
            )
            choices = [MEAN, *map(str, range(heads))]
            controls["head"] = gr.Dropdown(choices, value=MEAN, label="Head", visible=bool(tokens))
            controls["map"] = gr.Dropdown([], label="Map of the method", visible=False)
            controls["registers"] = gr.Checkbox(
                False,
                label="Test-time registers",
                elem_id="registers",
                visible=any(model.with_registers for model in self.models),
            )

    def _lay_out_patch(self) -> None:
        gr.HTML("Click a picture to choose a patch, or give its place in the grid of the first backbone.")
        with gr.Row():
            self.row = gr.Number(None, label="Row", precision=0, minimum=0, min_width=80, elem_id="row")
            self.col = gr.Number(None, label="Column", precision=0, minimum=0, min_width=80, elem_id="column")
            self.reset = gr.Button("LOST's own seed", elem_id="seed", min_width=120)

    def _lay_out_column(self, model: Model) -> dict[str, Any]:
        with gr.Column(min_width=340, elem_classes="lost-reg-column"):
            parts: dict[str, Any] = {}
            for text in ("method", "patch"):
                parts[text] = gr.HTML(elem_classes=["lost-reg-text", f"{text}-text"], padding=False)
            for start in range(0, len(SLOTS), 2):
                with gr.Row():
                    for slot in SLOTS[start : start + 2]:
                        parts[slot] = gr.Image(
                            label=slot, interactive=False, buttons=[], min_width=160,
                            format="jpeg" if slot in ("objects", "expansion") else "png",
                            elem_classes=["lost-reg-picture", f"slot-{slot}"],
                            alt_text=f"{slot}, {model.plain.name}",
                        )  # fmt: skip
        return parts

    # --- events

    def _wire(self) -> None:
        controls, state = self.controls, self.session
        seen, every = {*controls.values(), state}, [*controls.values()]
        of_a_patch = [self.row, self.col]
        of_a_patch += [parts[name] for parts in self.columns for name in ("patch", *OF_A_PATCH)]
        outputs = [*of_a_patch, self.status, self.number, controls["map"]]
        outputs += [part for parts in self.columns for part in parts.values() if part not in of_a_patch]
        how: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        how["show_progress_on"] = self.status

        def then_show(*events: Any) -> None:
            for event in events:
                event.then(self._show, seen, outputs, **how)

        then_show(
            self.blocks.load(lambda session: self._listed(session, 0), state, state, **how),
            self.upload.upload(self._uploaded, {self.upload, state}, [state, self.upload], **how),
            self.back.click(lambda session: self._listed(session, -1), state, state, **how),
            self.forth.click(lambda session: self._listed(session, 1), state, state, **how),
            self.number.submit(self._numbered, {self.number, state}, state, **how),
            controls["method"].input(self._method_chosen, {*every}, every, **how),
        )
        others = [one for name, one in controls.items() if name != "method"]
        gr.on([one.input for one in others], self._show, seen, outputs, trigger_mode="always_last", **how)
        for event in (
            *(
                place.input(self._placed, {self.row, self.col, *seen}, state, **how)
                for place in of_a_patch[:2]
            ),
            self.reset.click(lambda session: replace(session, position=None), state, state, **how),
            *(parts[slot].select(_clicked, state, state, **how) for parts in self.columns for slot in SLOTS),
        ):
            event.then(self._show_patch, seen, of_a_patch, **how)

    def _uploaded(self, values: dict[Any, Any]) -> tuple[_Session, None]:
        session, file = values[self.session], values[self.upload]
        if file is not None:
            session = _opened(session, lambda: self.reader.uploaded(file))
        return session, None

    def _listed(self, session: _Session, by: int) -> _Session:
        """The image so many further in the folder; it stays at the ends."""
        if not self.reader.count:
            return session
        index = min(max(0, session.index + by), self.reader.count - 1)
        return _opened(replace(session, index=index), lambda: self.reader.listed(index))

    def _numbered(self, values: dict[Any, Any]) -> _Session:
        session, number = values[self.session], values[self.number]
        return self._listed(replace(session, index=int(number or 1) - 1), 0)

    def _placed(self, values: dict[Any, Any]) -> _Session:
        """The patch whose row and column were typed, in the grid of the first backbone."""
        session, place = values[self.session], (values[self.row], values[self.col])
        if session.image is None or None in place:
            return session
        model = self.models[0].chosen(values[self.controls["registers"]])
        one = self.store.of(model, session.image)
        row, col = (min(max(0, int(at)), cells - 1) for at, cells in zip(place, one.grid_hw))
        return replace(session, position=centre_of(one, (row, col)))

    def _method_chosen(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """The controls that the method has, at the values of its preset for the first backbone."""
        controls = self.controls
        try:
            setting = setting_of(self._plain[0], values[controls["method"]])
        except LostRegError:  # it is told in the column
            return {controls["map"]: gr.skip()}
        return {controls[name]: change for name, change in _controls_of(setting).items()}

    def _show(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Everything, for the session's image and the controls."""
        session = values[self.session]
        if session.image is None:
            return {self.status: "Drop an image, to see what the backbones make of it."}
        choice, shown = self._choice(values), []
        changes = self._show_patch(values)
        for model, parts in zip(self._models(choice), self.columns):
            one = shown_of_method(model, session.image, choice, self.store)
            slots = [slot for slot in SLOTS if slot not in OF_A_PATCH]
            changes |= _updates(parts, one, "method", slots, title_of(model))
            shown.append(one)
        maps = list(dict.fromkeys(name for one in shown for name in one.maps))
        chosen = choice.map if choice.map in maps else next(iter(maps), None)
        offered = [(map_title(name), name) for name in maps]
        return {
            **changes,
            self.number: session.index + 1,
            self.status: _about(session.image),
            self.controls["map"]: gr.update(choices=offered, value=chosen, visible=len(maps) > 1),
        }

    def _show_patch(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """What follows from the session's patch."""
        session, choice = values[self.session], self._choice(values)
        changes: dict[Any, Any] = {}
        if session.image is None:
            return {self.row: None, self.col: None}
        for model, parts in zip(self._models(choice), self.columns):
            shown = shown_of_patch(model, session.image, choice, session.position, self.store)
            changes |= _updates(parts, shown, "patch", OF_A_PATCH)
            if parts is self.columns[0]:
                changes[self.row], changes[self.col] = shown.patch or (None, None)
        return changes

    def _models(self, choice: Choice) -> list[Backbone]:
        return [model.chosen(choice.registers) for model in self.models]

    def _choice(self, of_components: dict[Any, Any]) -> Choice:
        """What the controls say."""
        values = {name: of_components[one] for name, one in self.controls.items()}
        changes: dict[str, Any] = {}
        if values["facet"] != PRESETS_OWN:
            changes["facet"] = values["facet"]
        if values["layer"] != PRESETS_OWN:
            changes["layer"] = int(values["layer"])
        for name in _SLIDERS:
            changes[name] = AUTO if values[f"{name}_auto"] else values[name]
        changes["max_objects"] = values["max_objects"]
        head = int(values["head"]) if str(values["head"]).isdigit() else MEAN
        changes["attention_head"] = None if head == MEAN else head  # DINO-seg's
        return Choice(
            method=values["method"],
            changes={name: value for name, value in changes.items() if value is not None},
            token=values["token"] or "",
            head=head,
            map=values["map"] or "",
            registers=bool(values["registers"]),
        )


def _about(image: DecodedImage) -> Markup:
    """An image's name and sizes."""
    (height, width), (used_height, used_width) = image.original_hw, image.size_hw
    used = "" if image.size_hw == image.original_hw else f", used at {used_width} x {used_height}"
    note = f"; {image.note}" if image.note else ""
    return _paragraphs([("title", image.name), ("", f"{width} x {height} pixels{used}{note}")])


def _take_uploads_alone(upload: gr.File) -> None:
    """Let a file be one that a browser has uploaded.

    A request can name any other: of the machine, which Gradio does not check in a mounted page, or at an
    address, which its server would fetch.
    """
    move, folder = upload.async_move_resource_to_block_cache, Path(upload.GRADIO_CACHE).resolve()

    async def move_file(path: Any) -> Any:
        if "://" in str(path) or not Path(path).resolve().is_relative_to(folder):
            raise gr.Error("expected an uploaded file", print_exception=False)
        return await move(path)

    upload.__dict__["async_move_resource_to_block_cache"] = move_file


def _opened(session: _Session, open_image: Any) -> _Session:
    """The session with another image; as before, and a warning, if it cannot be opened."""
    try:
        return replace(session, image=open_image(), position=None)
    except LostRegError as error:
        gr.Warning(str(escape(one_line(str(error)))))
        return session


def _clicked(session: _Session, event: gr.SelectData) -> _Session:
    """The position of a click on a picture; its index is (x, y) in the picture's pixels."""
    if session.image is None:
        return session
    height, width = canvas_hw(session.image)
    x, y = event.index
    return replace(session, position=(y / height, x / width))


def _controls_of(setting: Setting) -> dict[str, Any]:
    """The changes of the controls, by name, for a method: those that it has are shown, at its values."""
    known = options_of(setting)
    changes = {name: gr.update(visible=name in known, value=PRESETS_OWN) for name in ("facet", "layer")}
    for name in _SLIDERS:
        value = getattr(setting.config, name, None)
        number = value if isinstance(value, (int, float)) else 0
        changes[name] = gr.update(visible=name in known, value=number)
        changes[f"{name}_auto"] = gr.update(visible=name in known, value=value == AUTO)
    most = getattr(setting.config, "max_objects", 1)
    changes["max_objects"] = gr.update(visible="max_objects" in known, value=most)
    return changes


def _updates(
    parts: dict[str, Any], shown: Column, text: str, slots: Sequence[str], title: str = ""
) -> dict[Any, Any]:
    """The changes of some pictures of a column, and of its text of a kind."""
    lines = [("title", title)] if title else []
    lines += [("", line) for line in shown.lines] + [("error", error) for error in shown.errors]
    changes: dict[Any, Any] = {parts[text]: _paragraphs(lines)}
    for slot in slots:
        label = shown.labels.get(slot, slot)
        changes[parts[slot]] = gr.update(value=shown.pictures.get(slot), label=label)
    return changes


def _paragraphs(lines: Sequence[tuple[str, str]]) -> Markup:
    """Lines with their CSS classes; names come from users, so everything is escaped."""
    return Markup("").join(
        Markup('<p class="{}">{}</p>').format(kind, one_line(line)) for kind, line in lines
    )
