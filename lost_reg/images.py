"""From image files to 8-bit RGB pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lost_reg.errors import UnreadableImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Pillow warns from here on and refuses at twice this: a guard against decompression bombs. Raised from
# its default of 89 million so that a 150-megapixel camera's files pass without a warning.
Image.MAX_IMAGE_PIXELS = 200_000_000


def read_image(source: str | Path | bytes, *, apply_exif: bool) -> np.ndarray:
    """Decode one image to 8-bit RGB.

    Grey, palette and CMYK images are converted as Pillow does; transparency is dropped and the
    colours below it kept; 16-bit images are scaled to 8 bits (65535 becomes 255).

    Args:
        source: the file, or what would be in it; its content decides the format, not its suffix.
        apply_exif: whether the EXIF orientation is applied. LOST does not for its datasets; for a
            user's own photos it should be. A TIFF's is applied always: its decoders do so.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImage: a file that is not there, not an image, damaged, or of a kind (32-bit, float)
            that has no one reading as 8-bit.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            rgb = _to_rgb(image, source)
            return np.asarray(_upright(rgb) if apply_exif else rgb)
    except (UnreadableImage, MemoryError):
        raise
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except UnidentifiedImageError:
        raise UnreadableImage("not an image, or of a format that is not supported") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too large: {error}") from None
    except Exception as error:  # a damaged file can break a decoder anywhere
        raise UnreadableImage(f"cannot be decoded: {error}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be read says nothing; the pixels are good
        return image


def _to_rgb(image: Image.Image, source: str | Path | bytes) -> Image.Image:
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            f"32-bit images are not supported (mode {image.mode}): convert it to 8 or 16 bits"
        )
    # Pillow's own conversion of 16-bit images cuts them: grey at 255, colours to their high byte.
    stored_as = str(image.tile[0][3] if image.tile else "")
    if (";16" in stored_as and "BGR;16" not in stored_as) or image.mode.startswith("I;16"):
        return _scale_16_bit(image, source)  # BGR;16 has 16 bits for all three colours
    image.info.pop("transparency", None)  # Pillow would warn that RGB cannot hold it
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image, source: str | Path | bytes) -> Image.Image:
    image.load()  # Pillow notices a truncated file, OpenCV does not
    flags = cv2.IMREAD_UNCHANGED | getattr(cv2, "IMREAD_IGNORE_ORIENTATION", 0)
    encoded = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
    pixels = cv2.imdecode(encoded, flags)
    if pixels is None or pixels.dtype != np.uint16 or (pixels.ndim == 3 and pixels.shape[2] < 3):
        raise UnreadableImage(
            "cannot be decoded: its 16-bit pixels are stored in a way that is not supported"
        )
    pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if pixels.ndim == 2:
        rgb = Image.fromarray(pixels).convert("RGB")
    else:
        rgb = Image.fromarray(np.ascontiguousarray(pixels[:, :, 2::-1]))  # BGR or BGRA
    rgb.info = dict(image.info)  # the EXIF among it
    return rgb


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """Check an image that was given as an array.

    Args:
        array: (H, W, 3) or (H, W) uint8, RGB or grey.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImage: another shape or dtype.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise UnreadableImage(
            f"expected an array of shape (H, W, 3) or (H, W) and dtype uint8, "
            f"but got {array.shape} and {array.dtype}"
        )
    return array


def limit_side(pixels: np.ndarray, max_side: int | None) -> np.ndarray:
    """Scale an image down, keeping its aspect ratio, so that no side is longer than `max_side` pixels."""
    height, width = scaled_size(pixels.shape[:2], max_side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def scaled_size(size_hw: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """The size, (height, width) in pixels, of an image of size `size_hw` after `limit_side`."""
    if max_side is None or max(size_hw) <= max_side:
        return size_hw
    scale = max_side / max(size_hw)
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def pad_to_patches(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """Pad bottom and right to a multiple of the patch size; `normalized` sets that to zero."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % patch_size), (0, -width % patch_size), (0, 0)))


def shown_names(names: Iterable[str], most: int = 3, of: int | None = None) -> str:
    """A few names for a message, such as 'a.jpg, b.jpg and 4 more'; `of`: how many there are, if more."""
    names = list(names)
    left = (of or len(names)) - min(most, len(names))
    return ", ".join(names[:most]) + (f" and {left:,} more" if left else "")
