"""The page, laid out with Gradio: images, a patch, and columns side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

from lost_reg.backbones.base import Backbone
from lost_reg.errors import LostRegError, one_line
from lost_reg.explore.columns import OF_A_PATCH, SLOTS, Model
from lost_reg.explore.features import FeatureStore
from lost_reg.explore.panel import Panel, Position, Values, paragraphs
from lost_reg.explore.pictures import canvas_hw
from lost_reg.explore.reader import PageImage, Reader, page_image
from lost_reg.explore.views import scales_of
from lost_reg.images.batching import DecodedImage
from lost_reg.images.reading import readable_suffixes

TITLE = "lost-reg explore"
MOST_COLUMNS = 4  # or as many as there are backbones
_ON_PATCHES = (
    "Click a picture to choose your patch, or type its row and column in the grid of the first column. "
    "All columns show it at the same place; until then, each shows LOST's seed."
)
_SECONDS = 3600  # after which the pictures of a session, and how often, are deleted
_STYLE = """
.lost-reg-title h1 {font-size: 1.25rem; font-weight: 600; margin: 0}
.lost-reg-line {align-items: center; gap: .6rem}
.lost-reg-line > * {flex: none !important; width: auto; margin: 0 !important}
.lost-reg-line input[type=number] {width: 4.25rem} .lost-reg-line .form {flex-wrap: nowrap}
.lost-reg-columns {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr))}
#paging input {appearance: textfield}
.html-container {padding: 0 !important}
#upload .wrap {font-size: .85rem; line-height: 1.3; padding-top: 0}
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


def page(
    models: Sequence[Backbone | Model], reader: Reader | None = None, max_side: int | None = None
) -> gr.Blocks:
    """The page for some backbones, side by side; launch it with `look()`.

    Args:
        models: at least one; a `Model` also has its backbone with test-time registers.
        reader: the images that it pages through; without, it only takes uploads.
        max_side: the longest side of images; without, it is that of each column's preset.

    Raises:
        LostRegError: no backbone.
    """
    if not models:
        raise LostRegError("a page needs at least one backbone")
    every = [one if isinstance(one, Model) else Model(one) for one in models]
    return _Page(every, reader or Reader(), max_side).blocks


@dataclass(frozen=True)
class _Session:
    """What one browser looks at.

    image: one of the folder or, if `uploaded`, another; index: the place in the folder, from 0.
    position: in the image; None for LOST's seed.
    """

    image: PageImage | None = None
    index: int = 0
    uploaded: bool = False
    position: Position | None = None


class _Page:
    """The components, and what happens when they are used. `blocks` is the page itself."""

    def __init__(self, models: list[Model], reader: Reader, max_side: int | None = None):
        self.reader, self.store = reader, FeatureStore()
        self._scales = scales_of([model.plain for model in models], max_side)
        most = max(MOST_COLUMNS, len(models))
        with gr.Blocks(
            title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(_SECONDS, _SECONDS)
        ) as self.blocks:
            gr.HTML(f"<h1>{TITLE}</h1>", elem_classes="lost-reg-title", padding=False)
            self.session = gr.State(_Session(), time_to_live=_SECONDS)
            with gr.Row():
                self._lay_out_images()
            self._lay_out_patch(most, len(models))
            with gr.Row(elem_classes="lost-reg-columns"):
                self.panels = [
                    Panel(models, at + 1, max_side, visible=at < len(models)) for at in range(most)
                ]
            self._wire()

    # --- layout

    def _lay_out_images(self) -> None:
        with gr.Column(scale=1, min_width=280):
            kinds = list(readable_suffixes())
            self.upload = gr.File(
                label="Upload an image", show_label=False, file_types=kinds, height=112, elem_id="upload"
            )
            _take_uploads_alone(self.upload)
        with gr.Column(scale=2, min_width=280):
            self.status = gr.HTML(elem_id="status", elem_classes="lost-reg-text")
            with gr.Row(visible=self.reader.count > 1, elem_id="paging", elem_classes="lost-reg-line"):
                self.back = gr.Button("Previous", size="sm", min_width=80)
                self.number = gr.Number(
                    1, label="Number of the image", show_label=False, container=False, minimum=1,
                    precision=0, min_width=70,
                )  # fmt: skip
                gr.HTML(f"of {self.reader.count:,}", padding=False)
                self.forth = gr.Button("Next", size="sm", min_width=80)

    def _lay_out_patch(self, most: int, columns: int) -> None:
        gr.HTML(_ON_PATCHES, elem_classes="lost-reg-text", padding=False)
        with gr.Row(elem_classes="lost-reg-line"):
            self.row = gr.Number(None, label="Row", precision=0, minimum=0, min_width=90, elem_id="row")
            self.col = gr.Number(None, label="Column", precision=0, minimum=0, min_width=90, elem_id="column")
            self.reset = gr.Button("LOST's seed", size="sm", elem_id="seed", min_width=100)
            numbers = list(range(1, most + 1))
            self.count = gr.Radio(
                numbers, value=columns, label="Columns side by side", elem_id="columns", min_width=240
            )

    # --- events

    def _wire(self) -> None:
        state, place = self.session, [self.row, self.col]
        every = [one for panel in self.panels for one in panel.controls.values()]
        seen = {*every, self.count, state}
        of_a_patch = [panel.parts[name] for panel in self.panels for name in ("patch", *OF_A_PATCH)]
        outputs = [*place, self.status, self.number, *(panel.controls["map"] for panel in self.panels)]
        outputs += [part for panel in self.panels for part in panel.parts.values()]
        how: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        how["show_progress_on"] = self.status
        for event in (
            self.blocks.load(lambda session: self._listed(session, 0), state, state, **how),
            self.upload.upload(self._uploaded, {self.upload, state}, [state, self.upload], **how),
            self.back.click(lambda session: self._listed(session, -1), state, state, **how),
            self.forth.click(lambda session: self._listed(session, 1), state, state, **how),
            self.number.submit(self._numbered, {self.number, state}, state, **how),
            self.count.input(self._counted, self.count, [panel.block for panel in self.panels], **how),
        ):
            event.then(self._show, seen, outputs, **how)
        for event in (
            *(one.input(self._placed, {*place, *seen}, state, **how) for one in place),
            self.reset.click(lambda session: replace(session, position=None), state, state, **how),
            *(
                panel.parts[slot].select(_clicked, state, state, **how)
                for panel in self.panels for slot in SLOTS
            ),
        ):  # fmt: skip
            event.then(self._show_patch, seen, [*place, *of_a_patch], **how)
        for panel in self.panels:
            self._wire_panel(panel, seen, how)

    def _wire_panel(self, panel: Panel, seen: set[Any], how: dict[str, Any]) -> None:
        """The events of a column's controls, which change that column alone."""
        controls = panel.controls
        outputs = [self.row, self.col, controls["map"], *panel.parts.values()]
        choosing = {controls["backbone"]: panel.of_backbone, controls["method"]: panel.of_method}
        others = [one for one in controls.values() if one not in choosing]

        def show(values: Values) -> Values:
            return self._show_panel(panel, values)

        for one, changes in choosing.items():
            event = one.input(changes, {*controls.values()}, [*controls.values()], **how)
            event.then(show, seen, outputs, **how)
        gr.on([one.input for one in others], show, seen, outputs, trigger_mode="always_last", **how)

    def _uploaded(self, values: dict[Any, Any]) -> tuple[_Session, None]:
        session, file = values[self.session], values[self.upload]
        if file is not None:
            session = self._opened(session, lambda: self.reader.uploaded(file), uploaded=True)
        return session, None

    def _listed(self, session: _Session, by: int) -> _Session:
        """The image so many further in the folder; it stays at the ends."""
        if not self.reader.count:
            return session
        index = min(max(0, session.index + by), self.reader.count - 1)
        return self._opened(replace(session, index=index), lambda: self.reader.listed(index))

    def _numbered(self, values: dict[Any, Any]) -> _Session:
        session, number = values[self.session], values[self.number]
        return self._listed(replace(session, index=int(number or 1) - 1), 0)

    def _opened(
        self, session: _Session, open_image: Callable[[], DecodedImage], uploaded: bool = False
    ) -> _Session:
        """The session with another image; as before, and a warning, if it cannot be opened."""
        try:
            image = page_image(open_image(), self._scales)
            return replace(session, image=image, uploaded=uploaded, position=None)
        except LostRegError as error:
            gr.Warning(str(escape(one_line(str(error)))))
            return session

    def _placed(self, values: Values) -> _Session:
        """The patch whose row and column were typed, in the grid of the first column."""
        session, place = values[self.session], (values[self.row], values[self.col])
        if session.image is None or None in place:
            return session
        row, col = map(int, place)
        with suppress(LostRegError):  # the column shows the error
            position = self.panels[0].position_of(values, session.image, (row, col), self.store)
            return replace(session, position=position)
        return session

    def _counted(self, count: int) -> list[Any]:
        """As many columns as are chosen."""
        return [gr.update(visible=at < count) for at in range(len(self.panels))]

    def _show(self, values: Values) -> Values:
        """Everything, for the session's image and the controls of the columns that are seen."""
        session = values[self.session]
        if session.image is None:
            return {self.status: "Drop an image, to see what the backbones make of it."}
        number = None if session.uploaded else session.index + 1
        changes = {self.number: number, self.status: _about(session.image)}
        for panel in self.panels[: values[self.count]]:
            changes |= self._show_panel(panel, values)
        return changes

    def _show_panel(self, panel: Panel, values: Values) -> Values:
        """All of one column."""
        session = values[self.session]
        if session.image is None:
            return {self.row: None, self.col: None}
        return panel.show(values, session.image, self.store) | self._patch_of(panel, values)

    def _show_patch(self, values: Values) -> Values:
        """What follows from the session's patch, in the columns that are seen."""
        if values[self.session].image is None:
            return {self.row: None, self.col: None}
        changes: Values = {}
        for panel in self.panels[: values[self.count]]:
            changes |= self._patch_of(panel, values)
        return changes

    def _patch_of(self, panel: Panel, values: Values) -> Values:
        """What follows from the session's patch in one column; in the first, also its row and column."""
        session = values[self.session]
        changes, patch = panel.show_patch(values, session.image, session.position, self.store)
        if panel is self.panels[0]:
            changes[self.row], changes[self.col] = patch or (None, None)
        return changes


def _about(image: PageImage) -> Markup:
    """An image's name and size."""
    height, width = image.original_hw
    note = f"; {image.note}" if image.note else ""
    return paragraphs([("title", image.name), ("", f"{width} x {height} pixels{note}")])


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


def _clicked(session: _Session, event: gr.SelectData) -> _Session:
    """The position of a click on a picture; its index is (x, y) in the picture's pixels."""
    if session.image is None:
        return session
    height, width = canvas_hw(session.image.original_hw)
    x, y = event.index
    return replace(session, position=(y / height, x / width))
