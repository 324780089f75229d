"""Colours, their mixtures, and the light that falls on them. Colours are written as in HTML: "rrggbb"."""

from __future__ import annotations

import numpy as np

from .geometry import Array, unit

Colour = str | Array  # "rrggbb", an RGB triple or an RGB image, in 0 .. 1


def rgb(colour: Colour) -> Array:
    if isinstance(colour, str):
        return np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255
    return colour


def mix(first: Colour, second: Colour, share: float | Array) -> Array:
    """From `first` (share 0 or less) to `second` (1 or more); an (H, W) share gives an (H, W, 3) image."""
    share = np.clip(np.asarray(share, np.float32), 0, 1)[..., None]
    return rgb(first) * (1 - share) + rgb(second) * share


def smoothstep(low: float, high: float, value: Array) -> Array:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def toned(colour: Colour, factor: Array) -> Array:
    """A colour made lighter and darker by an (H, W) factor."""
    return rgb(colour) * factor[..., None]


def lit(colour: Array, normals: Array, light: Array, gloss: float, ambient: float) -> Array:
    """Lambert shading with a bluish ambient light, as from the sky, and a highlight of strength `gloss`."""
    diffuse = np.clip(normals @ light, 0, 1)[..., None]
    highlight = np.clip(normals @ unit(light + np.float32([0, 0, 1])), 0, 1)[..., None] ** 45
    sky = np.float32([0.94, 0.98, 1.1]) * ambient
    return colour * (sky + (1.18 - ambient) * diffuse) + gloss * highlight
