"""Charts as HTML with inline SVG: plain text in, markup out, everything that comes from outside escaped.

Horizontal positions are shares of the width, so that a chart fits any screen and its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_HEIGHT = 26
_MIDDLE = _HEIGHT / 2


@dataclass(frozen=True)
class Bar:
    """One bar; value, interval and published are in percent.

    label: what it is of. kind: "plain", or a key of REGISTER_KINDS, which chooses its colour.
    joined: whether it belongs to the bar above.
    """

    label: str
    value: float
    interval: tuple[float, float]
    kind: str = "plain"
    published: float | None = None
    joined: bool = False


@dataclass(frozen=True)
class Line:
    """A vertical line across all bars, such as a baseline; its value is in percent."""

    label: str
    value: float
    kind: str


def bar_chart(title: str, bars: Sequence[Bar], lines: Sequence[Line] = ()) -> str:
    """Horizontal bars with their intervals, lines across them, and published values as diamonds."""
    top = axis_top([bound for bar in bars for bound in (bar.interval[1], bar.published or 0)])
    items = "\n".join(_bar_item(bar, lines, top) for bar in bars)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>\n'
        f'<ol class="bars">\n{items}\n</ol>\n{_axis(top)}\n{_legend(bars, lines)}</figure>'
    )


def axis_top(values: Sequence[float]) -> float:
    """The end of a percent axis: the next ten above all values, at most 100."""
    return min(100.0, max(10.0, 10.0 * math.ceil(max(values) / 10)))


def _bar_item(bar: Bar, lines: Sequence[Line], top: float) -> str:
    low, high = bar.interval
    described = f"{bar.label}: CorLoc {bar.value:.1f}, 95 % interval {low:.1f} to {high:.1f}"
    if bar.published is not None:
        described += f", published {bar.published:.1f}"
    end = _at(max(high, bar.published or 0), top)  # the value is written beyond all else
    marks = [
        *(_vertical("grid", tick, top, 0, _HEIGHT) for tick in _ticks(top)),
        f'<rect class="bar {bar.kind}" x="0" y="5" width="{_at(bar.value, top)}" height="16" rx="2"/>',
        *(_vertical(f"baseline {line.kind}", line.value, top, 1, _HEIGHT - 1) for line in lines),
        f'<line class="whisker" x1="{_at(low, top)}" x2="{_at(high, top)}" y1="{_MIDDLE}" y2="{_MIDDLE}"/>',
        *(_vertical("whisker", bound, top, 9, 17) for bound in bar.interval),
        _diamond(bar.published, top) if bar.published is not None else "",
        f'<svg x="{end}" y="{_MIDDLE}" class="mark"><text x="9" y="4.5">{bar.value:.1f}</text></svg>',
    ]
    return (
        f'<li{" class=joined" if bar.joined else ""}><div class="bar-label">{escape(bar.label)}</div>'
        f'<svg class="row" height="{_HEIGHT}" role="img" aria-label="{escape(described)}">'
        f"{''.join(marks)}</svg></li>"
    )


def _vertical(kind: str, value: float, top: float, y1: float, y2: float) -> str:
    x = _at(value, top)
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="{y1}" y2="{y2}"/>'


def _diamond(value: float, top: float) -> str:
    path = '<path class="published" d="M0-6 6 0 0 6-6 0z"/>'
    return f'<svg x="{_at(value, top)}" y="{_MIDDLE}" class="mark">{path}</svg>'


def difference_mark(value: float, interval: tuple[float, float], top: float) -> str:
    """A difference with its interval on a line whose middle is zero and whose ends are `top` points away."""
    low, high, at = (_at(top + number, 2 * top) for number in (*interval, value))
    return (
        f'<svg class="difference-mark" height="{_HEIGHT}" aria-hidden="true">'
        f'<line class="zero" x1="50%" x2="50%" y1="0" y2="{_HEIGHT}"/>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="{_MIDDLE}" y2="{_MIDDLE}"/>'
        f'<circle class="bar with" cx="{at}" cy="{_MIDDLE}" r="5"/></svg>'
    )


def _at(value: float, top: float) -> str:
    return f"{100 * value / top:.2f}%"


def _ticks(top: float) -> list[float]:
    step = 20 if top > 50 else 10
    return [float(tick) for tick in range(0, int(top) + 1, step)]


def _axis(top: float) -> str:
    labels = "".join(
        f'<text x="{_at(tick, top)}" y="13" text-anchor="middle">{tick:.0f}</text>' for tick in _ticks(top)
    )
    return f'<svg class="row axis" height="18" aria-hidden="true">{labels}</svg>'


REGISTER_KINDS = {
    "without": "without registers",
    "with": "with registers",
    "test-time": "test-time register",
}
_KEYS = {
    "without": '<rect class="bar without" x="1" y="3" width="14" height="10" rx="2"/>',
    "with": '<rect class="bar with" x="1" y="3" width="14" height="10" rx="2"/>',
    "test-time": '<rect class="bar test-time" x="1" y="3" width="14" height="10" rx="2"/>',
    "centred": '<line class="baseline centred" x1="8" x2="8" y1="1" y2="15"/>',
    "whole": '<line class="baseline whole" x1="8" x2="8" y1="1" y2="15"/>',
    "published": '<path class="published" d="M8 2 14 8 8 14 2 8z"/>',
    "interval": '<path class="whisker" d="M1 8H15M1 4V12M15 4V12"/>',
}


def _legend(bars: Sequence[Bar], lines: Sequence[Line]) -> str:
    kinds = {bar.kind for bar in bars}
    shown = {kind: text for kind, text in REGISTER_KINDS.items() if kind in kinds}
    shown |= {"interval": "95 % interval"}
    shown |= {line.kind: f"{line.label}, {line.value:.1f}" for line in lines}
    shown |= {"published": "published"} if any(bar.published is not None for bar in bars) else {}
    items = "".join(
        f'<li><svg width="16" height="16" aria-hidden="true">{_KEYS[kind]}</svg>{escape(text)}</li>'
        for kind, text in shown.items()
    )
    return f'<ul class="legend">{items}</ul>'
