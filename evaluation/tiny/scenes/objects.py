"""Objects: each a sprite of several shaded, textured parts."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .textures import Rng, material, to_uint8

SPRITE_SIDE = 256  # pixels, the canvas of a sprite rendered at detail 1


@dataclass(frozen=True)
class Sprite:
    """kind: the name of a function in KINDS; rgba: (h, w, 4) uint8, cut to the object's extent."""

    kind: str
    rgba: np.ndarray


def blank(side: int) -> np.ndarray:
    """An empty mask."""
    return np.zeros((side, side), np.uint8)


def fill(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The mask with the polygon `points` filled in: (n, 2) xy, as shares of the mask's side."""
    cv2.fillPoly(mask, [np.round(points * mask.shape[0] * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def round_shape(rng: Rng, side: int, centre: np.ndarray, radii: np.ndarray, bumps: float) -> np.ndarray:
    """A filled ellipse around `centre`, its outline deformed by random harmonics and slightly rotated."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angle)
    for harmonic in range(2, 7):
        radius += rng.normal(0, bumps / harmonic) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    curve = np.stack([np.cos(angle), np.sin(angle)], 1) * np.clip(radius, 0.25, 2)[:, None] * radii
    turn = rng.normal(0, 0.5)
    turned = curve @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return fill(blank(side), centre + turned)


def limb(rng: Rng, side: int, start: np.ndarray, end: np.ndarray, width: float) -> np.ndarray:
    """A bent, tapering stroke from start to end."""
    bend = (start + end) / 2 + rng.normal(0, 0.05, 2)
    t = np.linspace(0, 1, 12)[:, None]
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask, taper = blank(side), rng.uniform(0.5, 1.1)
    for index in range(len(path) - 1):
        thickness = max(1, int(side * width * (1 + (taper - 1) * index / 11)))
        a, b = (path[index : index + 2] * side).astype(int)
        cv2.line(mask, tuple(map(int, a)), tuple(map(int, b)), 255, thickness, cv2.LINE_AA)
    return mask


def creature(rng: Rng, side: int) -> list[np.ndarray]:
    """A trunk with a head, two to four legs and perhaps arms or a tail, upright or on all fours."""
    upright = rng.random() < 0.5
    trunk = np.array([rng.uniform(0.08, 0.16), rng.uniform(0.15, 0.24)])
    trunk = trunk if upright else trunk[::-1]
    centre = np.array([0.5, 0.45])
    parts = []
    for _ in range(int(rng.integers(2, 5))):
        start = centre + np.array([rng.uniform(-0.8, 0.8), 0.6]) * trunk
        parts.append(
            limb(
                rng,
                side,
                start,
                [start[0] + rng.normal(0, 0.06), rng.uniform(0.85, 0.97)],
                rng.uniform(0.04, 0.11),
            )
        )
    body = round_shape(rng, side, centre, trunk, 0.1)
    neck = centre + trunk * np.array([0, -1] if upright else [-1, -0.5])
    head_at = neck + np.array([rng.normal(0 if upright else -0.07, 0.03), -rng.uniform(0.03, 0.12)])
    head_radii = rng.uniform(0.05, 0.12) * np.array([1, rng.uniform(0.8, 1.3)])
    head = round_shape(rng, side, head_at, head_radii, 0.1)
    parts += [body, limb(rng, side, neck, head_at, rng.uniform(0.05, 0.12)), head]
    for _ in range(int(rng.integers(0, 3))):  # arms, tail
        start = centre + rng.uniform(-0.8, 0.8, 2) * trunk
        parts.append(limb(rng, side, start, start + rng.normal(0, 0.2, 2), rng.uniform(0.03, 0.07)))
    return parts


def vessel(rng: Rng, side: int) -> list[np.ndarray]:
    """A bottle, vase, cup or lamp: a symmetric profile of one to three bands."""
    ys = np.linspace(0.03, 0.97, 40)
    half = 0.06 + np.abs(np.interp(ys, np.linspace(0, 1, 6), rng.uniform(0.0, 0.34, 6)))
    if rng.random() < 0.6:
        half = cv2.GaussianBlur(half.reshape(-1, 1), (1, 15), 0).ravel()
    outline = np.concatenate([np.stack([0.5 - half, ys], 1), np.stack([0.5 + half, ys], 1)[::-1]])
    whole = fill(blank(side), outline)
    parts = [whole]
    for cut in rng.uniform(0.1, 0.9, rng.integers(0, 3)):
        band = whole.copy()
        band[: int(cut * side)] = 0
        parts.append(band)
    return parts


def machine(rng: Rng, side: int) -> list[np.ndarray]:
    """A vehicle or a piece of furniture: a body of one or two boxes, with wheels or legs, and panes."""
    left, right = rng.uniform(0.03, 0.2), rng.uniform(0.8, 0.97)
    top, bottom = rng.uniform(0.25, 0.5), rng.uniform(0.7, 0.85)
    slant = rng.uniform(-0.12, 0.12)
    parts = []
    if rng.random() < 0.75:
        for x in np.linspace(left + 0.1, right - 0.1, rng.integers(2, 5)):
            if rng.random() < 0.6:
                radii = np.full(2, rng.uniform(0.05, 0.12))
                parts.append(round_shape(rng, side, np.array([x, bottom]), radii, 0.0))
            else:
                width = rng.uniform(0.02, 0.07)
                parts.append(limb(rng, side, np.array([x, bottom]), np.array([x, 0.97]), width))
    body = np.array([[left, top + slant], [right, top - slant], [right, bottom], [left, bottom]])
    parts.insert(int(rng.integers(0, len(parts) + 1)), fill(blank(side), body + rng.normal(0, 0.02, (4, 2))))
    if rng.random() < 0.7:
        a, b = np.sort(rng.uniform(left, right, 2))
        ridge = [[a + 0.08, rng.uniform(0.03, top)], [b - 0.04, rng.uniform(0.03, top)]]
        roof = np.array([*ridge, [b + 0.06, top + 0.05], [a - 0.06, top + 0.05]])
        parts.append(fill(blank(side), roof))
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(left, right - 0.1), rng.uniform(top, bottom - 0.05)
        w, h = rng.uniform(0.04, 0.25), rng.uniform(0.04, 0.2)
        pane = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
        parts.append(cv2.bitwise_and(fill(blank(side), pane), np.maximum.reduce(parts)))
    return parts


def lump(rng: Rng, side: int) -> list[np.ndarray]:
    """One to five rounded or angular bodies that touch, as fruit, stones and plants do."""
    bumps = rng.choice([0.0, 0.15, 0.5])
    parts = [round_shape(rng, side, np.array([0.5, 0.5]), rng.uniform(0.15, 0.4, 2), bumps)]
    for _ in range(int(rng.integers(0, 5))):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.33)
        at = 0.5 + reach * np.array([np.cos(angle), np.sin(angle)])
        if rng.random() < 0.7:
            part = round_shape(rng, side, at, rng.uniform(0.05, 0.2, 2), bumps)
        else:
            part = fill(blank(side), at + rng.normal(0, 0.12, (int(rng.integers(3, 6)), 2)))
        parts.insert(int(rng.integers(0, len(parts) + 1)), part)
    return parts


def marks(rng: Rng, whole: np.ndarray) -> list[np.ndarray]:
    """One to five patches on the object `whole`, such as windows, clothes or print."""
    side, found = whole.shape[0], np.argwhere(whole > 127)
    parts = []
    for _ in range(int(rng.integers(1, 6))):
        centre = found[int(rng.integers(len(found)))][::-1] / side
        radii = rng.uniform(0.02, 0.2, 2)
        if rng.random() < 0.5:
            mark = round_shape(rng, side, centre, radii, 0.2)
        else:
            mark = fill(blank(side), centre + radii * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]))
        parts.append(cv2.bitwise_and(mark, whole))
    return parts


def shade(rng: Rng, mask: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(S, S, 1) The brightness of a part, as if inflated and lit from the direction `light` (3,)."""
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
    radius = depth.max() + 1e-3
    height = np.sqrt(np.clip(depth * (2 * radius - depth), 0, None)) * rng.uniform(0.3, 1)
    height = cv2.GaussianBlur(height, (0, 0), max(1.0, radius / 6))
    slope_x, slope_y = cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8
    facing = (light[2] - slope_x * light[0] - slope_y * light[1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    bright = 0.45 + 0.75 * np.clip(facing, 0, 1) + rng.choice([0, 0.6]) * np.clip(facing, 0, 1) ** 20
    return bright[..., None]


KINDS = {creature: 0.34, vessel: 0.16, machine: 0.25, lump: 0.25}  # and how often each is drawn


def render_sprite(rng: Rng, detail: int = 1) -> Sprite:
    """One object of several shaded, textured parts, rendered at a multiple of SPRITE_SIDE."""
    side = SPRITE_SIDE * detail
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    parts = kind(rng, side)
    light = rng.normal([0, -0.6, 1.2], 0.5)
    light /= np.linalg.norm(light)
    contrast = rng.beta(1.5, 1.5)
    skins = [material(rng, (side, side), contrast) for _ in range(min(len(parts), int(rng.integers(1, 5))))]
    if rng.random() < 0.6:
        parts += marks(rng, np.maximum.reduce(parts))
    colour, alpha = np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32)
    for index, mask in enumerate(parts):
        cover = (mask.astype(np.float32) / 255)[..., None]
        skin = skins[index % len(skins)] * rng.uniform(0.75, 1.25)
        colour = colour * (1 - cover) + cover * skin * shade(rng, mask, light)
        alpha = np.maximum(alpha, cover[..., 0])
    ys, xs = np.nonzero(alpha > 0.5)
    window = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
    return Sprite(kind.__name__, np.dstack([to_uint8(colour), to_uint8(alpha)])[window])
