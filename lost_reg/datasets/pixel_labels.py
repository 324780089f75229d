"""Datasets that label each pixel with a class or a depth, in a PNG file beside each image.

Layouts of folders, by task:

- segmentation: ADE20k's (images/training, annotations/training, and the same with validation; labels 1 to
  150, and 0 for no class), VOC's (JPEGImages, SegmentationClass, ImageSets/Segmentation/train.txt and
  val.txt), or a user's own: train/images, train/labels, val/images and val/labels.
- depth: NYUd's, as toolboxes for depth estimation have it (nyu_train.txt and nyu_test.txt, whose lines name
  an image, its depths and a focal length), or a user's own: train/images, train/depths, and the same in val.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lost_reg.datasets.image_paths import ListedFolder
from lost_reg.datasets.mask_folders import by_stem
from lost_reg.errors import LostRegError
from lost_reg.files import read_text
from lost_reg.images.reading import readable_suffixes
from lost_reg.text import shown_names

_ADE20K_CLASSES, _VOC_CLASSES = 150, 21
_ADE20K_SPLITS = ("training", "validation")
NYU_HW = 480, 640
# Rows and columns that NYUd is scored on (Eigen et al. 2014): its photos have a white border.
_EIGEN_CROP = (slice(45, 471), slice(41, 601))
_NYU_LISTS = ("nyu_train.txt", "nyu_test.txt")


@dataclass(frozen=True)
class LabelledImage:
    """An image and the file that labels its pixels. name: its path below the dataset's folder."""

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class PixelDataset:
    """A dataset of labelled pixels.

    name: of the table, or the absolute path of its folder. layout: "ade20k", "voc", "nyud" or "own".
    classes: how many it has; None for depths, and for as many as occur. first: the label of the first one.
    scored: the rows and columns that count; None for all.
    """

    name: str
    layout: str
    train: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    classes: int | None = None
    first: int = 0
    scored: tuple[slice, slice] | None = None

    def digest(self) -> str:
        """SHA-256 of all names, and of the size and time of change of each file."""
        digest = hashlib.sha256()
        for one in (*self.train, *self.test):
            stats = [file.stat() for file in (one.image, one.labels) if file.is_file()]
            changed = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
            digest.update(f"{one.name} {changed}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def limited(self, limit: int | None, seed: int) -> PixelDataset:
        """With at most so many images of each split, which are drawn; None for all."""
        if limit is None:
            return self
        drawn = [random.Random(seed).sample(part, min(limit, len(part))) for part in (self.train, self.test)]
        train, test = (tuple(sorted(part, key=lambda one: one.name)) for part in drawn)
        return replace(self, train=train, test=test)


def find_segmentation(name: str, root: Path) -> PixelDataset:
    """A dataset with a class for each pixel: "ade20k" or "voc12" below the data root, or a folder.

    Raises:
        LostRegError: no such folder, one of another layout, or images without labels.
    """
    known = {"ade20k": "ADEChallengeData2016", "voc12": "VOCdevkit/VOC2012"}
    shown, folder = _folder(name, root, known)
    if (folder / "annotations" / "training").is_dir():
        train, test = (_paired(folder, f"images/{part}", f"annotations/{part}") for part in _ADE20K_SPLITS)
        return PixelDataset(shown, "ade20k", train, test, classes=_ADE20K_CLASSES, first=1)
    if (folder / "SegmentationClass").is_dir():
        train, test = (_listed_voc(folder, part) for part in ("train", "val"))
        return PixelDataset(shown, "voc", train, test, classes=_VOC_CLASSES)
    return _own(shown, folder, "labels", "ADE20k's or VOC's")


def find_depth(name: str, root: Path) -> PixelDataset:
    """A dataset with a depth for each pixel: "nyud" below the data root, or a folder.

    Raises:
        LostRegError: see `find_segmentation`.
    """
    shown, folder = _folder(name, root, {"nyud": "nyu"})
    if (folder / _NYU_LISTS[0]).is_file():
        train, test = (_listed_nyu(folder, part) for part in _NYU_LISTS)
        return PixelDataset(shown, "nyud", train, test, scored=_EIGEN_CROP)
    return _own(shown, folder, "depths", "NYUd's")


def _folder(name: str, root: Path, known: dict[str, str]) -> tuple[str, Path]:
    """The recorded name of a dataset, and its folder."""
    folder = root / known[name] if name in known else Path(name).absolute()
    if folder.is_dir():
        return (name if name in known else str(folder)), folder
    if name in known:
        raise LostRegError(
            f"{name} is not there: looked for {folder}; download it yourself, or give the path of its folder"
        )
    raise LostRegError(f"no such folder: {name!r}; the datasets with a name are {', '.join(known)}")


def _own(shown: str, folder: Path, labels: str, others: str) -> PixelDataset:
    missing = [
        f"{part}/{kind}"
        for part in ("train", "val")
        for kind in ("images", labels)
        if not (folder / part / kind).is_dir()
    ]
    if missing:
        raise LostRegError(
            f"{str(folder)!r} has neither {others} layout nor that of a folder of your own: it has no "
            f"{shown_names(missing, most=4)}"
        )
    train, test = (_paired(folder, f"{part}/images", f"{part}/{labels}") for part in ("train", "val"))
    return PixelDataset(shown, "own", train, test)


def _paired(folder: Path, images: str, labels: str) -> tuple[LabelledImage, ...]:
    """The images of one folder, with the PNG files of the same stems in another."""
    names = by_stem(folder / images, readable_suffixes())
    pngs = by_stem(folder / labels, (".png",))
    if not names:
        raise LostRegError(f"no images in {folder / images}")
    alone = [name for stem, name in sorted(names.items()) if stem not in pngs]
    if alone:
        raise LostRegError(f"{folder / labels} has no PNG file for {shown_names(alone)}: stems must be equal")
    return tuple(
        LabelledImage(f"{images}/{names[stem]}", folder / images / names[stem], folder / labels / pngs[stem])
        for stem in sorted(names)
    )


def _listed_voc(folder: Path, part: str) -> tuple[LabelledImage, ...]:
    def paths(line: str) -> tuple[str, str]:
        return f"JPEGImages/{line}.jpg", f"SegmentationClass/{line}.png"

    return _listed(folder, f"ImageSets/Segmentation/{part}.txt", paths)


def _listed_nyu(folder: Path, part: str) -> tuple[LabelledImage, ...]:
    def paths(line: str) -> tuple[str, str]:
        image, depths, *_ = [*line.split(), ""]
        return image.lstrip("/"), depths.lstrip("/")

    return _listed(folder, part, paths)


def _listed(folder: Path, name: str, paths: Callable[[str], tuple[str, str]]) -> tuple[LabelledImage, ...]:
    """The images that a list names. `paths`: from a line to an image and its labels, below the folder."""
    lines = (line.strip() for line in read_text(folder / name).splitlines())
    named = [paths(line) for line in lines if line]
    if not named:
        raise LostRegError(f"{folder / name} names no images")
    files = ListedFolder(folder)
    missing = [path for pair in named for path in pair if not files.has(path)]
    if missing:
        raise LostRegError(f"{folder / name} names files that are not there: {shown_names(missing)}")
    return tuple(LabelledImage(one, folder / one, folder / labels) for one, labels in named)
