"""The datasets with classes that torchvision loads. torchvision finds, checks and downloads them.

Their images stay paths where they are files, so that lost-reg's own processes decode them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.probing.labelled import LabelledPart, Split

# The classes' names, and those of the splits that the dataset has.
Parts = tuple[tuple[str, ...], dict[Split, LabelledPart]]
CALTECH_TRAINING = 30  # images of each class, as is usual

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def by_loader(kind: str, *splits: Split) -> Callable[[Path, bool, int], Parts]:
    """How a dataset is read that takes a `loader`: a function (data root, download, seed) -> `Parts`.

    Args:
        kind: its class in torchvision.datasets.
        splits: those that it has; without any, it is one set.
    """

    def read(root: Path, download: bool, seed: int) -> Parts:
        make = _maker(kind, root, download)
        if "loader" not in inspect.signature(make).parameters:
            raise LostRegError(
                f"torchvision's {kind} cannot give the paths of its images: install a newer torchvision"
            )
        sets = {split: make(split=split, loader=Path) for split in splits} or {"train": make(loader=Path)}
        parts = {split: _of_paths(one, root) for split, one in sets.items()}
        return tuple(next(iter(sets.values())).classes), parts

    return read


def cifar(kind: str) -> Callable[[Path, bool, int], Parts]:
    """As `by_loader`, for CIFAR10 and CIFAR100, which are arrays."""

    def read(root: Path, download: bool, seed: int) -> Parts:
        make = _maker(kind, root, download)
        sets: dict[Split, Any] = {"train": make(train=True), "test": make(train=False)}
        parts = {
            split: LabelledPart(
                [f"{split}/{index:05d}" for index in range(len(one.data))], one.data, np.array(one.targets)
            )
            for split, one in sets.items()
        }
        return tuple(sets["train"].classes), parts

    return read


def caltech101(root: Path, download: bool, seed: int) -> Parts:
    """Caltech101: 30 images of each class, drawn with the seed, for training, and the others for testing."""
    one = _maker("Caltech101", root, download)()
    folder = Path(one.root) / "101_ObjectCategories"
    paths = [folder / one.categories[y] / f"image_{index:04d}.jpg" for y, index in zip(one.y, one.index)]
    every = _part(root, paths, one.y)
    order = np.lexsort((np.random.default_rng(seed).random(len(every)), every.labels))
    _, starts = np.unique(every.labels[order], return_index=True)
    rank = np.arange(len(order)) - starts[every.labels[order]]  # within its class
    is_train = rank < CALTECH_TRAINING
    train, test = (every.of(np.sort(order[chosen])) for chosen in (is_train, ~is_train))
    return tuple(one.categories), {"train": train, "test": test}


def pets(root: Path, download: bool, seed: int) -> Parts:
    """The 37 breeds of OxfordIIITPet, by its lists, because torchvision decodes its images itself."""
    make = _maker("OxfordIIITPet", root, download)
    sets: dict[Split, Any] = {"train": make(split="trainval"), "test": make(split="test")}
    folder = root / "oxford-iiit-pet"
    parts: dict[Split, LabelledPart] = {}
    lists: tuple[tuple[Split, str], ...] = (("train", "trainval"), ("test", "test"))
    for split, name in lists:
        rows = [line.split() for line in (folder / "annotations" / f"{name}.txt").read_text().splitlines()]
        paths = [folder / "images" / f"{row[0]}.jpg" for row in rows]
        parts[split] = _part(root, paths, [int(row[1]) - 1 for row in rows])
    return tuple(sets["train"].classes), parts


def voc07(root: Path, download: bool, seed: int) -> Parts:
    """VOC2007's classification: an image can be of several of 20 classes.

    One whose objects of a class are all difficult is scored neither as of this class nor as not of it, as in
    VOC's development kit.
    """
    make = _maker("VOCDetection", root, download)
    parts: dict[Split, LabelledPart] = {}
    lists = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    for split in _SPLITS:
        missing = not (lists / f"{split}.txt").is_file()  # torchvision would download what is there again
        one = make(year="2007", image_set=split, download=download and missing)
        images = [Path(path) for path in one.images]
        end = f"_{split}.txt"
        classes = tuple(sorted(path.name.removesuffix(end) for path in lists.glob(f"*{end}")))
        columns = [_presence(lists / f"{name}{end}") for name in classes]
        labels = [[column.get(image.stem, 0) for column in columns] for image in images]
        parts[split] = _part(root, images, np.array(labels, dtype=np.int8).reshape(len(images), -1))
    return classes, parts


def _presence(path: Path) -> dict[str, int]:
    """The labels of one class by VOC's list: lines of an image and 1 (there), 0 (only difficult) or -1."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {name: {"1": 1, "0": -1}.get(value, 0) for name, value in rows}


def _maker(kind: str, root: Path, download: bool) -> Callable[..., Any]:
    """torchvision's class of a dataset, with its root; it downloads what is missing, if it shall."""
    from torchvision import datasets  # slow to import

    made = getattr(datasets, kind)
    if download:
        root.mkdir(parents=True, exist_ok=True)

    def make(**options: Any) -> Any:
        return made(root, **{"download": download, **options})

    make.__signature__ = inspect.signature(made)  # type: ignore[attr-defined]
    return make


def _of_paths(dataset: Any, root: Path) -> LabelledPart:
    pairs = [dataset[index] for index in range(len(dataset))]  # paths, by the `loader`
    return _part(root, [path for path, _ in pairs], [label for _, label in pairs])


def _part(root: Path, paths: list[Path], labels: Iterable[Any]) -> LabelledPart:
    names = [path.relative_to(root).as_posix() for path in paths]
    return LabelledPart(names, paths, np.array(labels))
