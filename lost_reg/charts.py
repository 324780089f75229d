"""Charts as SVG, drawn by matplotlib, which is imported when the first one is drawn.

A chart is a function that draws into matplotlib axes. For a page it becomes inline SVG without style
attributes, which a content security policy would block. Text stays text, in the page's font. Each of COLOURS
becomes the page's CSS variable of that name, so that a chart follows the light and dark theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from markupsafe import Markup

from lost_reg.errors import one_line

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH = 340  # pixels: three charts beside each other on a desktop, one on a phone, at nearly the same size
COLOURS = {
    "text": "#1e2227",
    "quiet": "#5f656e",
    "line": "#e2ded7",
    "surface": "#ffffff",
    "bar-plain": "#7b8794",
    "bar-without": "#b9a48a",
    "bar-with": "#1f7ac4",
    "bar-test-time": "#2c8f6b",
    "baseline": "#8a3a78",
    "published": "#c2410c",
    "accent": "#0b62a8",
}
# From orange to purple at equal lightness, so that they are legible on light and dark backgrounds.
ORDERED = ("#cf6924", "#aa8400", "#639c31", "#00a584", "#009dc3", "#4c88e2", "#9871d5")

Draw = Callable[["Axes"], None]

_LEGEND_LINE = 17
_TITLE = "title: "  # prefix of an artist's gid
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # user-supplied names may contain dollar signs
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": COLOURS["quiet"],
    "axes.titlepad": 9,
    "axes.labelcolor": COLOURS["quiet"],
    "axes.edgecolor": COLOURS["quiet"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": COLOURS["line"],
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "ytick.major.size": 0,
    "text.color": COLOURS["text"],
    "lines.linewidth": 2,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.handlelength": 1.8,
    "legend.labelspacing": 0.35,
    "legend.columnspacing": 1.2,
    "legend.labelcolor": COLOURS["quiet"],
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


def chart(draw: Draw, label: str, *, height: float = 200, width: float = WIDTH) -> Markup:
    """A chart for a page, as an SVG element that templates do not escape.

    Args:
        draw: draws into empty axes; labelled artists appear in a legend below them.
        label: description for screen readers; empty if the text beside the chart says it all.
        height, width: in pixels, without the legend; the page may scale it.
    """
    root = _drawn([("", draw)], (width, height), salt=label, background="none")
    for element in root.iter():
        for name in ("fill", "stroke"):
            if (colour := element.get(name)) in _VARIABLES:
                element.set(name, _VARIABLES[colour])
    root.attrib.update({"role": "img", "aria-label": one_line(label)} if label else {"aria-hidden": "true"})
    return Markup(_as_text(root))


def chart_file(panels: Sequence[tuple[str, Draw]], *, height: float = 240) -> str:
    """Charts side by side, each below its title, as the text of an SVG file with a white background."""
    root = _drawn(panels, (WIDTH * len(panels), height), salt="file", background="white")
    root.attrib.update({"font-family": "sans-serif", "width": root.get("viewBox").split()[2]})
    return '<?xml version="1.0" encoding="utf-8"?>\n' + _as_text(root) + "\n"


def titled(artist: Artist, title: str | None = None) -> None:
    """Give an artist a tooltip: a title, or else its label."""
    artist.set_gid(_TITLE + one_line(title or str(artist.get_label())))


def ordered_colour(index: int, count: int) -> str:
    """A colour for one of several items that have an order."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    return to_hex(LinearSegmentedColormap.from_list("ordered", ORDERED)(index / max(1, count - 1)))


def log_scale(axes: Axes, name: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic, from low to high, with ticks at round numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = (low, high) if low < high else (low / 2, high * 2)
    ratio = high / low
    steps = (1,) if ratio > 300 else (1, 2, 5) if ratio > 8 else (1, 1.5, 2, 3, 4, 5, 7)
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=steps, numticks=99))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def percent_top(values: Sequence[float]) -> float:
    """The upper limit of a percent axis: the largest value rounded up to a multiple of 10, at most 100."""
    return min(100.0, max(10.0, 10.0 * -(-max(values) // 10)))


# --- drawing --------------------------------------------------------------------------------------------


def _drawn(
    panels: Sequence[tuple[str, Draw]], size: tuple[float, float], *, salt: str, background: str
) -> ElementTree.Element:
    """Panels side by side as an SVG element, identical in every session; size: (width, height)."""
    from matplotlib.figure import Figure
    from matplotlib.style import context
    from matplotlib.text import Text

    text = io.StringIO()
    style = _STYLE | {"svg.hashsalt": f"chart {one_line(salt)}"}
    with context([style], after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's font may have it
        figure = Figure(layout="constrained", facecolor=background)
        subfigures = figure.subfigures(1, len(panels), squeeze=False)[0]
        rows = []
        for subfigure, (title, draw) in zip(subfigures, panels):
            axes = subfigure.subplots()
            draw(axes)
            if title:
                subfigure.suptitle(fill(one_line(title), 44), fontsize="medium", fontweight="bold")
            rows.append(_add_legend(subfigure, axes))
        for written in figure.findobj(Text):  # characters that XML has none for
            written.set_text("\n".join(map(one_line, written.get_text().split("\n"))))
        width, height = size[0], size[1] + _LEGEND_LINE * max(rows)
        figure.set_size_inches(width / 72, height / 72)  # matplotlib's SVG has 72 units per inch
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _tidied(text.getvalue())


def _add_legend(figure: Any, axes: Axes) -> int:
    """A legend below the axes, in as many columns as fit, with each label once; returns its row count."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return 0
    keys = dict(zip(labels, handles))
    room = int(WIDTH // (34 + 6.1 * max(map(len, keys))))
    columns = min(len(keys), max(1, room))
    figure.legend(keys.values(), keys, loc="outside lower left", ncols=columns)
    return -(-len(keys) // columns)


# --- the SVG --------------------------------------------------------------------------------------------

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_SHAPE_ATTRIBUTES = ("d", "x", "y", "transform")


def _tidied(text: str) -> ElementTree.Element:
    """Matplotlib's SVG without what a page blocks or does not need.

    Style attributes become presentation attributes. Groups lose their ids; where `titled` set one, it becomes
    a <title>. Numbers are rounded to two decimals.
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.text, element.tail = ((part or "").strip() for part in (element.text, element.tail))
        for name, value in _properties(element.attrib.pop("style", "")):
            element.set(name, value)
        if element.tag == f"{{{_SVG}}}g" and (name := element.attrib.pop("id", "")).startswith(_TITLE):
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = name.removeprefix(_TITLE)
            element.insert(0, title)
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        for name in _SHAPE_ATTRIBUTES:
            if name in element.attrib:
                element.set(name, _shortened(element.attrib[name]))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")
    return root


def _properties(style: str) -> list[tuple[str, str]]:
    """The properties of a style attribute, except the font: the page's is used."""
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    properties = [(name.strip(), value.strip()) for name, _, value in pairs]
    return [(name, value) for name, value in properties if name != "font-family"]


def _shortened(numbers: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), numbers)
    return " ".join(short.split())


def _as_text(root: ElementTree.Element) -> str:
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")
