"""Scenes: sprites placed on a background, as a camera would see them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .backgrounds import render_background
from .objects import Sprite, render_sprite
from .textures import Rng, lighting, noise, to_uint8

BACKGROUND_SIDE = 288  # pixels, of a background rendered at detail 1
MIN_VISIBLE = 0.006  # an object must show at least this share of the image to count


@dataclass(frozen=True)
class Scene:
    """An image and the mask of each of its objects.

    image: (H, W, 3) uint8 RGB.
    instances: (H, W) uint8, 0 for background, i for the visible pixels of object i.
    kinds: kinds[i - 1] is the kind of object i, which may be hidden.
    """

    image: np.ndarray
    instances: np.ndarray
    kinds: tuple[str, ...]

    @property
    def visible(self) -> np.ndarray:
        """(n,) The numbers of the objects of which something is visible, ascending."""
        return np.unique(self.instances[self.instances > 0])

    @property
    def labels(self) -> list[str]:
        """The kinds of the n visible objects, in the order of `boxes_xyxy`."""
        return [self.kinds[number - 1] for number in self.visible]

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(n, 4) int: for each visible object the half-open extent of its visible pixels."""
        boxes = []
        for number in self.visible:
            ys, xs = np.nonzero(self.instances == number)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        return np.array(boxes, dtype=int).reshape(-1, 4)


def recolour(rng: Rng, rgb: np.ndarray, strength: float) -> np.ndarray:
    """Colours (h, w, 3) under other light: saturation, gains, gamma and, at times, permuted channels."""
    saturation = np.exp(rng.normal(-0.1, 0.5 * strength))
    gain = np.exp(rng.normal(0, 0.25 * strength) + rng.normal(0, 0.1 * strength, 3))
    order = rng.permutation(3) if rng.random() < 0.15 * strength else [0, 1, 2]
    mix = np.diag(gain) @ (saturation * np.eye(3) + (1 - saturation) / 3)[:, order]
    gamma = np.exp(rng.normal(0, 0.25 * strength))
    return cv2.pow(np.clip(cv2.transform(np.ascontiguousarray(rgb), mix.astype(np.float32)), 0, 1.2), gamma)


def fit(rng: Rng, background: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) A random crop of the background (uint8), flipped or not, recoloured, at the scene's size."""
    height, width = background.shape[:2]
    share = rng.uniform(0.55, 1)
    h, w = int(height * share), int(width * share)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    part = background[y : y + h, x : x + w][:, :: rng.choice([-1, 1])]
    part = cv2.resize(np.ascontiguousarray(part), hw[::-1])
    return recolour(rng, part.astype(np.float32) / 255, 0.8)


def fine_detail(rng: Rng, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 1) A factor around 1: texture of a few pixels, which enlarged parts lack."""
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
    """Rotate, stretch and position a sprite (RGBA, uint8), its box about `scale` of the image's mean side.

    near: (2,) xy as shares of the image, where its centre goes, with a standard deviation of `stray` times
    its extent; None for anywhere. It may extend beyond the image.
    Returns (h, w, 4) float32 in [0, 1] and the window of the image (rows, columns) that it fills.
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
    reach = 0.18 * extent  # how far it may extend beyond one edge
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
    """The image with a soft shadow under and beside the pixels `covered` (H, W)."""
    side = 56  # soft, so drawn small and enlarged
    small = cv2.resize(covered.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    slant, aside, down = rng.normal(0, 0.1), rng.normal(0, 0.04) * side, rng.uniform(0, 0.05) * side
    soft = cv2.warpAffine(small, np.float32([[1, slant, aside], [0, 1, down]]), (side, side))
    soft = cv2.GaussianBlur(soft, (0, 0), rng.uniform(0.01, 0.05) * side)
    soft = cv2.resize(soft, covered.shape[::-1])
    return image * (1 - np.float32(rng.uniform(0, 0.7)) * soft)[..., None]


def develop(rng: Rng, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the image after a camera: exposure, at times grey or blurred, noise, JPEG."""
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
    """Sizes of one to four objects, as the side of the box over the image's mean side; mostly descending."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.45, 0.27, 0.16, 0.12]))
    return [rng.uniform(0.3, 1.0), *np.sort(rng.uniform(0.12, 0.5, count - 1))[::-1]]


def scatter(rng: Rng, image: np.ndarray, sprites: list[np.ndarray]) -> None:
    """Add small things to the image, in place, which count as background."""
    shrunk = [cv2.resize(sprite, (48, 48), interpolation=cv2.INTER_AREA) for sprite in sprites]
    for _ in range(int(rng.integers(1, 9))):
        placed, window = place(
            rng, shrunk[int(rng.integers(len(shrunk)))], image.shape[:2], rng.uniform(0.03, 0.13), None
        )
        placed[..., :3] = recolour(rng, placed[..., :3], 0.8)
        image[window] += (placed[..., :3] - image[window]) * placed[..., 3:]


def furnish(rng: Rng, image: np.ndarray, sprites: list[np.ndarray]) -> None:
    """Add large things at the image's edge, in place, mostly outside it, which count as background."""
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


def compose(rng: Rng, background: np.ndarray, sprites: list[Sprite], hw: tuple[int, int]) -> Scene:
    """Place one to four of six `sprites` on the background (RGB, uint8), the largest one first.

    The last two sprites may also stand at the image's edge, where they count as background.
    """
    image = fit(rng, background, hw)
    enlarged = max(hw) > 1.2 * max(background.shape)
    if enlarged:
        image = image * fine_detail(rng, hw)
    instances = np.zeros(hw, np.uint8)
    if rng.random() < 0.4:
        furnish(rng, image, [sprite.rgba for sprite in sprites[4:]])
    if rng.random() < 0.5:
        scatter(rng, image, [sprite.rgba for sprite in sprites])
    alike = rng.random() < 0.15  # a herd, a bowl of fruit
    companions = rng.random() < 0.4
    near, kinds = None, []
    for index, scale in enumerate(pick_scales(rng)):
        sprite = sprites[0 if alike else index]
        kinds.append(sprite.kind)
        placed, window = place(rng, sprite.rgba, hw, scale, near)
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
    for number in range(1, len(kinds) + 1):
        if (instances == number).mean() < MIN_VISIBLE:
            instances[instances == number] = 0
    image = image * lighting(rng, hw, rng.exponential(0.2)) if rng.random() < 0.5 else image
    return Scene(develop(rng, image), instances, tuple(kinds))


def make_scene(seed: int, hw: tuple[int, int] = (224, 224)) -> Scene:
    """The scene of this seed, with all of its parts rendered for it. README.md lists the seeds in use.

    Example: make_scene(2_000_000).image.shape == (224, 224, 3)
    """
    detail = detail_for(hw)
    for attempt in range(100):  # until an object is visible
        rng = np.random.default_rng([seed, attempt])
        background = render_background(rng, (BACKGROUND_SIDE * detail,) * 2)
        scene = compose(rng, background, [render_sprite(rng, detail) for _ in range(6)], hw)
        if scene.instances.any():
            return scene
    raise RuntimeError(f"no visible object in 100 scenes of seed {seed}")


def detail_for(hw: tuple[int, int]) -> int:
    """The multiple of their size at which parts are rendered: enlarged parts would be too smooth."""
    return 2 if max(hw) > 1.2 * BACKGROUND_SIDE else 1


def render_part(seed: int, detail: int = 1) -> tuple[np.ndarray, list[Sprite]]:
    """A background and two sprites, for the bank of parts that training composes scenes from."""
    rng = np.random.default_rng([seed, 1])
    background = render_background(rng, (BACKGROUND_SIDE * detail,) * 2)
    return background, [render_sprite(rng, detail), render_sprite(rng, detail)]


def compose_from(bank: list[tuple[np.ndarray, list[Sprite]]], seed: int, hw: tuple[int, int]) -> Scene:
    """A scene composed of random parts of the bank; in rare cases no object is visible."""
    rng = np.random.default_rng([seed, 2])
    sprites = [bank[i // 2][1][i % 2] for i in rng.integers(2 * len(bank), size=6)]
    return compose(rng, bank[int(rng.integers(len(bank)))][0], sprites, hw)
