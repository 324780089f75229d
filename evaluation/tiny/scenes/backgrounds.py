"""Backgrounds: walls, ground, hills and sky, with clutter on them."""

from __future__ import annotations

import cv2
import numpy as np

from .textures import Rng, lighting, material, noise, to_uint8


def ground(rng: Rng, hw: tuple[int, int], contrast: float) -> np.ndarray:
    """(H, W, 3) A surface seen at a slant, so its texture gets finer towards the top."""
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
    """The image (H, W, 3) with poles, panes, boards and blobs on it, in colours taken from the image."""
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
    """(H, W, 3) uint8: one to four regions (wall, ground, hills, sky) with clutter, light and blur."""
    contrast = rng.beta(1.3, 2.0)
    image = material(rng, hw, contrast)
    ys, xs = np.mgrid[0 : 1 : hw[0] * 1j, 0 : 1 : hw[1] * 1j].astype(np.float32)
    for edge in np.sort(rng.uniform(-0.1, 1.0, rng.choice(4, p=[0.3, 0.35, 0.25, 0.1]))):
        tilt, relief = rng.normal(0, 0.12), rng.choice([0, 0.02, 0.08])
        line = edge + tilt * (xs - 0.5) + relief * noise(rng, hw, 1, 0.5, 1.0)
        along = xs if rng.random() < 0.15 else ys  # mostly one above the other, at times side by side
        inside = np.clip((along - line) * rng.choice([20, 200]), 0, 1)[..., None]
        region = (ground if rng.random() < 0.5 else material)(rng, hw, rng.beta(1.3, 2.0))
        image = image * (1 - inside) + region * inside
    if rng.random() < 0.6:
        image = clutter(rng, np.ascontiguousarray(image, np.float32))
    image = image * lighting(rng, hw, rng.exponential(0.35))
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 5))
    return to_uint8(image)
