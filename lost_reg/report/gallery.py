"""The images of a report: what each run found in them, thumbnails, and maps as small pictures.

All that a page shows of an image is in fractions of its width and height, so that it fits any thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lost_reg.boxes import IOU_THRESHOLD, iou
from lost_reg.datasets.catalog import Dataset
from lost_reg.discovery.maps import Maps
from lost_reg.errors import LostRegError, UnreadableImage, one_line
from lost_reg.images.reading import limit_side, read_image
from lost_reg.runs.folder import MAPS_FOLDER, Results
from lost_reg.runs.map_files import maps_path, read_maps
from lost_reg.scoring.prediction_files import match_images
from lost_reg.types import Box, ImageTruth, Prediction

THUMBNAIL_SIDE = 320
THUMBNAILS_FOLDER = "thumbnails"
# The entries of a picture's palette: levels of a map first, then three for what lies over the image.
_LEVELS = 253
_OTHER_COMPONENT, _OUTSIDE, _COMPONENT = 253, 254, 255
_RAMP = ((10, 8, 38), (62, 22, 98), (138, 36, 106), (208, 66, 74), (245, 138, 44), (252, 226, 128))


@dataclass(frozen=True)
class GalleryRun:
    """One run whose images are shown.

    name: its backbone with all that sets it apart from other runs of the dataset.
    dataset: its ground truth, or None for a run on files of the user's own.
    """

    name: str
    results: Results
    dataset: Dataset | None
    count_hard: bool = True

    @property
    def dataset_key(self) -> str:
        """What runs on the same images share."""
        if self.dataset is None:
            return str(self.results.record.get("root", self.results.folder))
        return f"{self.dataset.name} {self.dataset.split}"


def write_gallery(
    runs: Sequence[GalleryRun],
    folder: Path,
    max_images: int,
    progress: Callable[[int, int, int], None] = lambda done, failed, total: None,
) -> dict[str, Any]:
    """Write thumbnails and maps into a folder, and give what the page needs to know of the images.

    Args:
        max_images: how many images of each dataset are shown at most, evenly spaced among all of it.
        progress: called with the images done, those of them without a picture, and all.

    Returns:
        The data of the page, which json can write; names in it are as they are, not escaped.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    groups: dict[str, list[GalleryRun]] = {}
    for run in runs:
        groups.setdefault(run.dataset_key, []).append(run)
    names = list(dict.fromkeys(run.name for run in runs))
    loaded = [_Group(group, max_images) for group in groups.values()]
    total = sum(len(group.shown) for group in loaded)
    pictures = _Pictures(folder)
    items = []
    for index, group in enumerate(loaded):
        for image in group.shown:
            items.append({"dataset": index, **_item(group, image, names, pictures)})
            progress(len(items) - pictures.failed, pictures.failed, total)
    return {
        "runs": names,
        "datasets": [group.facts(names) for group in loaded],
        "threshold": IOU_THRESHOLD,
        "items": items,
        "without_picture": pictures.failed,
    }


class _Group:
    """The runs on one dataset, with their predictions by the dataset's image names."""

    def __init__(self, runs: list[GalleryRun], max_images: int):
        self.runs = runs
        self.dataset = runs[0].dataset
        self.predictions = [self._by_name(run.results.predictions) for run in runs]
        self.failures = [self._by_name(run.results.failures) for run in runs]
        done = {name for outcomes in (*self.predictions, *self.failures) for name in outcomes}
        images = [name for name in self.dataset.images if name in done] if self.dataset else sorted(done)
        self.images = len(images)
        self.shown = evenly_spaced(images, max_images)

    def _by_name(self, outcomes: dict[str, Any]) -> dict[str, Any]:
        return match_images(outcomes, self.dataset.truths) if self.dataset else outcomes

    def truth(self, image: str) -> ImageTruth | None:
        """The objects that count, or None if there is no ground truth."""
        if self.dataset is None:
            return None
        truth = self.dataset.truths[image]
        kept = [index for index, hard in enumerate(truth.hard) if not hard or self.runs[0].count_hard]
        return replace(
            truth,
            boxes_xyxy=tuple(truth.boxes_xyxy[index] for index in kept),
            labels=tuple(truth.labels[index] for index in kept),
            hard=tuple(truth.hard[index] for index in kept),
        )

    def file(self, image: str) -> tuple[Path, bool]:
        """The image's file, and whether its EXIF orientation is applied."""
        record = self.runs[0].results.record
        recorded = next((p[image].image for p in (*self.predictions, *self.failures) if image in p), image)
        places = [Path(record.get("root", "")) / recorded]
        if self.dataset:
            places.insert(0, self.dataset.root / image)
        path = next((place for place in places if place.is_file()), places[0])
        return path, bool(self.runs[0].results.settings.get("apply_exif"))

    def facts(self, names: list[str]) -> dict[str, Any]:
        title = f"{self.dataset.title} {self.dataset.split}" if self.dataset else None
        title = title or Path(self.runs[0].dataset_key).name or "images"
        runs = [names.index(run.name) for run in self.runs]
        return {"name": one_line(title), "images": self.images, "shown": len(self.shown), "runs": runs}


def evenly_spaced(images: Sequence[str], most: int) -> list[str]:
    """At most so many of the images, in their order, from all parts of it."""
    if len(images) <= most:
        return list(images)
    return [images[index * len(images) // most] for index in range(most)]


def _item(group: _Group, image: str, names: list[str], pictures: _Pictures) -> dict[str, Any]:
    """What the page knows of one image."""
    truth = group.truth(image)
    if any(image in predictions for predictions in group.predictions):
        thumbnail, size_hw = pictures.thumbnail(*group.file(image))
    else:  # it could not be read, which may have taken a process down: it is not tried in this one
        thumbnail, size_hw = None, None
    entries = {}
    for run, predictions, failures in zip(group.runs, group.predictions, group.failures):
        if image in predictions:
            entry = _entry(run, predictions[image], truth, pictures)
        elif image in failures:
            entry = {
                "failure": one_line(failures[image].reason),
                "iou": 0.0 if truth and truth.boxes_xyxy else None,
            }
        else:
            continue
        entries[names.index(run.name)] = entry
    if size_hw is None:
        found = next((p[image].size_hw for p in group.predictions if image in p), None)
        size_hw = found or (truth and truth.size_hw) or (3, 4)
    return {
        "name": one_line(image),
        "thumbnail": thumbnail,
        "size_hw": size_hw,
        "truth": [_fractions(box, truth.size_hw) for box in truth.boxes_xyxy] if truth else [],
        "labels": [one_line(label) for label in dict.fromkeys(truth.labels)] if truth else [],
        "entries": entries,
    }


def _entry(
    run: GalleryRun, prediction: Prediction, truth: ImageTruth | None, pictures: _Pictures
) -> dict[str, Any]:
    """What the page knows of one run's outcome in one image."""
    entry: dict[str, Any] = {
        "box": _fractions(prediction.box_xyxy, prediction.size_hw),
        "iou": best_iou(prediction.box_xyxy, truth) if truth else None,
        "seed": _seed_box(prediction.seed, prediction.grid_hw, (1.0, 1.0)),
        "degree": prediction.degree,
    }
    if prediction.further:
        entry["further"] = [_fractions(one.box_xyxy, prediction.size_hw) for one in prediction.further]
    path = maps_path(run.results.folder / MAPS_FOLDER, prediction.image)
    if path.is_file():
        try:
            maps = read_maps(path)
        except LostRegError as error:
            return {**entry, "maps_error": one_line(str(error))}
        entry["seed"] = _seed_box(maps.seed, maps.mask.shape, maps.covered_hw)
        entry["maps"] = {
            "picture": pictures.maps(maps),
            "rows": maps.mask.shape[0],
            "covered_hw": [round(float(share), 5) for share in maps.covered_hw],
            "ranges": [
                [_short(values.min()), _short(values.max())]
                for values in (maps.norms, maps.degrees, maps.affinities)
            ],
        }
    return entry


def best_iou(box: Box, truth: ImageTruth) -> float | None:
    """The IoU with the object that a box fits best; None if the image has no object."""
    return float(iou(box, np.array(truth.boxes_xyxy)).max()) if truth.boxes_xyxy else None


def _fractions(box: Box, size_hw: tuple[int, int]) -> list[float]:
    height, width = size_hw
    return [round(side / length, 4) for side, length in zip(box, (width, height, width, height))]


def _seed_box(seed, grid_hw, covered_hw) -> list[float]:
    """The seed's patch in fractions of the image, of which the grid covers a little more."""
    (row, column), (rows, columns), (high, wide) = seed, grid_hw, covered_hw
    box = column, row, column + 1, row + 1
    sides = columns * wide, rows * high, columns * wide, rows * high
    return [round(side / length, 4) for side, length in zip(box, sides)]


def _short(value: float) -> float:
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(float(value)))


# --- pictures -----------------------------------------------------------------------------------------


class _Pictures:
    """Writes pictures, numbered: no name from outside becomes a path."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.failed = 0
        self._count = {THUMBNAILS_FOLDER: 0, MAPS_FOLDER: 0}

    def thumbnail(self, path: Path, apply_exif: bool) -> tuple[str | None, tuple[int, int] | None]:
        """A thumbnail's path in the folder, and the size of the image; None for one that cannot be read."""
        try:
            pixels = read_image(path, apply_exif=apply_exif)
        except UnreadableImage:
            self.failed += 1
            return None, None
        picture = Image.fromarray(limit_side(pixels, THUMBNAIL_SIDE))
        return self._save(picture, THUMBNAILS_FOLDER, "jpg", quality=82), pixels.shape[:2]

    def maps(self, maps: Maps) -> str:
        """The path of four maps in one picture, one below the other: see `maps_picture`."""
        return self._save(maps_picture(maps), MAPS_FOLDER, "png", transparency=_transparency())

    def _save(self, picture: Image.Image, kind: str, suffix: str, **options) -> str:
        self._count[kind] += 1
        name = f"{kind}/{self._count[kind]:06}.{suffix}"
        try:
            picture.save(self.folder / name, **options)
        except OSError as error:
            raise LostRegError(f"cannot write {self.folder / name}: {error.strerror or error}") from None
        return name


def maps_picture(maps: Maps) -> Image.Image:
    """Token norms, degrees, affinities to the seed, and the expansion mask, one below the other.

    A pixel for each patch, and a row more above and below each map. By the palette, levels of a map go from
    dark to bright, and no affinity that is positive has the colour of none; of the mask the component that
    holds the seed is clear, its other components are dimmed and the rest is dark.
    """
    affinities = _levels(maps.affinities, low=0.0)
    affinities[(maps.affinities > 0) & (affinities == 0)] = 1
    mask = np.where(maps.mask, _OTHER_COMPONENT, _OUTSIDE).astype(np.uint8)
    mask[_component(maps.mask, maps.seed)] = _COMPONENT
    four = _levels(maps.norms), _levels(maps.degrees), affinities, mask
    # each with its first and last row twice: scaled up, a map's edge may show a sliver of what is beyond it
    stacked = np.concatenate([np.pad(one, ((1, 1), (0, 0)), mode="edge") for one in four])
    picture = Image.fromarray(stacked)
    picture.putpalette(_palette())
    return picture


def _component(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The 4-connected component of a mask that holds the seed: (rows, columns) bool."""
    mask = mask.astype(np.uint8)
    mask[seed] = 1
    _, labels = cv2.connectedComponents(mask, connectivity=4)
    return labels == labels[seed]


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


def _palette() -> list[int]:
    return [channel for colour in ramp() for channel in colour] + [0, 0, 0] * 3


def _transparency() -> bytes:
    """How opaque each entry of the palette is."""
    return bytes([255] * _LEVELS + [110, 200, 0])
