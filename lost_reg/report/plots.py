"""Small plots of lines as inline SVG: they fit any width, and their text and strokes keep their size.

Lines are drawn in a box of 100 x 100 units that is stretched over the plot; text and marks stand at shares of
its width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lost_reg.report.markup import text

HEIGHT = 170
_BELOW = 36  # for the ticks of the axis and its name

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """From low to high; ticks: where it is marked, and the text there.

    is_log: whether equal ratios are equally far apart.
    end: the share of the plot where `high` is; beyond it is room for what is not on the axis.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False
    end: float = 1.0

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the low end, 1 at the end of the plot; one outside is at the edge."""
        low, high, at = (
            math.log(one) if self.is_log else one for one in (self.low, self.high, max(value, self.low))
        )
        return self.end * min(1.0, (at - low) / (high - low))


def linear_axis(low: float, high: float, *, end: float = 1.0, most: int = 6) -> Axis:
    """An axis with at most so many ticks at round numbers."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / (most - 1)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    values = [round((first + index) * step, 10) + 0.0 for index in range(count)]
    return Axis(low, high, tuple((value, f"{value:g}") for value in values), end=end)


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis with ticks at powers of ten; if they are few, between them, too."""
    if low == high:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ratio = high / low
    factors = (1,) if ratio > 300 else (1, 2, 5) if ratio > 8 else (1, 1.5, 2, 3, 4, 5, 7)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return Axis(low, high, tuple((one, f"{one:,g}") for one in values if low <= one <= high), is_log=True)


@dataclass(frozen=True)
class Plot:
    """A plot: its axes, and what stands in it, as markup made by the methods.

    label: what it shows, for those who cannot see it.
    """

    x: Axis
    y: Axis
    x_name: str
    label: str

    def line(self, points: Sequence[Point], kind: str, colour: str = "") -> str:
        """A line through points; kind: its classes."""
        return f'<polyline class="line {kind}"{_stroke(colour)} points="{self._path(points)}"/>'

    def area(self, points: Sequence[Point], kind: str) -> str:
        """The area within a line that is closed."""
        return f'<polygon class="area {kind}" points="{self._path(points)}"/>'

    def steps(self, edges: Sequence[float], heights: Sequence[float], kind: str) -> str:
        """The area below steps, of which there is one fewer than edges."""
        points = [(edge, height) for pair, height in zip(pairwise(edges), heights) for edge in pair]
        return self.area([(edges[0], self.y.low), *points, (edges[-1], self.y.low)], kind)

    def vertical(self, value: float, kind: str) -> str:
        """A line from bottom to top."""
        x = self._x(value)
        return f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"/>'

    def mark(self, point: Point | tuple[None, float], shape: str, said: str) -> str:
        """A shape, drawn around (0, 0), at a point; x is None for the room beyond the axis.

        said: what it is, for those who point at it.
        """
        (x, y), title = point, f"<title>{text(said)}</title>"
        return f'<svg class="mark" x="{self._x(x)}" y="{self._y(y):.1f}"><g>{title}{shape}</g></svg>'

    def svg(self, lines: Sequence[str], marks: Sequence[str], beyond: str = "") -> str:
        """The whole: lines in the stretched box, marks over them; beyond: what the room beyond is called."""
        grid = [
            f'<line class="grid" x1="0" x2="100%" y1="{self._y(value):.1f}" y2="{self._y(value):.1f}"/>'
            f'<text class="of-y" x="-7" y="{self._y(value) + 4:.1f}">{text(said)}</text>'
            for value, said in self.y.ticks
        ]
        ticks = [self._tick(self._x(value), said) for value, said in self.x.ticks]
        ticks += [self._tick(self._x(None), beyond)] if beyond else []
        return (
            f'<svg class="plot" height="{HEIGHT + _BELOW}" role="img" aria-label="{text(self.label)}">'
            f"{''.join(grid)}{''.join(ticks)}"
            f'<text class="of-x" x="{50 * self.x.end:.1f}%" y="{HEIGHT + 33}">{text(self.x_name)}</text>'
            f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 100 100" preserveAspectRatio="none">'
            f"{''.join(lines)}</svg>{''.join(marks)}</svg>"
        )

    def _tick(self, x: str, said: str) -> str:
        return (
            f'<line class="tick" x1="{x}" x2="{x}" y1="{HEIGHT}" y2="{HEIGHT + 4}"/>'
            f'<text class="of-x" x="{x}" y="{HEIGHT + 17}">{text(said)}</text>'
        )

    def _path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{100 * self.x.share(x):.2f},{100 - 100 * self.y.share(y):.2f}" for x, y in points)

    def _x(self, value: float | None) -> str:
        return f"{100 * ((1 + self.x.end) / 2 + 0.02 if value is None else self.x.share(value)):.2f}%"

    def _y(self, value: float) -> float:
        return HEIGHT * (1 - self.y.share(value))


def dot(colour: str = "", kind: str = "") -> str:
    """A point that stands for itself."""
    return f'<circle class="dot {kind}"{_stroke(colour)} r="3.5"/>'


def _stroke(colour: str) -> str:
    return f' stroke="{colour}"' if colour else ""


def legend(items: Sequence[tuple[str, str]]) -> str:
    """Shapes, drawn around (0, 0) within 12 pixels to either side, and what they stand for."""
    shown = "".join(
        f'<li><svg class="key" width="26" height="16" viewBox="-13 -8 26 16" aria-hidden="true">{shape}</svg>'
        f"{text(said)}</li>"
        for shape, said in items
    )
    return f'<ul class="legend">{shown}</ul>'
