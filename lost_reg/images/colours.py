"""From samples of any depth, with or without alpha, to 8-bit RGB on a background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from lost_reg.errors import LostRegError
from lost_reg.lazy import np

WHITE = "#ffffff"
_PIXELS_PER_STRIP = 2**20


@dataclass(frozen=True)
class Samples:
    """Pixels as a file stores them.

    pixels: (H, W, C), unsigned: grey, grey and alpha, RGB, or RGB and alpha.
    most: the value that stands for white, or opaque: 255 or 65535.
    is_premultiplied: whether the colours are multiplied by their alpha already.
    """

    pixels: np.ndarray
    most: int
    is_premultiplied: bool = False


def background_of(colour: str) -> str:
    """A colour by its name or its value, as `#rrggbb`.

    Raises:
        LostRegError: no opaque colour.
    """
    from PIL import ImageColor  # the command line checks colours, and must start quickly

    try:
        rgb: tuple[int, ...] = ImageColor.getrgb(colour)
    except ValueError:
        rgb = ()
    if len(rgb) != 3:  # 4 with an alpha of its own
        raise LostRegError(
            f"expected an opaque colour as `background`, such as white or #808080, but got {colour!r}"
        )
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def to_rgb(samples: Samples, background: str | None) -> np.ndarray:
    """Composite samples on a background and scale them to 8 bits, rounded.

    Args:
        background: a colour, or None to drop the alpha and show the colours under it.

    Returns:
        (H, W, 3) uint8.
    """
    pixels = samples.pixels
    height, width, channels = pixels.shape
    if channels == 3 and pixels.dtype == np.uint8 and samples.most == 255:
        return np.ascontiguousarray(pixels)
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _PIXELS_PER_STRIP // width)
    for top in range(0, height, rows):
        rgb[top : top + rows] = _strip_to_rgb(pixels[top : top + rows], samples, background)
    return rgb


def _strip_to_rgb(pixels: np.ndarray, samples: Samples, background: str | None) -> np.ndarray:
    most, has_alpha = samples.most, pixels.shape[2] in (2, 4)
    if not has_alpha or background is None or (pixels[:, :, -1] == most).all():
        colours = pixels[:, :, :-1] if has_alpha else pixels
        return colours if most == 255 else (colours.astype(np.uint32) * 255 + 32895) >> 16  # rounded
    # the largest product is 255 * most * most
    pixels = pixels.astype(np.uint32 if most <= 255 else np.uint64)
    colours = pixels[:, :, :-1]
    below, alpha = np.array(_rgb(background), pixels.dtype), pixels[:, :, -1:]
    if samples.is_premultiplied:
        return np.minimum((colours * 255 + (most - alpha) * below + most // 2) // most, 255)
    whole = most * most
    return (colours * alpha * 255 + (most - alpha) * below * most + whole // 2) // whole


@cache
def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(background_of(colour)[1:]))
