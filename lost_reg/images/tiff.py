"""TIFF files by their tags: which are read, and the samples of those that Pillow does not read exactly.

Pillow decodes the plain ones: up to 8 bits, colours interleaved, no further channels. Of all others (16
bits, separate planes, alpha), each plane, or all interleaved samples of a row, are read as one grey image,
whose pixels Pillow gives as they are stored.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from lost_reg.errors import UnreadableImage
from lost_reg.images.colours import Samples

_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _COLOUR_MAP = 284, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_INKS, _EXTRA, _SAMPLE_FORMAT, _CFA = 332, 338, 339, 32803
_NUMBERS = range(_WIDTH, _SAMPLE_FORMAT + 1)  # tags that have to be numbers

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_SEPARATE = 2

_JPEG, _FAX = 7, (2, 3, 4)
_WITH_PREDICTOR = (5, 8, 32946, 34925, 50000)  # LZW, Deflate (two numbers), LZMA, Zstandard
_LOSSLESS = (1, 32773, *_WITH_PREDICTOR)  # and none, PackBits
_SAMPLE_FORMATS = {2: "signed", 3: "float", 5: "complex", 6: "complex"}
_MOST_SAMPLES = 64
# A tag of more is read only as bytes, such as Photoshop's layers: as numbers it would take far more.
_MOST_OF_NUMBERS = 2**24  # bytes; the strips of 200 million pixels need less
_BYTE, _UNDEFINED = 1, 7
_CURE = "convert it to 8-bit RGB, such as with ImageMagick"


@dataclass(frozen=True)
class Tags:
    """What the first directory of a TIFF says.

    extra: the kind of each channel beyond the colours. directory: all of its tags.
    """

    directory: TiffImagePlugin.ImageFileDirectory_v2
    size_hw: tuple[int, int]
    bits: tuple[int, ...]
    samples: int
    photometric: int
    compression: int
    is_separate: bool
    extra: tuple[int, ...]

    @property
    def orientation(self) -> int:
        return self.directory.get(_ORIENTATION, 1)

    @property
    def is_plain(self) -> bool:
        """Whether Pillow reads it exactly."""
        is_jpeg_or_cmyk = self.compression == _JPEG or self.photometric == _CMYK
        return self.bits[0] <= 8 and (is_jpeg_or_cmyk or not (self.is_separate or self.extra))

    @property
    def shown_hw(self) -> tuple[int, int]:
        """The size after the orientation is applied, as it always is."""
        return self.size_hw[::-1] if self.orientation in (5, 6, 7, 8) else self.size_hw


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a TIFF."""
    return head.startswith(_HEADERS)


def read_tags(file: BinaryIO) -> Tags:
    """The tags of a TIFF that can be read right.

    Raises:
        UnreadableImage: another kind of TIFF; says which.
    """
    file.seek(0)
    header = file.read(8)
    if header[2] == 43 or header[3] == 43:  # BigTIFF
        header += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(directory.next)
    directory.load(file)
    file.seek(0)
    _check_lengths(directory)
    tags = _tags(directory)
    if reason := _refusal(tags):
        raise UnreadableImage(reason)
    return tags


def _check_lengths(directory: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    for tag, content in directory._tagdata.items():  # as bytes: they become numbers when they are asked for
        is_bytes = directory.tagtype[tag] in (_BYTE, _UNDEFINED) and tag not in _NUMBERS
        if len(content) > _MOST_OF_NUMBERS and not is_bytes:
            raise UnreadableImage(f"a TIFF whose tag {tag} has {len(content):,} bytes: it is damaged")


def _tags(directory: TiffImagePlugin.ImageFileDirectory_v2) -> Tags:
    if not all(isinstance(directory.get(side), int) for side in (_WIDTH, _HEIGHT)):
        raise UnreadableImage("a TIFF that does not say its size: it is damaged, so get it again")
    bits = _values(directory.get(_BITS, 1))
    samples = directory.get(_SAMPLES, 1)
    photometric = directory.get(_PHOTOMETRIC, -1)
    if not all(isinstance(one, int) for one in (*bits, samples, photometric)):
        raise UnreadableImage("a TIFF whose tags are no numbers: it is damaged, so get it again")
    extra = _values(directory.get(_EXTRA, ()))
    if photometric == _RGB and samples == 4 and not extra:
        extra = (_UNASSOCIATED,)  # as OpenCV writes alpha
    return Tags(
        directory=directory,
        size_hw=(directory[_HEIGHT], directory[_WIDTH]),
        bits=bits,
        samples=samples,
        photometric=photometric,
        compression=directory.get(_COMPRESSION, 1),
        is_separate=samples > 1 and directory.get(_PLANAR, 1) == _SEPARATE,
        extra=extra,
    )


def _values(value: Any) -> tuple[int, ...]:
    if isinstance(value, bytes):
        return tuple(value)
    return tuple(value) if isinstance(value, tuple) else (value,)


def _refusal(tags: Tags) -> str | None:
    """Why a TIFF is not read, or None: only what tests compare with tifffile is."""
    kinds = set(_values(tags.directory.get(_SAMPLE_FORMAT, 1)))
    bits = max(tags.bits)
    if kinds != {1}:
        kind = _SAMPLE_FORMATS.get(max(kinds), "untyped")
        return f"a TIFF of {kind} numbers ({bits} bits): scale its values to unsigned 8 or 16 bits"
    if tags.photometric == _CFA:
        return "a raw photo of a camera, whose colours are not developed: export it as JPEG or TIFF"
    if len(set(tags.bits)) > 1 or bits not in (1, 2, 4, 8, 16):
        return f"a TIFF of {bits} bits per sample: convert it to 8 or 16 bits"
    colours = tags.samples - len(tags.extra)
    is_grey = tags.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    if tags.samples > _MOST_SAMPLES or (is_grey and (colours > 1 or 0 in tags.extra)):
        return (
            f"a TIFF with {tags.samples} bands, which are not named as colours: save those to look at as a "
            "grey or RGB image"
        )
    if not _is_checked(tags, colours, bits):
        return f"a TIFF of a kind that is not supported ({_named(tags)}): {_CURE}"
    return None


def _is_checked(tags: Tags, colours: int, bits: int) -> bool:
    """Whether tests compare this combination of tags with tifffile."""
    fill_order = tags.directory.get(_FILL_ORDER, 1)
    if colours != _COLOURS.get(tags.photometric) or (fill_order != 1 and bits > 1):
        return False
    if any(kind > _UNASSOCIATED for kind in tags.extra) or any(tags.extra[1:]):  # alpha comes first
        return False
    if tags.compression in _FAX:
        return bits == 1 and colours == 1
    predictors = (1, 2) if bits >= 8 and tags.compression in _WITH_PREDICTOR else (1,)
    if tags.compression != _JPEG and tags.directory.get(_PREDICTOR, 1) not in predictors:
        return False
    if tags.compression == _JPEG:
        is_rgb_or_grey = tags.photometric in (_BLACK_IS_ZERO, _RGB, _YCBCR)
        return bits == 8 and is_rgb_or_grey and not (tags.is_separate or tags.extra)
    if tags.compression not in _LOSSLESS or tags.photometric == _YCBCR:
        return False
    if tags.photometric == _CMYK:
        return bits == 8 and not tags.extra and tags.directory.get(_INKS, 1) == 1
    if tags.photometric == _PALETTE:
        return bits <= 8 and not tags.extra
    return bits >= 8 or tags.samples == 1


def _named(tags: Tags) -> str:
    parts = {
        "photometric": tags.photometric,
        "compression": tags.compression,
        "bits": tags.bits[0],
        "samples": tags.samples,
        "extra": tags.extra,
        "planar": 2 if tags.is_separate else 1,
        "predictor": tags.directory.get(_PREDICTOR, 1),
        "fill order": tags.directory.get(_FILL_ORDER, 1),
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def fix_palette(image: Image.Image, tags: Tags) -> None:
    """Use a colour map of 8-bit values, which some programs write in place of 16-bit ones."""
    if tags.photometric == _PALETTE and max(colours := tags.directory[_COLOUR_MAP]) < 256:
        image.putpalette([value for rgb in zip(*np.split(np.array(colours), 3)) for value in map(int, rgb)])


def read_samples(file: BinaryIO, tags: Tags) -> Samples:
    """The grey or RGB samples, and the alpha, as they are stored, upright."""
    wanted = _COLOURS[tags.photometric] + bool(tags.extra and tags.extra[0])
    if tags.is_separate:
        planes = [_read_as_grey(file, tags, plane) for plane in range(wanted)]
        pixels = np.stack(planes, axis=2)
    else:
        pixels = _read_as_grey(file, tags, None).reshape(*tags.size_hw, tags.samples)
        if tags.directory.get(_PREDICTOR, 1) == 2:
            _undo_differences(pixels, tags.directory.get(_TILE_WIDTH, tags.size_hw[1]))
        pixels = pixels[:, :, :wanted]
    if tags.photometric == _WHITE_IS_ZERO:
        pixels[:, :, 0] = ~pixels[:, :, 0]
    return Samples(
        _turned(pixels, tags.orientation),
        most=2 ** tags.bits[0] - 1,
        is_premultiplied=tags.extra[:1] == (_ASSOCIATED,),
    )


def _read_as_grey(file: BinaryIO, tags: Tags, plane: int | None) -> np.ndarray:
    """One plane, or with None all samples of each row in one row, (H, W * samples)."""
    old = tags.directory
    times = tags.samples if plane is None else 1
    fields = {
        _WIDTH: [tags.size_hw[1] * times], _HEIGHT: [tags.size_hw[0]], _BITS: [tags.bits[0]],
        _COMPRESSION: [tags.compression], _PHOTOMETRIC: [_BLACK_IS_ZERO], _SAMPLES: [1],
        _PREDICTOR: [1 if plane is None else old.get(_PREDICTOR, 1)],
    }  # fmt: skip
    for tag in (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES):
        if tag in old:
            fields[tag] = _of_plane(_values(old[tag]), plane, tags)
    if _TILE_WIDTH in old:
        fields |= {_TILE_WIDTH: [old[_TILE_WIDTH] * times], _TILE_HEIGHT: [old[_TILE_HEIGHT]]}
    else:
        fields[_ROWS_PER_STRIP] = [min(old.get(_ROWS_PER_STRIP, tags.size_hw[0]), tags.size_hw[0])]
    file.seek(0)
    changed = _with_directory(file.read(), "<" if old.prefix == b"II" else ">", fields)
    with Image.open(changed, formats=("TIFF",)) as image:
        image.load()
        return np.array(image, dtype=np.uint8 if tags.bits[0] == 8 else np.uint16)


def _of_plane(values: tuple[int, ...], plane: int | None, tags: Tags) -> list[int]:
    """The offsets or sizes of the strips or tiles of one plane, or with None all of them."""
    (height, width), get = tags.size_hw, tags.directory.get
    rows = get(_TILE_HEIGHT, get(_ROWS_PER_STRIP, height))
    each = -(-height // rows) * -(-width // get(_TILE_WIDTH, width))
    if len(values) != each * (1 if plane is None else tags.samples):
        raise UnreadableImage("cannot be decoded: a TIFF of which strips or tiles are missing")
    first = each * (plane or 0)
    return list(values[first : first + each])


def _with_directory(content: bytes, order: str, fields: dict[int, list[int]]) -> io.BytesIO:
    """A TIFF with the same data and another directory, which is appended; BigTIFF becomes a classic TIFF."""
    start = len(content) + len(content) % 2
    arrays, entries = b"", b""
    for tag, values in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, arrays = struct.pack(f"{order}I", start + len(arrays)), arrays + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed  # 4: 32-bit numbers
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start + len(arrays))
    file = io.BytesIO(content)
    file.write(header)
    file.seek(start)
    file.write(arrays + struct.pack(f"{order}H", len(fields)) + entries + bytes(4))
    file.seek(0)
    return file


def _undo_differences(pixels: np.ndarray, tile_width: int) -> None:
    """Undo the predictor: each sample of a tile was stored as the difference to the one on its left."""
    for left in range(0, pixels.shape[1], tile_width):
        tile = pixels[:, left : left + tile_width]
        np.add.accumulate(tile, axis=1, out=tile)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, from what an EXIF orientation says of its rows and columns."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
