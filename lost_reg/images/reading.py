"""From image files to 8-bit RGB pixels."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lost_reg.errors import UnreadableImage

# Folders, patterns and shards are searched for these; `readable_suffixes` adds those of HEIC.
SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif",
)  # fmt: skip
HEIF_SUFFIXES = (".heic", ".heif")

# Limits on what a file's header may announce: files of a 150-megapixel camera pass, decompression bombs do
# not. A side is limited because an image one pixel high grows sixteenfold when padded to a patch.
MOST_PIXELS = 200_000_000
MOST_SIDE = 100_000
MOST_BYTES = 2**31
Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow itself refuses at twice this

# A subset of Pillow's. Its other decoders are less hardened by attacks, and EPS is handed to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")

_PIXELS_PER_STRIP = 2**20
_LONGEST_REASON = 300


def readable_suffixes() -> tuple[str, ...]:
    """The suffixes, in lower case, of files that can be read with what is installed."""
    return SUFFIXES + HEIF_SUFFIXES if heif_is_readable() else SUFFIXES


@cache
def heif_is_readable() -> bool:
    """Whether pillow-heif is installed; if so, Pillow opens HEIC files from now on."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def read_image(source: str | Path | bytes, *, apply_exif: bool) -> np.ndarray:
    """Decode one image to 8-bit RGB.

    Grey, palette and CMYK images are converted as Pillow does; transparency is dropped and the
    colours under it are kept; 16-bit images are scaled to 8 bits (65535 becomes 255).

    Args:
        source: the file or its content; the content determines the format, not the suffix.
        apply_exif: whether the EXIF orientation is applied. LOST does not apply it for its datasets;
            it should be for a user's own photos. A TIFF's always is: its decoders apply it.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImage: a file that does not exist, is not an image, is damaged, or is of a kind (32-bit,
            float) that cannot be converted to 8 bits in one obvious way.
    """
    with _refusals(), _opened(source) as image:
        rgb = _to_rgb(image, source)
        return np.asarray(_upright(rgb) if apply_exif else rgb)


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """An image's height and width in pixels, from its header: nothing is decoded, EXIF is not applied.

    Raises:
        UnreadableImage: as `read_image`.
    """
    with _refusals(), _opened(source) as image:
        return image.height, image.width


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns any exception that a library raises for a file into one line, and drops its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnreadableImage, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(f"no such file: {os.fspath(error.filename)!r}") from None
    except UnidentifiedImageError:
        raise UnreadableImage("not an image, or of a format that is not supported") from None
    except Image.DecompressionBombError as error:
        raise _too_large(int(re.search(r"\d+", str(error))[0])) from None
    except Exception as error:  # a damaged file can break a decoder anywhere
        if isinstance(error, OSError) and error.strerror:  # from the file system, not from a decoder
            raise UnreadableImage(f"cannot be read: {error.strerror}") from None
        raise UnreadableImage(f"cannot be decoded: {error}"[:_LONGEST_REASON]) from None


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[Image.Image]:
    """An image with only its header read, once the header has passed the checks."""
    if not isinstance(source, bytes):
        _check_file(os.stat(source))
    formats = (*FORMATS, "HEIF") if heif_is_readable() else FORMATS
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
        if image.width * image.height > MOST_PIXELS:
            raise _too_large(image.width * image.height)
        if max(image.size) > MOST_SIDE:
            raise UnreadableImage(
                f"too large: a side of {max(image.size):,} pixels, and at most {MOST_SIDE:,} are read: "
                "cut it into pieces"
            )
        yield image


def _check_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImage("is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("not a regular file, but a pipe, socket or device")  # may never end
    if status.st_size > MOST_BYTES:
        raise UnreadableImage(
            f"too large: {status.st_size / 2**30:,.1f} GiB, and at most {MOST_BYTES // 2**30} are read: "
            "is it an image? Convert it to a smaller file"
        )


def _too_large(pixels: int) -> UnreadableImage:
    return UnreadableImage(
        f"too large: {pixels / 1e6:,.0f} million pixels, and at most {MOST_PIXELS / 1e6:.0f} are decoded: "
        "scale it down or cut it into pieces"
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # Pillow would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF is ignored: the pixels are good
        return image


def _to_rgb(image: Image.Image, source: str | Path | bytes) -> Image.Image:
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            f"32-bit images are not supported (mode {image.mode}): convert it to 8 or 16 bits"
        )
    # Pillow's own conversion of 16-bit images truncates: grey is clipped at 255, colours lose their low byte.
    tiles = getattr(image, "tile", None)
    stored_as = str(tiles[0][3] if tiles else "")
    if (";16" in stored_as and "BGR;16" not in stored_as) or image.mode.startswith("I;16"):
        return _scale_16_bit(image, source)  # BGR;16 has 16 bits for all three colours
    if image.mode == "RGB":
        image.load()
        return image  # not converted, which would copy it
    image.info.pop("transparency", None)  # Pillow would warn that RGB cannot hold it
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image, source: str | Path | bytes) -> Image.Image:
    image.load()  # Pillow notices a truncated file, OpenCV does not
    sides, info = sorted(image.size), dict(image.info)
    image.close()  # frees its pixels before new ones are allocated
    flags = cv2.IMREAD_UNCHANGED | getattr(cv2, "IMREAD_IGNORE_ORIENTATION", 0)
    encoded = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
    pixels = cv2.imdecode(encoded, flags)
    # sorted, as OpenCV has already rotated a TIFF
    fits = pixels is not None and pixels.dtype == np.uint16 and sorted(pixels.shape[:2]) == sides
    if not fits or (pixels.ndim == 3 and pixels.shape[2] < 3):
        raise UnreadableImage(
            "cannot be decoded: its 16-bit pixels are stored in a way that is not supported"
        )
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels[:, :, 2::-1]  # BGR or BGRA
    height, width = pixels.shape[:2]
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _PIXELS_PER_STRIP // width)
    for top in range(0, height, rows):
        strip = pixels[top : top + rows].astype(np.uint32)
        rgb[top : top + rows] = (strip * 255 + 32767) // 65535
    del pixels
    scaled = Image.fromarray(rgb)
    scaled.info = info  # including the EXIF
    return scaled


def array_to_rgb(array: np.ndarray) -> np.ndarray:
    """Check an image given as an array; a grey one becomes RGB.

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


def scaled(pixels: np.ndarray, max_side: int | None, square: int | None = None) -> np.ndarray:
    """Scale an image: see `scaled_size`."""
    height, width = scaled_size(pixels.shape[:2], max_side, square)
    if (height, width) == pixels.shape[:2]:
        return pixels
    if square:  # MaskCut's filter
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def scaled_size(size_hw: tuple[int, int], max_side: int | None, square: int | None = None) -> tuple[int, int]:
    """The size, (height, width) in pixels, that an image of size `size_hw` is scaled to.

    Args:
        max_side: the longest side; smaller images stay as they are.
        square: height and width, whatever the size was.
    """
    if square:
        return square, square
    if max_side is None or max(size_hw) <= max_side:
        return size_hw
    scale = max_side / max(size_hw)
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def pad_to_patches(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """Pad bottom and right to a multiple of the patch size; `normalized` sets the padding to zero."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % patch_size), (0, -width % patch_size), (0, 0)))
