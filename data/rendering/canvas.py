"""The canvas: an image that keeps, for each of its objects, what is still visible of it.

Every object is painted through an alpha layer of its own, and whatever is painted over it later takes
alpha away again. Lengths are pixels of the final image, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from .colours import Colour, lit, rgb
from .geometry import Array, Shape, across, monotone, points, smooth, turned, unit

SUPERSAMPLE = 2  # every scene is painted this many times larger and averaged down


def window(mask: Array, margin: int = 0) -> tuple[slice, slice]:
    """The part of the image that a mask touches, so that small things cost little."""
    found = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    return tuple(slice(max(i[0] - margin, 0), i[-1] + 1 + margin) if i.size else slice(0, 1) for i in found)


@dataclass
class Layer:
    """One object: what was painted of it, and what is still visible of that; both (H, W) in 0 .. 1."""

    name: str
    painted: Array
    visible: Array


class Canvas:
    """An RGB float image, the alpha layers of its objects, and the masks and bodies of all scenes."""

    def __init__(self, width: int, height: int, seed: int, light: Sequence[float] = (-0.5, -0.62, 0.6)):
        self.width, self.height = width, height
        self.rng = np.random.default_rng(seed)
        self.light = unit(light)
        y, x = np.mgrid[: height * SUPERSAMPLE, : width * SUPERSAMPLE].astype(np.float32)
        self.x, self.y = (x + 0.5) / SUPERSAMPLE, (y + 0.5) / SUPERSAMPLE
        self.image = np.zeros((*self.x.shape, 3), np.float32)
        self.layers: list[Layer] = []
        self._current: Layer | None = None
        self._at, self._scale, self._turn = np.zeros(2), 1.0, 0.0

    @contextmanager
    def frame(self, at: Sequence[float], scale: float = 1, turn: float = 0) -> Iterator[None]:
        """Inside the block, shapes are drawn around `at`, scaled, and turned by `turn` degrees."""
        outer = self._at, self._scale, self._turn
        self._at, self._scale, self._turn = self._mapped(at), self._scale * scale, self._turn + turn
        yield
        self._at, self._scale, self._turn = outer

    @contextmanager
    def object(
        self, name: str, at: Sequence[float] = (0, 0), scale: float = 1, turn: float = 0
    ) -> Iterator[Layer]:
        """A frame in which everything that is painted belongs to a new object of this name."""
        self._current = Layer(name, np.zeros_like(self.x), np.zeros_like(self.x))
        self.layers.append(self._current)
        with self.frame(at, scale, turn):
            yield self._current
        self._current = None

    def _mapped(self, shape: Shape) -> Array:
        return points(shape) @ turned(self._turn).T * self._scale + self._at

    def _fixed(self, shape: Shape) -> Array:
        """Points of the frame as OpenCV's fixed-point pixels."""
        return np.round((self._mapped(shape) * SUPERSAMPLE - 0.5) * 16).astype(np.int32)

    def local(self) -> tuple[Array, Array]:
        """The coordinates of every pixel in the current frame, both (H, W)."""
        (a, b), (c, d) = turned(-self._turn).astype(np.float32) / self._scale
        x, y = self.x - self._at[0], self.y - self._at[1]
        return a * x + b * y, c * x + d * y

    # --- masks: (H, W) alpha images with soft edges -------------------------------------------------------

    def polygon(self, shape: Shape) -> Array:
        mask = np.zeros(self.x.shape, np.uint8)
        cv2.fillPoly(mask, [self._fixed(shape)], 255, cv2.LINE_AA, shift=4)
        return mask.astype(np.float32) / 255

    def rectangle(self, x0: float, y0: float, x1: float, y1: float) -> Array:
        return self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def blob(self, shape: Shape) -> Array:
        return self.polygon(smooth(shape))

    def ellipse(self, cx: float, cy: float, rx: float, ry: float | None = None, angle: float = 0) -> Array:
        turns = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        ring = np.stack([rx * np.cos(turns), (rx if ry is None else ry) * np.sin(turns)], axis=1)
        return self.polygon(ring @ turned(angle).T + (cx, cy))

    def stroke(self, shape: Shape, widths: float | Sequence[float], curved: bool = True) -> Array:
        """A round-ended line whose width goes through `widths` along the way."""
        line = smooth(shape, closed=False) if curved else points(shape)
        widths = np.atleast_1d(widths)
        half = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(widths)), widths)[:, None] / 2
        side = half * across(line)
        mask = self.polygon(np.concatenate([line + side, (line - side)[::-1]]))
        for end in (0, -1):
            mask = np.maximum(mask, self.ellipse(*line[end], half[end, 0]))
        return mask

    def below(self, y: float | Array) -> Array:
        return np.clip((self.y - y) * SUPERSAMPLE + 0.5, 0, 1)

    def band(self, y: float, spread: float) -> Array:
        """A soft horizontal line, from edge to edge."""
        return np.exp(-((self.y - y) ** 2) / spread)

    def ridge(self, base: float, rise: float, scale: float) -> Array:
        """Everything below a hilly skyline around y = base."""
        return self.below(base + rise * self.noise(scale, 5)[:1])

    def noise(self, scale: float, octaves: int = 4, stretch: float = 1) -> Array:
        """Cloudy noise of mean 0 and deviation 1; its largest lumps are (scale * stretch, scale) pixels."""
        rows, columns = self.x.shape
        total = np.zeros_like(self.x)
        for octave in range(octaves):
            cell = max(scale * SUPERSAMPLE / 2**octave, 1)
            shape = (int(rows / cell) + 3, int(columns / (cell * stretch)) + 3)
            full = (int(shape[1] * cell * stretch) + 1, int(shape[0] * cell) + 1)
            lattice = self.rng.standard_normal(shape).astype(np.float32)
            lumps = cv2.resize(lattice, full, interpolation=cv2.INTER_CUBIC)
            total += lumps[int(cell) // 2 :, int(cell * stretch) // 2 :][:rows, :columns] * 0.55**octave
        return (total - total.mean()) / total.std()

    # --- painting -----------------------------------------------------------------------------------------

    def _cover(self, part: tuple[slice, slice], alpha: Array, colour: Array, occlude: bool = True) -> None:
        self.image[part] += alpha[..., None] * (colour - self.image[part])
        for layer in self.layers if occlude else []:
            if layer is self._current:
                layer.visible[part] += alpha * (1 - layer.visible[part])
                layer.painted[part] = np.maximum(layer.painted[part], alpha)
            else:
                layer.visible[part] *= 1 - alpha

    def paint(self, alpha: Array, colour: Colour, occlude: bool = True) -> None:
        """Cover with a colour: what lies below disappears, from the picture and from its object's layer."""
        part, colour = window(alpha), rgb(colour)
        self._cover(part, alpha[part], colour[part] if colour.ndim == 3 else colour, occlude)

    def tint(self, alpha: Array, colour: Colour) -> None:
        """Mix in a colour as light, haze or shade does: objects stay as visible as they were."""
        self.paint(alpha, colour, occlude=False)

    def fill(self, colour: Colour) -> None:
        self.paint(np.ones_like(self.x), colour)

    def gradient(self, *stops: tuple[float, str]) -> Array:
        """A vertical gradient through (y, colour) stops."""
        colours = np.stack([rgb(code) for _, code in stops])
        column = [np.interp(self.y[:, 0], [y for y, _ in stops], channel) for channel in colours.T]
        return np.broadcast_to(np.stack(column, axis=1)[:, None], self.image.shape).astype(np.float32)

    def soften(self, mask: Array, sigma: float) -> Array:
        return cv2.GaussianBlur(mask, (0, 0), sigma * self._scale * SUPERSAMPLE)

    def blur(self, sigma: float) -> None:
        """Put all that is painted so far out of focus."""
        self.image = self.soften(self.image, sigma)

    def shadow(self, mask: Array, softness: float, strength: float = 0.6) -> None:
        self.tint(self.soften(mask, softness) * strength, "14141f")

    def glow(self, cx: float, cy: float, radius: float, colour: Colour, strength: float = 1) -> None:
        """Add light that falls off around a point."""
        fall = np.exp(-((self.x - cx) ** 2 + (self.y - cy) ** 2) / radius**2) * strength
        self.image += fall[..., None] * rgb(colour)

    def dabs(self, polygons: Sequence[Array], colours: Array) -> None:
        """Cover with many small polygons, later ones over earlier ones."""
        picture = np.round(np.clip(self.image, 0, 1) * 255).astype(np.uint8)
        cover = np.zeros(self.x.shape, np.uint8)
        for shape, colour in zip(polygons, np.clip(colours, 0, 1) * 255, strict=True):
            cv2.fillPoly(picture, [self._fixed(shape)], colour.tolist(), cv2.LINE_AA, shift=4)
            cv2.fillPoly(cover, [self._fixed(shape)], 255, cv2.LINE_AA, shift=4)
        # The picture is blended already: it replaces the image, and only the layers need the soft cover.
        self.image = np.where(cover[..., None] > 0, picture.astype(np.float32) / 255, self.image)
        self.paint(cover.astype(np.float32) / 255, self.image)

    # --- bodies that the light falls on -------------------------------------------------------------------

    def solid(
        self, mask: Array, colour: Colour, roundness: float, gloss: float = 0, ambient: float = 0.42
    ) -> Array:
        """Paint a mask as a body whose edge is rounded off over `roundness` pixels. Returns the mask."""
        reach = roundness * self._scale * SUPERSAMPLE
        part, colour = window(mask, int(reach) + 2), rgb(colour)
        inside = cv2.distanceTransform((mask[part] > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        height = reach * np.sqrt(1 - (1 - np.clip(inside / reach, 0, 1)) ** 2)
        slope_y, slope_x = np.gradient(cv2.GaussianBlur(height, (0, 0), 0.3 * reach))
        normals = unit(np.stack([-slope_x, -slope_y, np.ones_like(height)], axis=-1))
        base = colour[part] if colour.ndim == 3 else colour
        self._cover(part, mask[part], lit(base, normals, self.light, gloss, ambient))
        return mask

    def _turned_normals(self, nx: Array, ny: Array, nz: Array) -> Array:
        """From the current frame to the image."""
        flat = np.stack([nx, ny], axis=-1) @ turned(self._turn).T.astype(np.float32)
        return unit(np.concatenate([flat, nz[..., None] + 1e-6], axis=-1))

    def ball(
        self, cx: float, cy: float, rx: float, ry: float, colour: Colour | Callable[[Array], Array],
        gloss: float = 0, ambient: float = 0.35,
    ) -> None:  # fmt: skip
        """Paint an ellipsoid; `colour` may be a function of the (H, W, 3) normals."""
        u, v = self.local()
        nx, ny = (u - cx) / rx, (v - cy) / ry
        normals = self._turned_normals(nx, ny, np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1)))
        base = colour(normals) if callable(colour) else rgb(colour)
        self.paint(self.ellipse(cx, cy, rx, ry), lit(base, normals, self.light, gloss, ambient))

    def lathe(
        self, cx: float, profile: Shape, colour: Colour | Callable[[Array, Array], Array],
        gloss: float = 0, ambient: float = 0.35,
    ) -> Array:  # fmt: skip
        """Paint a body of revolution about the vertical through cx. Returns its mask.

        `profile` holds "y,radius" pairs from the top down; a radius of 0 closes the body with a round end.
        `colour` may be a function of longitude (0 faces the viewer) and y.
        """
        heights, radii = points(profile).T
        u, v = self.local()
        dense = np.linspace(heights[0], heights[-1], 800)
        # Interpolated is the square of the radius: a zero then becomes a round end, not a pointed one.
        radius_at = np.sqrt(np.maximum(monotone(dense, heights, radii**2), 0))
        slope_at = np.clip(np.gradient(radius_at, dense), -3, 3)
        radius = np.interp(v, dense, radius_at, left=0, right=0).astype(np.float32)
        slope = np.interp(v, dense, slope_at).astype(np.float32)
        mask = np.clip((radius - np.abs(u - cx)) * SUPERSAMPLE * self._scale + 0.5, 0, 1) * (radius > 0)
        nx = np.clip((u - cx) / np.maximum(radius, 1e-3), -1, 1)
        base = colour(np.arcsin(nx), v) if callable(colour) else rgb(colour)
        normals = self._turned_normals(nx, -slope, np.sqrt(1 - nx**2))
        self.paint(mask, lit(base, normals, self.light, gloss, ambient))
        return mask

    # --- the picture --------------------------------------------------------------------------------------

    def finish(self) -> Array:
        """Darken the corners a little, average down and add film grain: (height, width, 3) uint8."""
        away = ((self.x / self.width - 0.5) ** 2 + (self.y / self.height - 0.5) ** 2)[..., None]
        image = np.clip(self.image, 0, 1) * (1 - 0.35 * away)
        image = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)
        grain = self.rng.normal(0, 0.007, (self.height, self.width, 1))
        return np.round(np.clip(image + grain, 0, 1) * 255).astype(np.uint8)
