"""Generated scenes for the backbone `tiny`: objects on backgrounds, drawn with NumPy and OpenCV.

No photo takes part. A scene is composed of a background and of sprites (one object each, RGBA). Rendering
those is the slow part and composing them the quick one, so training renders a bank of parts once
(`render_part`) and composes new scenes from it (`compose_from`), while `make_scene` renders everything anew.
All depend on their seed alone.

Images inside this file are float32 RGB in [0, 1], (H, W, 3), until `compose` returns uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Rng = np.random.Generator
BACKGROUND_SIDE = 288  # pixels, of a background rendered at detail 1
SPRITE_SIDE = 256  # pixels of a sprite's longer side, at detail 1
MIN_VISIBLE = 0.006  # an object that shows less of itself than this share of the image is no object


@dataclass(frozen=True)
class Scene:
    """image: (H, W, 3) uint8 RGB; instances: (H, W) uint8, 0 = background, i = what is seen of object i."""

    image: np.ndarray
    instances: np.ndarray

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(n, 4) int: half-open boxes of the visible pixels of each object."""
        boxes = []
        for label in np.unique(self.instances[self.instances > 0]):
            ys, xs = np.nonzero(self.instances == label)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        return np.array(boxes, dtype=int).reshape(-1, 4)


# --------------------------------------------------------------------------------------- colours and textures


def pick_colour(rng: Rng) -> np.ndarray:
    """(3,) A colour as photos have them: mostly muted; warm, green and blue hues more often than others."""
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
    """(3, 3) Three colours to run through: a base and two variants of it, `contrast` away in [0, 1]."""
    base = pick_colour(rng)
    others = [(1 - contrast) * base + contrast * pick_colour(rng) for _ in range(2)]
    shades = np.array([base, *others]) + rng.normal(0, 0.25 * contrast + 0.02, (3, 1))
    return np.clip(shades, 0.01, 0.99).astype(np.float32)


def noise(
    rng: Rng, hw: tuple[int, int], first: int = 0, persistence: float = 0.6, stretch: float = 1.0
) -> np.ndarray:
    """(H, W) Multi-frequency noise of mean 0 and deviation 1; octaves from 2**first stretched cells on."""
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
    """(H, W) Stripes, checks or dots in any direction, bent by the noise `warp`."""
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
    """(H, W, 3) A surface: a pattern that runs through a colour ramp, with fine grain over it."""
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


# ------------------------------------------------------------------------------------------------ backgrounds


def lighting(rng: Rng, hw: tuple[int, int], strength: float) -> np.ndarray:
    """(H, W, 1) Smooth factor around 1: light that falls off to one side, with soft patches in it."""
    ys, xs = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)  # smooth: drawn small, then enlarged
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * xs + np.sin(angle) * ys + 0.4 * noise(rng, (32, 32), 0, 0.3)
    return cv2.resize(np.exp(strength * slope).astype(np.float32), hw[::-1])[..., None]


def ground(rng: Rng, hw: tuple[int, int], contrast: float) -> np.ndarray:
    """(H, W, 3) A surface seen at a slant: its texture gets finer towards the top."""
    height, width = hw
    ys, xs = np.mgrid[0 : 1 : height * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    eye = rng.uniform(0.1, 0.8)
    depth = (1 + eye) / (ys + eye)  # 1 at the bottom, (1 + eye) / eye at the horizon
    side = max(hw)
    flat = material(rng, (side, side), contrast)
    return cv2.remap(
        flat,
        (0.5 + xs * depth) * side,
        (depth - 1) * side * 0.5,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


def clutter(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Poles, panes, boards and blobs, in colours of the image itself, as things stand about."""
    height, width = image.shape[:2]
    drawn = image.copy()
    middle, spread = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.5)
    upright = rng.random() < 0.5
    for _ in range(int(rng.integers(3, 40))):
        x, y = rng.uniform(0, width), np.clip(rng.normal(middle, spread), 0, 1) * height
        source = image[int(rng.integers(height)), int(rng.integers(width))]
        colour = np.clip(source * rng.uniform(0.4, 1.7) + rng.normal(0, 0.06, 3), 0, 1)
        w, h = rng.uniform(0.01, 0.14, 2) * max(height, width) * np.array([1, 2 if upright else 1])
        match rng.integers(3):
            case 0:
                cv2.rectangle(drawn, (int(x - w), int(y - h)), (int(x + w), int(y + h)), colour.tolist(), -1)
            case 1:
                cv2.ellipse(
                    drawn,
                    (int(x), int(y)),
                    (int(w) + 1, int(h) + 1),
                    rng.uniform(0, 180),
                    0,
                    360,
                    colour.tolist(),
                    -1,
                    cv2.LINE_AA,
                )
            case _:
                dx, dy = rng.normal(0, 0.3, 2) * (width, height) * ([0.1, 2] if upright else [1, 1])
                cv2.line(
                    drawn,
                    (int(x - dx), int(y - dy)),
                    (int(x + dx), int(y + dy)),
                    colour.tolist(),
                    int(rng.integers(1, max(3, width // 40))),
                    cv2.LINE_AA,
                )
    opacity = rng.uniform(0.3, 1)
    return cv2.GaussianBlur(opacity * drawn + (1 - opacity) * image, (0, 0), rng.uniform(0.4, 3))


def render_background(rng: Rng, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8. One to four regions (wall, ground, hills, sky), clutter, light, lack of focus."""
    contrast = rng.beta(1.3, 2.0)
    image = material(rng, hw, contrast)
    ys, xs = np.mgrid[0 : 1 : hw[0] * 1j, 0 : 1 : hw[1] * 1j].astype(np.float32)
    for edge in np.sort(rng.uniform(-0.1, 1.0, rng.choice(4, p=[0.3, 0.35, 0.25, 0.1]))):
        tilt, relief = rng.normal(0, 0.12), rng.choice([0, 0.02, 0.08])
        line = edge + tilt * (xs - 0.5) + relief * noise(rng, hw, 1, 0.5, 1.0)
        along = xs if rng.random() < 0.15 else ys  # mostly one above the other; a corner: side by side
        inside = np.clip((along - line) * rng.choice([20, 200]), 0, 1)[..., None]
        region = (ground if rng.random() < 0.5 else material)(rng, hw, rng.beta(1.3, 2.0))
        image = image * (1 - inside) + region * inside
    if rng.random() < 0.6:
        image = clutter(rng, np.ascontiguousarray(image, np.float32))
    image = image * lighting(rng, hw, rng.exponential(0.35))
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 5))
    return to_uint8(image)


# ---------------------------------------------------------------------------------------------------- objects


def blank(side: int) -> np.ndarray:
    return np.zeros((side, side), np.uint8)


def fill(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Fill the polygon `points` (n, 2), xy in [0, 1] of the mask's side."""
    cv2.fillPoly(mask, [np.round(points * mask.shape[0] * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def round_shape(rng: Rng, side: int, centre: np.ndarray, radii: np.ndarray, bumps: float) -> np.ndarray:
    """A closed curve around `centre`: an ellipse with a few random harmonics, turned by any angle."""
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
    """A trunk with a head, two to four legs, perhaps arms or a tail, upright or on all fours."""
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
    """A turned thing, bottle, vase, cup or lamp: a symmetric profile, cut into one to three bands."""
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


def built(rng: Rng, side: int) -> list[np.ndarray]:
    """A made thing, vehicle or furniture: a body of one or two boxes, wheels or legs, and panes."""
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
    """One to five rounded or angular bodies that touch: fruit, stones, plants, animals lying down."""
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
    """One to five patches on the object `whole`: windows, clothes, print; so it is not of one piece."""
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
    """(S, S, 1) Light on the part as if it were inflated: bright towards the light, dark away from it."""
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
    radius = depth.max() + 1e-3
    height = np.sqrt(np.clip(depth * (2 * radius - depth), 0, None)) * rng.uniform(0.3, 1)
    height = cv2.GaussianBlur(height, (0, 0), max(1.0, radius / 6))
    slope_x, slope_y = cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8
    facing = (light[2] - slope_x * light[0] - slope_y * light[1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    bright = 0.45 + 0.75 * np.clip(facing, 0, 1) + rng.choice([0, 0.6]) * np.clip(facing, 0, 1) ** 20
    return bright[..., None]


def render_sprite(rng: Rng, detail: int = 1) -> np.ndarray:
    """(h, w, 4) uint8 RGBA: one object of several shaded, textured parts, cut to its extent."""
    side = SPRITE_SIDE * detail
    parts = rng.choice([creature, vessel, built, lump], p=[0.34, 0.16, 0.25, 0.25])(rng, side)
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
    return np.dstack([to_uint8(colour), to_uint8(alpha)])[window]


# ------------------------------------------------------------------------------------------------ composition


def to_uint8(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def recolour(rng: Rng, rgb: np.ndarray, strength: float) -> np.ndarray:
    """Another light on the same surface: saturation, gain per channel, gamma, at times permuted channels."""
    saturation = np.exp(rng.normal(-0.1, 0.5 * strength))
    gain = np.exp(rng.normal(0, 0.25 * strength) + rng.normal(0, 0.1 * strength, 3))
    order = rng.permutation(3) if rng.random() < 0.15 * strength else [0, 1, 2]
    mix = np.diag(gain) @ (saturation * np.eye(3) + (1 - saturation) / 3)[:, order]
    gamma = np.exp(rng.normal(0, 0.25 * strength))
    return cv2.pow(np.clip(cv2.transform(np.ascontiguousarray(rgb), mix.astype(np.float32)), 0, 1.2), gamma)


def fit(rng: Rng, background: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) A random part of the background (uint8), mirrored or not, recoloured, at the scene's size."""
    height, width = background.shape[:2]
    share = rng.uniform(0.55, 1)
    h, w = int(height * share), int(width * share)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    part = background[y : y + h, x : x + w][:, :: rng.choice([-1, 1])]
    part = cv2.resize(np.ascontiguousarray(part), hw[::-1])
    return recolour(rng, part.astype(np.float32) / 255, 0.8)


def fine_detail(rng: Rng, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 1) Factor around 1: texture of a few pixels, which parts enlarged beyond their own size lack."""
    octaves = noise(rng, hw, int(rng.integers(5, 8)), rng.uniform(0.5, 1), 2.0 ** rng.normal(0, 0.6))
    return np.exp(np.float32(rng.exponential(0.12)) * octaves)[..., None]


def place(
    rng: Rng,
    sprite: np.ndarray,
    hw: tuple[int, int],
    scale: float,
    near: np.ndarray | None,
    stray: float = 0.5,
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The sprite turned, stretched and set down, its box about `scale` of the image's mean side.

    near: (2,) xy in [0, 1], where to put its middle, give or take `stray` times its extent (a standard
    deviation), or None for anywhere. It may reach over the image's edge.
    Returns (h, w, 4) float32 in [0, 1] and the window of the image (rows, columns) it fills.
    """
    height, width = hw
    h, w = sprite.shape[:2]
    size = scale * np.sqrt(height * width) / np.sqrt(h * w)
    stretch = np.exp(rng.normal(0, 0.25))
    angle = np.deg2rad(rng.normal(0, 12) if rng.random() < 0.8 else rng.uniform(-180, 180))
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = linear * size @ np.diag([stretch * rng.choice([-1, 1]), 1 / stretch])
    extent = np.abs(linear) @ [w, h]
    room = np.array([width, height]) - extent
    reach = 0.18 * extent  # how much of it may lie outside on one side
    low, high = np.minimum(room, 0) - reach, np.maximum(room, 0) + reach
    draws = 2 if rng.random() < 0.5 else 1  # the mean of two is more often near the middle
    corner = low + (high - low) * rng.uniform(0, 1, (draws, 2)).mean(0)
    if near is not None:
        corner = near * [width, height] - extent / 2 + rng.normal(0, stray, 2) * extent
    left, top = np.clip(corner.astype(int), 0, [width - 2, height - 2])
    right, bottom = np.clip((corner + extent + 1).astype(int), [left + 2, top + 2], [width, height])
    shift = corner + extent / 2 - linear @ [w / 2, h / 2] - [left, top]
    if size < 0.6:  # shrinking would alias
        sprite = cv2.GaussianBlur(sprite, (0, 0), 0.4 / size)
    placed = cv2.warpAffine(sprite, np.column_stack([linear, shift]), (int(right - left), int(bottom - top)))
    return placed.astype(np.float32) / 255, (slice(top, bottom), slice(left, right))


def cast_shadow(rng: Rng, image: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Darken the image under and beside what is covered (H, W), softly."""
    side = 56  # soft: drawn small, then enlarged
    small = cv2.resize(covered.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    slant, aside, down = rng.normal(0, 0.1), rng.normal(0, 0.04) * side, rng.uniform(0, 0.05) * side
    soft = cv2.warpAffine(small, np.float32([[1, slant, aside], [0, 1, down]]), (side, side))
    soft = cv2.GaussianBlur(soft, (0, 0), rng.uniform(0.01, 0.05) * side)
    soft = cv2.resize(soft, covered.shape[::-1])
    return image * (1 - np.float32(rng.uniform(0, 0.7)) * soft)[..., None]


def develop(rng: Rng, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: what a camera does to it: exposure, lack of colour, blur, noise, JPEG."""
    image = recolour(rng, np.clip(image, 0, 1), 0.4)
    if rng.random() < 0.06:
        image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.4:
        image = image + np.float32(rng.exponential(0.02)) * rng.standard_normal(image.shape, dtype=np.float32)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 97))]
    coded = cv2.imencode(".jpg", np.ascontiguousarray(to_uint8(image)[..., ::-1]), quality)[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def pick_scales(rng: Rng) -> list[float]:
    """Sizes of one to four objects: the side of the box over the image's mean side; mostly falling."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.45, 0.27, 0.16, 0.12]))
    return [rng.uniform(0.3, 1.0), *np.sort(rng.uniform(0.12, 0.5, count - 1))[::-1]]


def scatter(rng: Rng, image: np.ndarray, sprites: list[np.ndarray]) -> None:
    """Set small things about in the image, which belong to the background: what lies and stands around."""
    shrunk = [cv2.resize(sprite, (48, 48), interpolation=cv2.INTER_AREA) for sprite in sprites]
    for _ in range(int(rng.integers(1, 9))):
        placed, window = place(
            rng, shrunk[int(rng.integers(len(shrunk)))], image.shape[:2], rng.uniform(0.03, 0.13), None
        )
        placed[..., :3] = recolour(rng, placed[..., :3], 0.8)
        image[window] += (placed[..., :3] - image[window]) * placed[..., 3:]


def furnish(rng: Rng, image: np.ndarray, sprites: list[np.ndarray]) -> None:
    """Set large things at the image's edge, mostly outside it, which belong to the background."""
    for _ in range(int(rng.integers(1, 4))):
        beyond = rng.uniform(-0.05, 1.05, 2)
        beyond[int(rng.integers(2))] = rng.choice([-0.05, 1.05])
        sprite = sprites[int(rng.integers(len(sprites)))]
        placed, window = place(rng, sprite, image.shape[:2], rng.uniform(0.3, 1.1), beyond, stray=0.0)
        placed[..., :3] = recolour(rng, placed[..., :3], 0.8)
        placed = cv2.GaussianBlur(placed, (0, 0), rng.exponential(1.0) + 0.3)
        image[window] += (placed[..., :3] - image[window]) * placed[..., 3:]


def blend_in(rng: Rng, placed: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """(h, w, 3) The colours of the object `placed` (h, w, 4), moved towards those of what is `behind` it."""
    seen, share = placed[placed[..., 3] > 0.5][:, :3], rng.uniform(0.4, 0.9)
    if not len(seen):
        return placed[..., :3]
    spread = (1 - share) + share * behind.std((0, 1)) / (seen.std(0) + 0.02)
    middle = (1 - share) * seen.mean(0) + share * behind.mean((0, 1))
    return np.clip((placed[..., :3] - seen.mean(0)) * spread + middle, 0, 1)


def compose(rng: Rng, background: np.ndarray, sprites: list[np.ndarray], hw: tuple[int, int]) -> Scene:
    """Set one to four of six `sprites` (RGBA, uint8) on the background (RGB, uint8), the main one behind.

    The last two are what stands about at the image's edge, if anything does.
    """
    image = fit(rng, background, hw)
    enlarged = max(hw) > 1.2 * max(background.shape)
    if enlarged:
        image = image * fine_detail(rng, hw)
    instances = np.zeros(hw, np.uint8)
    if rng.random() < 0.4:
        furnish(rng, image, sprites[4:])
    if rng.random() < 0.5:
        scatter(rng, image, sprites)
    alike = rng.random() < 0.15  # a herd, a bowl of fruit
    companions = rng.random() < 0.4
    near = None
    for index, scale in enumerate(pick_scales(rng)):
        placed, window = place(rng, sprites[0 if alike else index], hw, scale, near)
        placed[..., :3] = recolour(rng, placed[..., :3], 0.3 if alike else 0.8)
        if rng.random() < 0.25:
            placed[..., :3] = blend_in(rng, placed, image[window])
        if enlarged:
            placed[..., :3] *= fine_detail(rng, placed.shape[:2])
        if rng.random() < 0.25:  # out of focus
            placed = cv2.GaussianBlur(placed, (0, 0), rng.uniform(0.5, 1.5))
        alpha = placed[..., 3:]
        instances[window][alpha[..., 0] > 0.5] = index + 1
        if rng.random() < 0.6:
            image = cast_shadow(rng, image, instances == index + 1)
        image[window] += (placed[..., :3] - image[window]) * alpha
        if companions and near is None:
            rows, columns = window
            near = np.array([columns.start + columns.stop, rows.start + rows.stop]) / 2 / hw[::-1]
    for label in range(1, int(instances.max()) + 1):
        if (instances == label).mean() < MIN_VISIBLE:
            instances[instances == label] = 0
    image = image * lighting(rng, hw, rng.exponential(0.2)) if rng.random() < 0.5 else image
    return Scene(develop(rng, image), instances)


def make_scene(seed: int, hw: tuple[int, int] = (224, 224)) -> Scene:
    """The scene of this seed, every part of it rendered anew. Seeds from 10**6 on are kept out of training.

    Example: make_scene(2_000_000).image.shape == (224, 224, 3)
    """
    detail = detail_for(hw)
    for attempt in range(100):  # a scene whose objects all ended up hidden or outside is drawn again
        rng = np.random.default_rng([seed, attempt])
        background = render_background(rng, (BACKGROUND_SIDE * detail,) * 2)
        scene = compose(rng, background, [render_sprite(rng, detail) for _ in range(6)], hw)
        if scene.instances.any():
            return scene
    raise RuntimeError(f"no visible object in 100 scenes of seed {seed}")


def detail_for(hw: tuple[int, int]) -> int:
    """How large parts are rendered for scenes of a size, as a multiple: enlarged ones would be too smooth."""
    return 2 if max(hw) > 1.2 * BACKGROUND_SIDE else 1


def render_part(seed: int, detail: int = 1) -> tuple[np.ndarray, list[np.ndarray]]:
    """A background and two sprites: what training's bank of parts is made of."""
    rng = np.random.default_rng([seed, 1])
    background = render_background(rng, (BACKGROUND_SIDE * detail,) * 2)
    return background, [render_sprite(rng, detail), render_sprite(rng, detail)]


def compose_from(bank: list[tuple[np.ndarray, list[np.ndarray]]], seed: int, hw: tuple[int, int]) -> Scene:
    """A scene from parts of the bank, each drawn at random; it may, rarely, be without a visible object."""
    rng = np.random.default_rng([seed, 2])
    sprites = [bank[i // 2][1][i % 2] for i in rng.integers(2 * len(bank), size=6)]
    return compose(rng, bank[int(rng.integers(len(bank)))][0], sprites, hw)
