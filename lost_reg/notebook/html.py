"""Predictions as HTML, for a notebook: pictures inside the page, and tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from markupsafe import Markup
from PIL import Image

from lost_reg.errors import one_line
from lost_reg.text import counted, shown_names
from lost_reg.types import Failure, FoundObject, Prediction

_FIGURE = Markup('<figure style="display:inline-block;margin:4px;vertical-align:top">{}{}</figure>')
_PICTURE = Markup('<img alt="{}" src="data:image/jpeg;base64,{}" style="max-width:100%">')
_CAPTION = Markup("<figcaption>{}</figcaption>")
_TABLE = Markup(
    "<table><thead><tr><th>object</th><th>box (xmin, ymin, xmax, ymax)</th>{}</tr></thead>{}</table>"
)
_ROW = Markup("<tr><td>{}</td><td>{}</td>{}</tr>")


def of_prediction(prediction: Prediction, picture: Image.Image | str) -> str:
    """A picture, or the reason why there is none, and a table of the objects."""
    columns = [
        name
        for name in ("score", "label")
        if any(getattr(one, name) is not None for one in prediction.objects)
    ]
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in columns)
    rows = Markup("").join(
        _ROW.format(number, _corners(one), _cells(one, columns))
        for number, one in enumerate(prediction.objects)
    )
    table = _TABLE.format(head, rows) if prediction.objects else Markup("<p>nothing found</p>")
    return str(_figure(prediction, picture) + table)


def of_predictions(
    shown: Sequence[tuple[Prediction, Image.Image | str]], count: int, failures: Sequence[Failure] = ()
) -> str:
    """Pictures side by side, then how many more images there are, and those that were skipped."""
    lines = [f"and {counted(count - len(shown), 'more image')}"] if count > len(shown) else []
    if failures:
        named = shown_names((f"{one.image} ({one.reason})" for one in failures), of=len(failures))
        lines.append(f"{counted(len(failures), 'image')} skipped: {named}")
    if not count:
        lines.append("no images")
    pictures = Markup("").join(_figure(*one) for one in shown)
    return str(pictures + Markup("").join(Markup("<p>{}</p>").format(one_line(line)) for line in lines))


def _figure(prediction: Prediction, picture: Image.Image | str) -> Markup:
    name = one_line(prediction.image)
    found = f"{name}: {counted(len(prediction.objects), 'object')}"
    if isinstance(picture, str):
        return _FIGURE.format(Markup("<p>{}</p>").format(one_line(picture)), _CAPTION.format(found))
    content = io.BytesIO()
    picture.save(content, "jpeg", quality=85)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return _FIGURE.format(_PICTURE.format(name, encoded), _CAPTION.format(found))


def _corners(found: FoundObject) -> str:
    return ", ".join(f"{side:.6g}" for side in found.box_xyxy)


def _cells(found: FoundObject, columns: Sequence[str]) -> Markup:
    values = (getattr(found, name) for name in columns)
    return Markup("").join(Markup("<td>{}</td>").format("" if one is None else one) for one in values)
