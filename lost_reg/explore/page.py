"""The page, laid out with Gradio: controls, and a column of pictures for each backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.features import FACETS
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError, one_line
from lost_reg.explore.columns import SLOTS, Choice, Column, Model, all_tokens, column, map_title
from lost_reg.explore.features import FeatureStore
from lost_reg.explore.pictures import canvas_hw
from lost_reg.explore.reader import Reader
from lost_reg.explore.views import MEAN, centre_of, methods_offered, options_of, setting_of
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import readable_suffixes
from lost_reg.text import counted
from lost_reg.types import AUTO

TITLE = "lost-reg explore"
PRESETS_OWN = "preset's"  # leaves a feature as the preset has it
_FACETS = (PRESETS_OWN, *FACETS, "qk", "qv", "kv", "qkv")
_SLIDERS = {"bias": (-1.0, 0.5), "tau": (0.0, 1.0)}
_SECONDS = 3600  # after which the pictures of a session, and how often, are deleted
_STYLE = """
.lost-reg-text p {margin: 0 0 .35em} .lost-reg-text .title {font-weight: 600}
.lost-reg-text .error {color: var(--error-text-color, #b91c1c)}
.lost-reg-picture img {image-rendering: auto; cursor: crosshair; width: 100%}
"""


def look() -> dict[str, Any]:
    """The page's theme and style: arguments of Gradio's `launch` and `mount_gradio_app`.

    Fonts are those of the system: the page loads nothing from elsewhere.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {"theme": gr.themes.Default(**fonts), "css": _STYLE, "footer_links": [], "run_history": False}


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


class _Upload(gr.File):
    """A file from the browser. What is an address instead is refused: the server fetches nothing."""

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        if "://" in str(url_or_file_path):
            raise gr.Error("expected a file, but got an address", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


class _Page:
    """The components, and what happens when they are used. `blocks` is the page itself."""

    def __init__(self, models: list[Model], reader: Reader):
        self.models, self.reader, self.store = models, reader, FeatureStore()
        self.controls: dict[str, Any] = {}
        with gr.Blocks(
            title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(_SECONDS, _SECONDS)
        ) as self.blocks:
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
            self.upload = _Upload(label="Drop an image here", file_types=kinds, height=120, elem_id="upload")
        with gr.Column(scale=2, min_width=280):
            self.status = gr.HTML(elem_id="status", elem_classes="lost-reg-text")
            with gr.Row(visible=self.reader.count > 1):
                self.back = gr.Button("Previous", elem_id="previous", min_width=80)
                self.number = gr.Number(1, label="Image", minimum=1, precision=0, min_width=80)
                self.forth = gr.Button("Next", elem_id="next", min_width=80)

    def _lay_out_method(self) -> None:
        controls = self.controls
        with gr.Row():
            offered = [(label, key) for key, label in methods_offered().items()]
            controls["method"] = gr.Dropdown(offered, value=Choice().method, label="Method", elem_id="method")
            controls["facet"] = gr.Dropdown(list(_FACETS), value=PRESETS_OWN, label="Facet", min_width=100)
            depth = max(model.plain.depth for model in self.models)
            layers = [PRESETS_OWN, *(str(layer) for layer in range(-1, -depth - 1, -1))]
            controls["layer"] = gr.Dropdown(layers, value=PRESETS_OWN, label="Layer", min_width=100)
            for name, (low, high) in _SLIDERS.items():
                controls[name] = gr.Slider(low, high, step=0.01, label=name, elem_id=name, visible=False)
                label = f"{name}: {AUTO}"
                controls[f"{name}_auto"] = gr.Checkbox(False, label=label, visible=False, min_width=100)
            controls["max_objects"] = gr.Slider(
                1, 10, value=1, step=1, label="Objects, at most", visible=False
            )

    def _lay_out_tokens(self) -> None:
        tokens, controls = all_tokens(self.models), self.controls
        heads = max(model.plain.heads for model in self.models)
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
        with gr.Row():
            gr.HTML("Click a picture to choose a patch, or give its place in the first backbone's grid.")
            self.row = gr.Number(None, label="Row", precision=0, minimum=0, min_width=80, elem_id="row")
            self.col = gr.Number(None, label="Column", precision=0, minimum=0, min_width=80, elem_id="column")
            self.reset = gr.Button("LOST's own seed", elem_id="seed", min_width=120)

    def _lay_out_column(self, model: Model) -> dict[str, Any]:
        with gr.Column(min_width=340, elem_classes="lost-reg-column"):
            parts: dict[str, Any] = {"text": gr.HTML(elem_classes="lost-reg-text")}
            for start in range(0, len(SLOTS), 2):
                with gr.Row():
                    for slot in SLOTS[start : start + 2]:
                        parts[slot] = gr.Image(
                            label=slot, interactive=False, buttons=["fullscreen"], min_width=160,
                            format="jpeg" if slot in ("objects", "expansion") else "png",
                            elem_classes=["lost-reg-picture", f"slot-{slot}"],
                            alt_text=f"{slot}, {model.plain.name}",
                        )  # fmt: skip
        return parts

    # --- events

    def _wire(self) -> None:
        controls, state = self.controls, self.session
        seen = {*controls.values(), state}
        outputs = [self.row, self.col, self.status, controls["map"], self.number]
        outputs += [part for parts in self.columns for part in parts.values()]
        how: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}

        def then_show(event: Any) -> None:
            event.then(self._show, seen, outputs, **how)

        then_show(self.blocks.load(lambda session: self._listed(session, 0), state, state, **how))
        then_show(self.upload.upload(self._uploaded, {self.upload, state}, [state, self.upload], **how))
        for button, step in ((self.back, -1), (self.forth, 1)):
            then_show(button.click(lambda one, by=step: self._listed(one, by), state, state, **how))
        then_show(self.number.submit(self._numbered, {self.number, state}, state, **how))
        then_show(
            controls["method"].input(self._method_chosen, {*controls.values()}, [*controls.values()], **how)
        )
        others = [one for name, one in controls.items() if name != "method"]
        gr.on([one.input for one in others], self._show, seen, outputs, trigger_mode="always_last", **how)
        for place in (self.row, self.col):
            then_show(place.input(self._placed, {self.row, self.col, *seen}, state, **how))
        then_show(self.reset.click(lambda session: replace(session, position=None), state, state, **how))
        for parts in self.columns:
            for slot in SLOTS:
                then_show(parts[slot].select(_clicked, state, state, **how))

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
        patch = tuple(min(max(0, int(at)), cells - 1) for at, cells in zip(place, one.grid_hw))
        return replace(session, position=centre_of(one, patch))

    def _method_chosen(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """The controls that the method has, at the values of its preset for the first backbone."""
        controls = self.controls
        try:
            setting = setting_of(self.models[0].plain, values[controls["method"]])
        except LostRegError:  # it is told in the column
            return {controls["map"]: gr.skip()}
        return {controls[name]: change for name, change in _controls_of(setting).items()}

    def _show(self, values: dict[Any, Any]) -> dict[Any, Any]:
        session = values[self.session]
        if session.image is None:
            return {self.status: "Drop an image, to see what the backbones make of it."}
        choice = self._choice({name: values[one] for name, one in self.controls.items()})
        shown = [
            column(model.chosen(choice.registers), session.image, choice, session.position, self.store)
            for model in self.models
        ]
        changes: dict[Any, Any] = {}
        for parts, one in zip(self.columns, shown):
            changes |= _updates(parts, one)
        row, col = shown[0].patch or (None, None)
        maps = list(dict.fromkeys(name for one in shown for name in one.maps))
        chosen = choice.map if choice.map in maps else next(iter(maps), None)
        offered = [(map_title(name), name) for name in maps]
        return {
            **changes,
            self.row: row,
            self.col: col,
            self.number: session.index + 1,
            self.status: self._about(session),
            self.controls["map"]: gr.update(choices=offered, value=chosen, visible=len(maps) > 1),
        }

    def _choice(self, values: dict[str, Any]) -> Choice:
        """The controls' values, by name."""
        changes: dict[str, Any] = {}
        if values["facet"] != PRESETS_OWN:
            changes["facet"] = values["facet"]
        if values["layer"] != PRESETS_OWN:
            changes["layer"] = int(values["layer"])
        for name in _SLIDERS:
            changes[name] = AUTO if values[f"{name}_auto"] else values[name]
        changes["max_objects"] = values["max_objects"]
        head = values["head"]
        return Choice(
            method=values["method"],
            changes={name: value for name, value in changes.items() if value is not None},
            token=values["token"] or "",
            head=int(head) if str(head).isdigit() else MEAN,
            map=values["map"] or "",
            registers=bool(values["registers"]),
        )

    def _about(self, session: _Session) -> Markup:
        image = session.image
        assert image is not None
        height, width = image.original_hw
        used = "" if image.size_hw == image.original_hw else ", used at {} x {}".format(*image.size_hw[::-1])
        note = f"; {image.note}" if image.note else ""
        of = f" of {counted(self.reader.count, 'image')}" if self.reader.count > 1 else ""
        return _paragraphs([("title", image.name), ("", f"{width} x {height} pixels{used}{note}{of}")])


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


def _updates(parts: dict[str, Any], shown: Column) -> dict[Any, Any]:
    lines = [("title", shown.title), *(("", line) for line in shown.lines)]
    changes = {parts["text"]: _paragraphs([*lines, *(("error", error) for error in shown.errors)])}
    for slot in SLOTS:
        label = shown.labels.get(slot, slot)
        changes[parts[slot]] = gr.update(value=shown.pictures.get(slot), label=label)
    return changes


def _paragraphs(lines: Sequence[tuple[str, str]]) -> Markup:
    """Lines with their CSS classes; names come from users, so everything is escaped."""
    return Markup("").join(
        Markup('<p class="{}">{}</p>').format(kind, one_line(line)) for kind, line in lines
    )
