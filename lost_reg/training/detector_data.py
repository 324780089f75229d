"""The images and boxes that a detector is trained on: those of a run, in an order given by the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.reading import as_recorded, read_image
from lost_reg.runs.folder import RUN_FILE, find_runs, read_outcomes, read_run_record
from lost_reg.runs.image_folder import RECORDED, ImageFolder, ImageRoot, image_folder
from lost_reg.text import counted, shown_names
from lost_reg.training.detector_config import DetectorConfig
from lost_reg.training.ranks import ALONE, Ranks
from lost_reg.types import Box, Prediction

ONE_CLASS = "object"
FEWEST_IMAGES = 2

Target = dict[str, Tensor]  # boxes (N, 4) xyxy in pixels of the scaled image, labels (N,) from 1


@dataclass(frozen=True)
class TrainingSet:
    """A run's boxes.

    run: its folder.
    images: for each image with a box, its name, its boxes in pixels of the original, and their classes.
    folder: of its images.
    classes: their names; boxes' classes are indices into them. labelled: whether they are objects' labels.
    settings: the run's. digest: of the boxes. sizes_hw: of the images in the run.
    """

    run: Path
    folder: ImageFolder
    images: list[tuple[str, np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    labelled: bool
    settings: dict[str, Any]
    record: dict[str, Any]
    digest: str
    sizes_hw: dict[str, tuple[int, int]]

    @property
    def boxes(self) -> int:
        """How many boxes there are."""
        return sum(len(boxes) for _, boxes, _ in self.images)

    def read(self, index: int) -> np.ndarray:
        """An image's pixels, (H, W, 3) uint8, oriented as in the run.

        Raises:
            LostRegError: it cannot be read.
        """
        name = self.images[index][0]
        try:
            path = self.folder.find(name)
            if path is None:
                raise UnreadableImage("no such file")
            pixels = read_image(path, **as_recorded(self.settings))
        except UnreadableImage as error:
            raise LostRegError(f"{name}: {error}; the training needs it again: `resume` continues") from None
        if pixels.shape[:2] != tuple(self.sizes_hw[name]):
            raise LostRegError(f"{path} has another size than in the run: its boxes do not fit")
        return pixels


def read_training_set(
    run: Path, *, classes: bool = False, image_root: ImageRoot = RECORDED, limit: int | None = None
) -> TrainingSet:
    """The boxes of a run, and where its images are.

    Args:
        classes: whether the objects' labels are the classes; else all boxes are of one class.
        image_root: where the images are; by default where they were.
        limit: use only the first images with a box, in the order of their names.

    Raises:
        LostRegError: no run, no boxes, too few images, missing files, or an object without a label.
    """
    if not (run / RUN_FILE).is_file():
        found = find_runs(run)  # raises if there is none at all
        raise LostRegError(f"{str(run)!r} holds runs: name one of them, such as {str(found[0])!r}")
    record = read_run_record(run)
    predictions = {one.image: one for one in read_outcomes(run)}  # an image listed twice counts once
    with_box = [predictions[name] for name in sorted(predictions) if _boxes(predictions[name])][:limit]
    if not with_box:
        raise LostRegError(f"{str(run)!r} holds no boxes to train on")
    if len(with_box) < FEWEST_IMAGES:
        raise LostRegError(
            f"{str(run)!r} has 1 image with a box, which is too few: expected at least {FEWEST_IMAGES}"
        )
    names = _classes(run, with_box) if classes else (ONE_CLASS,)
    folder = image_folder(run, record, image_root)
    folder.find_all(one.image for one in with_box)
    images = [(one.image, *_arrays(one, names if classes else None)) for one in with_box]
    sizes = {one.image: one.size_hw for one in with_box}
    digest = _digest(images, names)
    return TrainingSet(run, folder, images, names, classes, record["settings"], record, digest, sizes)


def _boxes(prediction: Prediction) -> list[tuple[Box, str | None]]:
    """The boxes within an image, which are not empty, and their labels."""
    height, width = prediction.size_hw
    found = []
    for one in prediction.objects:
        xmin, ymin, xmax, ymax = one.box_xyxy
        box = max(0, xmin), max(0, ymin), min(width, xmax), min(height, ymax)
        if box[2] - box[0] > 1e-3 and box[3] - box[1] > 1e-3:
            found.append((box, one.label))
    return found


def _classes(run: Path, predictions: list[Prediction]) -> tuple[str, ...]:
    labels = {label for one in predictions for _, label in _boxes(one)}
    unlabelled = [one.image for one in predictions if any(label is None for _, label in _boxes(one))]
    if unlabelled:
        raise LostRegError(
            f"objects of {counted(len(unlabelled), 'image')} of {str(run)!r} have no label "
            f"({shown_names(unlabelled)}): `lost-reg cluster` gives them; or train without `classes`"
        )
    return tuple(sorted(label for label in labels if label is not None))


def _arrays(prediction: Prediction, names: tuple[str, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    boxes = _boxes(prediction)
    labels = [names.index(label) if names and label else 0 for _, label in boxes]
    return np.array([box for box, _ in boxes], np.float64), np.array(labels, np.int64)


def _digest(images: list[tuple[str, np.ndarray, np.ndarray]], names: tuple[str, ...]) -> str:
    """What tells the boxes and classes of one training from those of another."""
    hasher = hashlib.sha256(repr(names).encode("utf-8", "surrogatepass"))
    for name, boxes, labels in images:
        hasher.update(name.encode("utf-8", "surrogatepass") + boxes.tobytes() + labels.tobytes())
    return hasher.hexdigest()


# --- the images of each step -------------------------------------------------------------------------


def scaled_hw(size_hw: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """The size of an image whose shorter side becomes `min_size`, unless the longer exceeds `max_size`."""
    scale = min(min_size / min(size_hw), max_size / max(size_hw))
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width


def as_tensor(pixels: np.ndarray, size_hw: tuple[int, int]) -> Tensor:
    """An image, (H, W, 3) uint8, scaled to a size: (3, height, width) uint8. Shrinking averages areas."""
    if pixels.shape[:2] != size_hw:
        shrinks = size_hw[0] * size_hw[1] < pixels.shape[0] * pixels.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, size_hw[::-1], interpolation=how)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def scaled_boxes(boxes_xyxy: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """(N, 4) boxes of an image of one size, in an image of another."""
    (height, width), (new_height, new_width) = from_hw, to_hw
    return boxes_xyxy * np.array([new_width, new_height] * 2) / np.array([width, height] * 2)


def flipped_boxes(boxes_xyxy: np.ndarray, width: int) -> np.ndarray:
    """(N, 4) boxes of an image that is mirrored left to right."""
    xmin, ymin, xmax, ymax = boxes_xyxy.T
    return np.stack([width - xmax, ymin, width - xmin, ymax], axis=1)


class Steps(Dataset):
    """The share of each step's images that a rank trains on: [step] is a list of images with targets.

    All epochs are permutations by seed and epoch, and what is random in an image depends on the seed and its
    place alone. So a step's images are the same after a resumption, and for any number of ranks.
    """

    def __init__(self, data: TrainingSet, config: DetectorConfig, ranks: Ranks = ALONE):
        if config.batch_size % ranks.count:
            raise LostRegError(
                f"a `batch_size` of {config.batch_size} cannot be shared by {counted(ranks.count, 'rank')}: "
                "expected a multiple"
            )
        self._data, self._config, self._ranks = data, config, ranks
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, step: int) -> list[tuple[Tensor, Target]]:
        share = self._config.batch_size // self._ranks.count
        first = step * self._config.batch_size + self._ranks.rank * share
        return [self._image(place) for place in range(first, first + share)]

    def index_at(self, place: int) -> int:
        """The image that is used at this place in the whole training."""
        epoch, within = divmod(place, len(self._data.images))
        if self._order[0] != epoch:
            random = np.random.default_rng((self._config.seed, 0, epoch))
            self._order = epoch, random.permutation(len(self._data.images))
        return int(self._order[1][within])

    def _image(self, place: int) -> tuple[Tensor, Target]:
        index = self.index_at(place)
        _, boxes, labels = self._data.images[index]
        random = np.random.default_rng((self._config.seed, 1, place))
        pixels = self._data.read(index)
        original_hw = pixels.shape[:2]
        size_hw = scaled_hw(original_hw, int(random.choice(self._config.min_sizes)), self._config.max_size)
        boxes = scaled_boxes(boxes, original_hw, size_hw)
        image = as_tensor(pixels, size_hw)
        if random.random() < self._config.flip:
            image, boxes = image.flip(2), flipped_boxes(boxes, size_hw[1])
        target = {"boxes": torch.from_numpy(boxes).float(), "labels": torch.from_numpy(labels) + 1}
        return image, target


def steps_from(steps: Steps, first: int, workers: int) -> Iterator[list[tuple[Tensor, Target]]]:
    """The images of all steps from the first on, read by `workers` processes, or in this one if 0.

    Raises:
        LostRegError: an image that cannot be read.
    """
    loader = DataLoader(
        _OrErrors(steps), batch_size=None, sampler=range(first, len(steps)), num_workers=workers
    )
    for images in loader:
        if isinstance(images, LostRegError):
            raise images
        yield images


class _OrErrors(Dataset):
    """Steps, or the errors in their place: a worker would raise them with a traceback as their text."""

    def __init__(self, steps: Steps):
        self._steps = steps

    def __getitem__(self, step: int) -> list[tuple[Tensor, Target]] | LostRegError:
        try:
            return self._steps[step]
        except LostRegError as error:
            return error
