"""The pictures of a report: thumbnails, and maps as small palette images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lost_reg.discovery.maps import Maps
from lost_reg.errors import UnreadableImage
from lost_reg.files import whole_file
from lost_reg.images.reading import Reading, read_image, scaled
from lost_reg.masks.grids import in_pixels
from lost_reg.runs.folder import MAPS_FOLDER
from lost_reg.runs.pictures import MASK_COLOURS, MASK_OPACITY
from lost_reg.types import Prediction

THUMBNAIL_SIDE = 640  # of the large view, and for sharp screens
THUMBNAILS_FOLDER = "thumbnails"
PICTURE_FOLDERS = (THUMBNAILS_FOLDER, MAPS_FOLDER)
FORMAT_OF = {"jpg": "JPEG", "png": "PNG"}
AFFINITIES = "affinities"  # the name of a map
# The entries of a picture's palette: first the levels of a map, then three for the mask over the image.
_LEVELS = 253
_OTHER_COMPONENT, _OUTSIDE, _COMPONENT = 253, 254, 255
_MOST_IN_ROW = 6  # of the maps of a token's heads
_OPACITIES = bytes([255] * _LEVELS + [110, 200, 0])
_RAMP = ((10, 8, 38), (62, 22, 98), (138, 36, 106), (208, 66, 74), (245, 138, 44), (252, 226, 128))


class Pictures:
    """Writes pictures named after a hash of their content.

    So no image name becomes a path, and no picture takes the place of another that an earlier page shows.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.failed = 0
        self._written: set[str] = set()

    def thumbnail(self, path: Path | None, reading: Reading) -> tuple[str | None, tuple[int, int] | None]:
        """The path of a thumbnail in the folder, and the image's size; both None if it cannot be read."""
        try:
            if path is None:
                raise UnreadableImage("no such file")
            pixels = read_image(path, **reading)
        except UnreadableImage:
            self.failed += 1
            return None, None
        picture = Image.fromarray(scaled(pixels, THUMBNAIL_SIDE))
        return self._save(picture, THUMBNAILS_FOLDER, "jpg", quality=82), pixels.shape[:2]

    def maps(self, maps: Maps) -> str:
        """The path of all maps in one picture: see `maps_picture`."""
        return self._save(maps_picture(maps), MAPS_FOLDER, "png", transparency=_OPACITIES)

    def heads(self, weights: np.ndarray) -> str:
        """The path of a picture of a token's attention: see `heads_picture`."""
        return self._save(heads_picture(weights), MAPS_FOLDER, "png", transparency=_OPACITIES)

    def masks(self, prediction: Prediction) -> str:
        """The path of a picture of the objects' masks, see `masks_picture`."""
        opacities = bytes([0] + [round(255 * MASK_OPACITY)] * len(MASK_COLOURS))
        return self._save(masks_picture(prediction), MAPS_FOLDER, "png", transparency=opacities)

    def _save(self, picture: Image.Image, kind: str, suffix: str, **options) -> str:
        encoded = io.BytesIO()
        picture.save(encoded, FORMAT_OF[suffix], **options)
        content = encoded.getvalue()
        name = f"{kind}/{hashlib.sha256(content).hexdigest()[:20]}.{suffix}"
        if name not in self._written:
            with whole_file(self.folder / name, among_many=True) as part:
                part.write_bytes(content)
            self._written.add(name)
        return name

    def remove_others(self) -> None:
        """Remove the pictures of earlier reports, or of reports that were not finished."""
        for kind in PICTURE_FOLDERS:
            for path in (self.folder / kind).iterdir():
                if f"{kind}/{path.name}" not in self._written and path.is_file():
                    with contextlib.suppress(OSError):
                        path.unlink()


def maps_picture(maps: Maps) -> Image.Image:
    """All maps and the mask, stacked: a pixel for each patch, and one more row at the top and bottom of each.

    In the palette, the levels of a map go from dark to bright, and no positive affinity has the colour of
    zero. In the mask, the component that contains the seed is clear, the others are dimmed, the rest is
    dark.
    """
    drawn = [
        _affinity_levels(one) if name == AFFINITIES else _levels(one) for name, one in maps.values.items()
    ]
    mask = np.where(maps.mask, _OTHER_COMPONENT, _OUTSIDE).astype(np.uint8)
    mask[_component(maps.mask, maps.seed)] = _COMPONENT
    # first and last rows are repeated: scaled up, a map's edge may show a sliver of what is beyond it
    stacked = np.concatenate([np.pad(one, ((1, 1), (0, 0)), mode="edge") for one in (*drawn, mask)])
    return _with_palette(stacked)


def heads_picture(weights: np.ndarray) -> Image.Image:
    """Maps beside each other in rows of nearly equal length, a clear pixel between them: (M, rows, columns).

    Each map has its own levels, as in `maps_picture`.
    """
    columns = math.ceil(len(weights) / math.ceil(len(weights) / _MOST_IN_ROW))
    tiles = [np.pad(_levels(one), ((0, 1), (0, 1)), constant_values=_COMPONENT) for one in weights]
    tiles += [np.full_like(tiles[0], _COMPONENT)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return _with_palette(np.concatenate(rows)[:-1, :-1])


def masks_picture(prediction: Prediction) -> Image.Image:
    """The masks of an image's objects as large as its thumbnail: colours on clear, earlier above later ones.

    Raises:
        ValueError: a malformed mask.
    """
    scale = min(1.0, THUMBNAIL_SIDE / max(prediction.size_hw))
    height, width = (max(1, round(side * scale)) for side in prediction.size_hw)
    colours = np.zeros((height, width), np.uint8)
    for index, one in reversed([*enumerate(prediction.objects)]):
        if one.mask:
            inside = in_pixels(one.mask, prediction.size_hw, (height, width))
            colours[inside] = 1 + index % len(MASK_COLOURS)
    picture = Image.fromarray(colours)
    picture.putpalette([0, 0, 0, *(channel for colour in MASK_COLOURS for channel in colour)])
    return picture


def _with_palette(levels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(levels)
    picture.putpalette([channel for colour in ramp() for channel in colour] + [0, 0, 0] * 3)
    return picture


def _affinity_levels(affinities: np.ndarray) -> np.ndarray:
    """Levels from 0, which only patches with zero affinity get."""
    levels = _levels(affinities, low=0.0)
    levels[(affinities > 0) & (levels == 0)] = 1
    return levels


def _component(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The 4-connected component of a mask that contains the seed, (rows, columns) bool; empty without one."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return mask & (labels == labels[seed])


def _levels(values: np.ndarray, low: float | None = None) -> np.ndarray:
    low = float(values.min()) if low is None else low
    spread = float(values.max()) - low
    return np.rint((values - low) * ((_LEVELS - 1) / spread if spread > 0 else 0)).astype(np.uint8)


@cache
def ramp() -> tuple[tuple[int, int, int], ...]:
    """The colours of a map's levels, from dark to bright."""
    anchors = np.array(_RAMP, float)
    at = np.linspace(0, len(anchors) - 1, _LEVELS)
    channels = [np.interp(at, range(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return tuple(zip(*(np.rint(channel).astype(int).tolist() for channel in channels)))
