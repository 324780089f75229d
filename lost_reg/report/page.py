"""The page of a report: sections are rendered by templates, which escape everything they are given.

A content security policy allows only the page's own script and style.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lost_reg import __version__
from lost_reg.errors import one_line
from lost_reg.json_files import as_json

MARK = '<meta name="generator" content="lost-reg'  # identifies a page as a report
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A part of the page: the template named after its anchor renders the data."""

    anchor: str
    title: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    label: its name for screen readers; kind: its CSS class.
    rows: cells by column: text, or a chart as markup.
    numeric: the columns that are right-aligned.
    """

    label: str
    kind: str
    rows: Sequence[Mapping[str, str]]
    numeric: Collection[str] = ()


def render(
    sections: Sequence[Section], summary: str, gallery: dict[str, Any], wording: Callable[[str], str] = str
) -> str:
    """The whole page; summary: its content in one line; wording: see `write_report`."""
    style, *scripts = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "viewer.js", "page.js")
    )
    script = "".join(scripts)
    return _environment(wording).get_template("page.html").render(
        mark=Markup(MARK),
        version=__version__,
        script_hash=_sha256(script),
        style_hash=_sha256(style),
        style=Markup(style),
        script=Markup(script),
        summary=summary,
        sections=sections,
        gallery=Markup(json_for_page(gallery)),
        created=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    )  # fmt: skip


def render_clusters(data: dict[str, Any]) -> str:
    """The page of a run's clusters: a single file whose pictures are data URIs, without any script."""
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    return _environment().get_template("clusters.html").render(
        version=__version__,
        style_hash=_sha256(style),
        style=Markup(style),
        created=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        data=data,
    )  # fmt: skip


def unfinished_page() -> str:
    """A page that marks a folder as a report while it is being written."""
    return _environment().get_template("unfinished.html").render(mark=Markup(MARK), version=__version__)


def _environment(wording: Callable[[str], str] = str) -> Environment:
    def worded(text: str) -> str:
        return one_line(wording(text))

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: worded(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = lambda text: _with_code(worded(text))
    return environment


def _with_code(text: str) -> Markup:
    """The text, escaped, with what stands in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def json_for_page(content: Any) -> str:
    """JSON that is safe in a script element: ASCII, and nothing in it can end the element."""
    text = as_json(content, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
