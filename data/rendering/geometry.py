"""Points, curves and directions, as NumPy arrays. Shapes are written as in SVG: "x,y x,y ..."."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GOLDEN_ANGLE = 137.50776  # degrees; seeds and spots at multiples of it never line up

Array = np.ndarray
Shape = str | Sequence[Sequence[float]] | Array  # "x,y x,y ..." or (N, 2) numbers


def points(shape: Shape) -> Array:
    if isinstance(shape, str):
        shape = [pair.split(",") for pair in shape.split()]
    return np.asarray(shape, np.float64)


def unit(vector: Sequence[float] | Array) -> Array:
    vector = np.asarray(vector, np.float32)
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def turned(degrees: float) -> Array:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


def smooth(shape: Shape, closed: bool = True, samples: int = 10) -> Array:
    """A Catmull-Rom curve through the points."""
    p = points(shape)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate(parts if closed else [*parts, p[-1:]])


def across(line: Array) -> Array:
    """Unit vectors at right angles to a line, one a point."""
    step = np.gradient(line, axis=0)
    return np.stack([-step[:, 1], step[:, 0]], axis=1) / np.maximum(np.hypot(*step.T), 1e-6)[:, None]


def monotone(at: Array, x: Array, y: Array) -> Array:
    """The cubic through (x, y) that never overshoots (Fritsch and Butland), evaluated at `at`."""
    width, slope = np.diff(x), np.diff(y) / np.diff(x)
    product, total = slope[:-1] * slope[1:], slope[:-1] + slope[1:]
    inner = np.where(product > 0, 2 * product / np.where(product > 0, total, 1), 0)
    tangent = np.concatenate([slope[:1], inner, slope[-1:]])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    t, rise = (at - x[i]) / width[i], y[i + 1] - y[i]
    left, right = width[i] * tangent[i], width[i] * tangent[i + 1]
    return y[i] + t * (left + t * (3 * rise - 2 * left - right + t * (left + right - 2 * rise)))
