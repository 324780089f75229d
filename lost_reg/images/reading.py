"""From image files to 8-bit RGB pixels."""

from __future__ import annotations

import io
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lost_reg.errors import UnreadableImage, one_line
from lost_reg.files import open_regular
from lost_reg.images.bounded import BoundedFile
from lost_reg.images.colours import WHITE, Samples, to_rgb
from lost_reg.images.headers import HEAD_BYTES, is_heic, unidentified, what_it_is
from lost_reg.images.jpeg import load
from lost_reg.images.tiff import Tags, fix_palette, is_tiff, read_samples, read_tags
from lost_reg.images.wide import is_wide, wide_samples
from lost_reg.lazy import cv2

# Folders, patterns and shards are searched for these; `readable_suffixes` adds those of HEIC.
SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif",
)  # fmt: skip
HEIF_SUFFIXES = (".heic", ".heif")

# Limits on what a file's header may announce: files of a 150-megapixel camera pass, decompression bombs do
# not. A side is limited because an image one pixel high grows sixteenfold when padded to a patch.
MOST_PIXELS = 200_000_000
MOST_SIDE = 100_000
# A larger file is not opened. The pixels of a 150-megapixel camera, 16 bits each, take 900 MB.
MOST_BYTES = 2**30
# What is read of a file to learn its size, and before its pixels are decoded: headers of photos hold other
# pictures. Pillow reads all of a WebP, AVIF or HEIC.
MOST_HEADER_BYTES = 2**24
MOST_BYTES_BEFORE_PIXELS = 2**28
# Pillow itself refuses at twice this: what `read_samples` gives it has up to four values a pixel.
Image.MAX_IMAGE_PIXELS = 2 * MOST_PIXELS

# A subset of Pillow's. Its other decoders are less hardened by attacks, and EPS is handed to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")

_NO_HEIF = "a HEIC photo: `pip install 'lost-reg[heif]'` makes it readable"
_LONGEST_REASON = 300
_SCALED_BY = {"L;2": 85, "L;4": 17}  # by Pillow, grey in PNG files


class Reading(TypedDict):
    """How image files are read: arguments of `read_image`."""

    apply_exif: bool
    background: str | None


def as_recorded(settings: Mapping[str, Any]) -> Reading:
    """How a run with these settings read its images."""
    return {"apply_exif": bool(settings.get("apply_exif")), "background": settings.get("background")}


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


def read_image(source: str | Path | bytes, *, apply_exif: bool, background: str | None = WHITE) -> np.ndarray:
    """Decode one image to 8-bit RGB.

    Palette and CMYK images are converted as Pillow does. Values of more than 8 bits are scaled and rounded
    (65535 becomes 255). Transparent images are composited on a background. Of an animation, or of several
    pages, the first is read.

    Args:
        source: the file or its content; the content determines the format, not the suffix.
        apply_exif: whether the EXIF orientation is applied. LOST does not apply it for its datasets;
            it should be for a user's own photos. That of a TIFF or HEIC file always is: its decoder applies
            it.
        background: the colour under transparent images, or None to drop the transparency and show the
            colours under it, as runs without a recorded background did.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImage: a file that does not exist, is not an image, is damaged, or is of a kind (32-bit,
            float, many bands) that cannot be converted to 8 bits in one obvious way.
    """
    return read_noted(source, apply_exif=apply_exif, background=background)[0]


def read_noted(
    source: str | Path | bytes,
    *,
    apply_exif: bool,
    background: str | None = WHITE,
    check: Callable[[tuple[int, int]], None] = lambda size_hw: None,
) -> tuple[np.ndarray, str | None]:
    """As `read_image`, with a note on what was tolerated, or None: see `jpeg.NO_END_MARKER`.

    Args:
        check: called with the size, before any pixel is decoded; may raise UnreadableImage. EXIF is not
            applied yet: height and width may be exchanged.
    """
    with _refusals(), _file(source, MOST_BYTES_BEFORE_PIXELS) as file, _opened(file) as opened:
        check(_size_of(opened))
        file.left = None  # from here on, limited by what the header says
        if isinstance(opened, Tags):
            return to_rgb(read_samples(file, opened), background), None
        wide = is_wide(opened, file)
        image, note = load(opened, file)
        rgb = flattened(image, background, wide_samples(image, file) if wide else None)
        return np.asarray(_upright(rgb) if apply_exif else rgb), note


def read_values(source: str | Path | bytes) -> np.ndarray:
    """The values that a PNG of one channel stores: grey of up to 16 bits, or indices into a palette.

    Nothing is scaled, and no palette is applied, so these can be labels or depths of pixels.

    Returns:
        (H, W) uint8, or uint16 for a file of 16 bits.

    Raises:
        UnreadableImage: as `read_image`, or another format or kind of PNG.
    """
    with _refusals(), _file(source, MOST_BYTES_BEFORE_PIXELS) as file, _opened(file) as opened:
        if isinstance(opened, Tags) or opened.format != "PNG":
            raise UnreadableImage("not a PNG file")
        stored = str(
            getattr(opened, "tile", None)[0][3]
        )  # such as "L;4", grey of 4 bits, which Pillow scales to 8
        file.left = None
        if stored.startswith("I;16"):
            return np.asarray(opened).astype(np.uint16)
        if opened.mode not in ("1", "L", "P"):
            raise UnreadableImage("has several channels: expected a PNG of one, grey or palette")
        return np.asarray(opened).astype(np.uint8) // _SCALED_BY.get(stored, 1)


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """An image's height and width in pixels, from its header: nothing is decoded, EXIF is not applied.

    `sizes.header_sizes` reads headers of files that nobody has checked, in another process.

    Raises:
        UnreadableImage: as `read_image`, or more than MOST_HEADER_BYTES would have to be read.
    """
    with _refusals(), _file(source, MOST_HEADER_BYTES) as file, _opened(file) as opened:
        return _size_of(opened)


def _size_of(opened: Image.Image | Tags) -> tuple[int, int]:
    return opened.shown_hw if isinstance(opened, Tags) else (opened.height, opened.width)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns any exception that a library raises for a file into one line, and drops its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableImage as error:
        raise UnreadableImage(one_line(str(error)[:_LONGEST_REASON])) from None
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(f"no such file: {os.fspath(error.filename)!r}") from None
    except Image.DecompressionBombError as error:
        raise _too_large(int(re.search(r"\d+", str(error))[0])) from None
    except Exception as error:  # a damaged file can break a decoder anywhere
        if isinstance(error, OSError) and error.strerror:  # from the file system, not from a decoder
            raise UnreadableImage(f"cannot be read: {error.strerror}") from None
        raise UnreadableImage(one_line(f"cannot be decoded: {error}"[:_LONGEST_REASON])) from None


def _file(source: str | Path | bytes, most: int) -> BoundedFile:
    """The file, or its content, of which `most` bytes can be read."""
    if isinstance(source, bytes):
        return BoundedFile(io.BytesIO(source), most)
    _check_file(os.stat(source))
    return BoundedFile(open_regular(source, buffering=0), most)


@contextmanager
def _opened(file: BoundedFile) -> Iterator[Image.Image | Tags]:
    """An image with only its header read, once the header has passed the checks.

    Yields:
        Pillow's image, or the tags of a TIFF that Pillow does not decode exactly.
    """
    head = file.read(HEAD_BYTES)
    if what := what_it_is(head):
        raise UnreadableImage(what)
    tags = read_tags(file) if is_tiff(head) else None
    if tags:
        _check_size(*tags.size_hw)
    if tags and not tags.is_plain:
        if (values := tags.samples * math.prod(tags.size_hw)) > 4 * MOST_PIXELS:
            raise _too_large(values // 4)
        yield tags
        return
    formats: tuple[str, ...] = FORMATS
    if is_heic(head):
        if not heif_is_readable():
            raise UnreadableImage(_NO_HEIF)
        formats = ("HEIF",)
    file.seek(0)
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        raise UnreadableImage(unidentified(head)) from None
    with image:
        _check_size(image.height, image.width)
        if tags:
            fix_palette(image, tags)
        _scale_transparent_grey(image)
        yield image


def _scale_transparent_grey(image: Image.Image) -> None:
    """Scale the grey that stands for transparent in a PNG of 2 or 4 bits, as Pillow scales its pixels."""
    grey = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if image.format == "PNG" and isinstance(grey, int) and tiles:
        image.info["transparency"] = grey * _SCALED_BY.get(str(tiles[0][3]), 1)


def _check_size(height: int, width: int) -> None:
    if width * height > MOST_PIXELS:
        raise _too_large(width * height)
    if max(width, height) > MOST_SIDE:
        raise UnreadableImage(
            f"too large: a side of {max(width, height):,} pixels, and at most {MOST_SIDE:,} are read: "
            "cut it into pieces"
        )


def _check_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImage("is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("not a regular file, but a pipe, socket or device")  # may never end
    if status.st_size > MOST_BYTES:
        raise UnreadableImage(
            f"too large: a file of {status.st_size / 2**30:,.1f} GiB, and at most {MOST_BYTES // 2**30} is "
            "read: is it an image? Convert it to a smaller file"
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


def flattened(image: Image.Image, background: str | None, samples: Samples | None = None) -> Image.Image:
    """A Pillow image of 8 bits a channel as RGB, composited on a background: see `read_image`.

    Args:
        samples: in place of the image's own pixels.
    """
    if samples is None and background is not None and image.has_transparency_data:
        samples = _transparent(image)
    if samples is not None:
        rgb = Image.fromarray(to_rgb(samples, background))
        rgb.info = dict(image.info)  # including the EXIF
        return rgb
    if image.mode.startswith(("I", "F")):
        raise UnreadableImage(
            f"pixels of mode {image.mode} are not supported: convert it to 8 bits a channel"
        )
    if image.mode == "RGB":
        return image  # not converted, which would copy it
    if "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # Pillow would warn that RGB cannot hold it
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def _transparent(image: Image.Image) -> Samples | None:
    """The samples of an image with 8 bits and alpha; None if its alpha is not meant."""
    if image.mode == "La":
        image = image.convert("LA")
    pixels = np.asarray(image.convert("RGBA"))
    if image.format == "BMP" and not pixels[:, :, 3].any():  # written by programs that know no alpha
        return None
    return Samples(pixels, 255)


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


def patches_of(size_hw: tuple[int, int], patch_size: int) -> int:
    """The number of patches of an image of this size, once it is padded."""
    return -(-size_hw[0] // patch_size) * -(-size_hw[1] // patch_size)


def pad_to_patches(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """Pad bottom and right to a multiple of the patch size; `normalized` sets the padding to zero."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % patch_size), (0, -width % patch_size), (0, 0)))
