"""Painters that scenes share: what grows, drifts, shimmers and reflects. Each paints on the canvas `c`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .canvas import SUPERSAMPLE, Canvas
from .colours import Colour, mix, smoothstep
from .geometry import Array, Shape, points, turned


def specks(
    c: Canvas, count: int, bottom: float, radius: Sequence[float], colour: str, opacity: Sequence[float]
) -> None:
    """Round spots of light above y = bottom: stars, snowflakes, or highlights that are out of focus."""
    for x, y in c.rng.uniform((0, 0), (c.width, bottom), (count, 2)):
        c.tint(c.ellipse(x, y, c.rng.uniform(*radius)) * c.rng.uniform(*opacity), colour)


def clouds(
    c: Canvas, thin: float, bottom: float, lit_side: Colour = "ffffff", dark_side: Colour = "9fb0c8"
) -> None:
    """Clouds above y = bottom, fewer with a higher `thin`; lit from above."""
    density = c.noise(60, 6, stretch=2.4)
    above = np.roll(density, 7 * SUPERSAMPLE, axis=0)
    alpha = smoothstep(thin, thin + 1.3, density) * smoothstep(bottom, bottom - 90, c.y)
    c.paint(alpha * 0.9, mix(dark_side, lit_side, 0.62 + 0.45 * (density - above)))


def grass(c: Canvas, top: float, bottom: float, count: int, height: float, dark: str, light: str) -> None:
    """Blades rooted between two lines, growing in size from the far one to the near one."""
    rng = c.rng
    near = np.sort(rng.random(count))
    root = np.stack([rng.uniform(-10, c.width + 10, count), top + (bottom - top) * near], axis=1)
    tall = height * (0.3 + 0.7 * near) * rng.uniform(0.5, 1.2, count)
    size = np.stack([tall * rng.normal(0, 0.35, count), tall], axis=1)
    wide = (0.5 + tall * 0.035)[:, None, None] * points("-1,0 -1,0 0,0 1,0 1,0")
    blades = root[:, None] + size[:, None] * points("0,0 0.3,-0.6 1,-1 0.3,-0.6 0,0") + wide
    c.dabs(blades, mix(dark, light, rng.normal(0.5, 0.28, count)))


def foliage(
    c: Canvas, cx: float, cy: float, rx: float, ry: float, dark: str, light: str, count: int, size: float
) -> None:
    """A round clump of leaves, lit like a ball."""
    rng = c.rng
    angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    reach *= 1 + 0.13 * np.sin(angle * 5 + rng.uniform(0, 6)) + rng.normal(0, 0.05, count)
    place = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None]
    shade = 0.45 + 0.55 * place @ c.light[:2] + rng.normal(0, 0.16, count)
    order = np.argsort(shade + rng.normal(0, 0.3, count))
    almond = points("-1,0 -0.3,-0.5 0.4,-0.45 1,0 0.4,0.45 -0.3,0.5") * size
    leaves = [
        almond @ turned(rng.uniform(0, 180)) * rng.uniform(0.6, 1.3) + (cx + rx * x, cy + ry * y)
        for x, y in place[order]
    ]
    c.dabs(leaves, mix(dark, light, shade[order]))


def reflection(c: Canvas, line: float, strength: float, ripple: float, alpha: Array | None = None) -> None:
    """Mirror what is above y = line (through `alpha`, if given) into the water below it."""
    wave = c.noise(5, 3, stretch=9) * ripple * np.clip((c.y - line) / 30, 0.15, 1.6)
    source_x = (c.x + wave) * SUPERSAMPLE - 0.5
    source_y = (2 * line - c.y + wave * 0.8) * SUPERSAMPLE - 0.5
    image, alpha = (
        cv2.remap(layer, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for layer in (c.image, np.ones_like(c.x) if alpha is None else alpha)
    )
    c.tint(alpha * strength * c.below(line), image)


def leaf(
    c: Canvas, outline: Shape, colour: Colour, roundness: float,
    rib: Shape, widths: Sequence[float], vein: str,
) -> None:  # fmt: skip
    """One big leaf with its middle rib."""
    c.solid(c.blob(outline), colour, roundness)
    c.tint(c.stroke(rib, widths, False) * 0.5, vein)


def glints(
    c: Canvas, pane: Array, slant: tuple[float, float], period: float, width: float, strength: float
) -> None:
    """Slanting reflections in a window pane."""
    c.tint(pane * ((c.x * slant[0] + c.y * slant[1]) % period < width) * strength, "ffffff")
