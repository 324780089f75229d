"""Images with classes, in a training, a validation and a test split. Does not import torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.images.decoding import ImageInput
from lost_reg.probing.records import Measure
from lost_reg.text import counted

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# What is drawn where a dataset has no split of its own.
VAL_SHARE = 0.1  # of the training images, as DINOv2's logistic regression draws
TEST_SHARE = 0.2


@dataclass(frozen=True)
class LabelledPart:
    """Images of one split.

    images: paths, or (H, W, 3) uint8 arrays.
    labels: (n,) int64, the index of each image's class; or (n, K) int8, for images of several classes: 1 of
        the class, 0 not of it, -1 not counted where it is scored, and learned from as not of it.
    """

    names: Sequence[str]
    images: Sequence[ImageInput]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def digest(self) -> str:
        """SHA-256 of names and classes, and of the size and time of change of each file."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for name, image in zip(self.names, self.images):
            changed = (image.stat().st_size, image.stat().st_mtime_ns) if _is_file(image) else ()
            digest.update(f"{name} {changed}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def of(self, indices: np.ndarray) -> LabelledPart:
        """Some of the images: `indices` is (m,) int64, or (n,) bool."""
        chosen = np.arange(len(self))[indices].tolist()
        names, images = ([of[index] for index in chosen] for of in (self.names, self.images))
        return LabelledPart(names, images, self.labels[indices])


def _is_file(image: ImageInput) -> TypeGuard[Path]:
    return isinstance(image, Path) and image.is_file()


@dataclass(frozen=True)
class LabelledDataset:
    """A dataset of images with classes.

    name: as in the table, or the absolute path of a user's own.
    classes: the names of the K classes, by their index.
    measure: which one its benchmark uses.
    split_by: how the splits came about, for results: "official", or what was drawn.
    apply_exif: whether the EXIF orientation of its files is applied.
    limit: see `limited`.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[Split, LabelledPart]
    measure: Measure = "top1"
    split_by: str = "official"
    apply_exif: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        """Raises LostRegError for a dataset that nothing can be learned from."""
        test = self.parts["test"]
        if len(self.classes) < 2:
            one = f"only the class {self.classes[0]!r}" if self.classes else "no class"
            raise LostRegError(f"{self.name} has {one}: a probe needs at least two")
        if not len(test) or not len(self.parts["val"]):
            lacking = "test" if not len(test) else "validation"
            raise LostRegError(f"{self.name} has no {lacking} image: a probe needs some")

    def check_trainable(self) -> None:
        """Raises LostRegError if there are fewer training images than classes."""
        if len(self.parts["train"]) < len(self.classes):
            raise LostRegError(
                f"{self.name} has fewer training images than classes: {len(self.parts['train']):,} of "
                f"{counted(len(self.classes), 'class')}"
            )

    @property
    def title(self) -> str:
        """Its counts, such as "10 classes, 540 training, 60 validation and 200 test images"."""
        sizes = {split: f"{len(part):,}" for split, part in self.parts.items()}
        classes = counted(len(self.classes), "class")
        return (
            f"{classes}, {sizes['train']} training, {sizes['val']} validation and "
            f"{counted(len(self.parts['test']), 'test image')}"
        )

    def limited(self, most: int | None, seed: int) -> LabelledDataset:
        """With at most this many images of each split, drawn at random, of each class in proportion."""
        if most is None:
            return self
        parts = {
            split: part.of(draw(part.labels, min(most, len(part)), seed))
            for split, part in self.parts.items()
        }
        return replace(self, parts=parts, limit=most)


def with_drawn_splits(
    classes: tuple[str, ...],
    parts: dict[Split, LabelledPart],
    seed: int,
    before: tuple[str, ...] = (),
    **facts: Any,
) -> LabelledDataset:
    """A dataset whose missing validation and test images are drawn from the training images.

    Args:
        parts: "train", and those of "val" and "test" that there are; labels are (n,).
        before: what was drawn before, in words.
        facts: the other fields of `LabelledDataset`.

    Raises:
        LostRegError: see `LabelledDataset`.
    """
    given, parts, drawn = parts, dict(parts), list(before)
    shares: tuple[tuple[Split, float], ...] = (("test", TEST_SHARE), ("val", VAL_SHARE))
    for split, share in shares:
        if split not in parts:
            train = parts["train"]
            chosen = _spare(train.labels, round(share * len(train)), seed)
            parts["train"], parts[split] = train.of(~chosen), train.of(chosen)
            of = " of train" if "test" in given else " of the rest" if drawn else ""
            drawn.append(f"{100 * share:g} %{of} for {split}")
    by = f"drawn with seed {seed}: {', '.join(drawn)}" if drawn else "official"
    ordered = {split: parts[split] for split in SPLITS}
    return LabelledDataset(classes=classes, parts=ordered, split_by=by, **facts)


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw images at random, of each class in proportion: sorted indices, (count,) int64.

    The images are put in order by class, at random within each, and every n-th is taken (systematic
    sampling).

    Args:
        labels: (n,) int64; or (n, K) int8, of which the first class of each image counts.
    """
    order = _by_class(labels, seed)
    places = (np.arange(count) + 0.5) * len(order) / max(count, 1)
    return np.sort(order[places.astype(np.int64)])


def _spare(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(n,) bool: as `draw`, but one image of each class is never taken; at least one image, if possible."""
    order = _by_class(labels, seed)
    others = order[1:][np.diff(labels[order]) == 0]  # without the first of each class
    count = min(max(count, 1), len(others))
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[others[draw(labels[others], count, seed)]] = True
    return chosen


def _by_class(labels: np.ndarray, seed: int) -> np.ndarray:
    first = labels.argmax(axis=1) if labels.ndim == 2 else labels
    return np.lexsort((np.random.default_rng(seed).random(len(labels)), first))
