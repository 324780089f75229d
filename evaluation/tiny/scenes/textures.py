"""Colours, patterns, surfaces and light."""

from __future__ import annotations

import cv2
import numpy as np

Rng = np.random.Generator


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as uint8; values outside are clipped."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def pick_colour(rng: Rng) -> np.ndarray:
    """(3,) A colour as photos have them: mostly muted, and more often warm, green or blue than other hues."""
    hue = (
        rng.choice(
            [rng.normal(25, 14), rng.normal(100, 25), rng.normal(212, 18), rng.uniform(0, 360)],
            p=[0.4, 0.2, 0.15, 0.25],
        )
        % 360
    )
    saturation = rng.beta(1.2, 3.0)
    value = rng.beta(1.6, 1.5) * 0.92 + 0.05
    hsv = np.array([[[hue, saturation, value]]], dtype=np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def pick_ramp(rng: Rng, contrast: float) -> np.ndarray:
    """(3, 3) A colour ramp: a base colour and two others, blended from it by `contrast` in [0, 1]."""
    base = pick_colour(rng)
    others = [(1 - contrast) * base + contrast * pick_colour(rng) for _ in range(2)]
    shades = np.array([base, *others]) + rng.normal(0, 0.25 * contrast + 0.02, (3, 1))
    return np.clip(shades, 0.01, 0.99).astype(np.float32)


def noise(
    rng: Rng, hw: tuple[int, int], first: int = 0, persistence: float = 0.6, stretch: float = 1.0
) -> np.ndarray:
    """(H, W) Noise of several octaves, with mean 0 and standard deviation 1.

    The coarsest octave has 2**first + 1 cells along the longer side; `stretch` makes cells wider than high.
    """
    height, width = hw
    field = np.zeros(hw, np.float32)
    cells, amplitude = 2.0**first + 1, 1.0
    while cells < max(height, width):
        grid_h = int(np.clip(cells * height / max(hw) * stretch, 2, height))
        grid_w = int(np.clip(cells * width / max(hw) / stretch, 2, width))
        grid = rng.standard_normal((grid_h, grid_w), dtype=np.float32)
        field += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * persistence
    return (field - field.mean()) / (field.std() + 1e-6)


def stripes(rng: Rng, hw: tuple[int, int], warp: np.ndarray) -> np.ndarray:
    """(H, W) Stripes, checks or dots in a random direction, bent by the noise `warp` (H, W)."""
    ys, xs = np.mgrid[0 : hw[0], 0 : hw[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.25) * max(hw)
    bend = warp * rng.choice([0.0, 0.5, 1.5])
    along = np.sin(2 * np.pi * (np.cos(angle) * xs + np.sin(angle) * ys) / period + bend)
    if rng.random() < 0.5:
        across = np.sin(2 * np.pi * (np.cos(angle) * ys - np.sin(angle) * xs) / period + bend)
        along = along * across if rng.random() < 0.5 else np.maximum(along, across)
    return np.tanh(along * rng.uniform(1, 6))


def cells(rng: Rng, hw: tuple[int, int]) -> np.ndarray:
    """(H, W) Cobbles, leaves, bricks: a grey value for each Voronoi cell, darker towards its edge."""
    points = np.full(hw, 255, np.uint8)
    count = int(rng.integers(15, 250))
    points[rng.integers(0, hw[0], count), rng.integers(0, hw[1], count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(points, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    values = rng.standard_normal(labels.max() + 1).astype(np.float32)[labels]
    return values - rng.uniform(0, 2.5) * distance / (distance.mean() * 2)


def material(rng: Rng, hw: tuple[int, int], contrast: float) -> np.ndarray:
    """(H, W, 3) A surface: a pattern coloured by a ramp, with fine grain over it."""
    ramp = pick_ramp(rng, contrast)
    rough = noise(rng, hw, int(rng.integers(0, 5)), rng.uniform(0.35, 0.95), 2.0 ** rng.normal(0, 0.8))
    kind = rng.choice(["noise", "stripes", "cells", "ridges", "patches"], p=[0.42, 0.16, 0.14, 0.12, 0.16])
    match kind:
        case "noise":
            pattern = rough
        case "stripes":
            pattern = stripes(rng, hw, rough)
        case "cells":
            pattern = cells(rng, hw)
        case "ridges":
            pattern = 1 - 2 * np.abs(rough)
        case _:
            pattern = np.tanh(4 * (rough - rng.normal(0, 0.6)))
    level = np.clip(1 + 0.8 * pattern, 0, 1.999)
    low = (level >= 1).astype(np.intp)
    part = (level - low)[..., None]
    colour = ramp[low] * (1 - part) + ramp[low + 1] * part
    grain = noise(rng, hw, int(rng.integers(3, 7)), 0.8) * rng.exponential(0.05)
    return colour * np.clip(1 + grain, 0.2, 2)[..., None]


def lighting(rng: Rng, hw: tuple[int, int], strength: float) -> np.ndarray:
    """(H, W, 1) A smooth factor around 1: light that falls off to one side, with soft patches."""
    ys, xs = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)  # smooth, so drawn small and enlarged
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * xs + np.sin(angle) * ys + 0.4 * noise(rng, (32, 32), 0, 0.3)
    return cv2.resize(np.exp(strength * slope).astype(np.float32), hw[::-1])[..., None]
