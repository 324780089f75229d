"""Datasets that have a folder of images for each class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.images.folders import is_image, is_junk, walk
from lost_reg.probing.labelled import LabelledDataset, LabelledPart, Split, with_drawn_splits
from lost_reg.text import shown_names


def open_class_folders(root: Path, seed: int, **facts: Any) -> LabelledDataset:
    """Read a folder with train/, test/ and possibly val/, or one without such a split.

    Each of them has a folder for each class, named as it. What is missing is drawn from the training images
    with the seed. With train/ and val/ alone, as ImageNet has them, val/ is the test split.

    Args:
        facts: fields of `LabelledDataset`, if not those of a user's own.

    Raises:
        LostRegError: a folder without classes, a class without training images, or too few images.
    """
    folders = _split_folders(root)
    found = {split: _images_by_class(folder) for split, folder in folders.items()}
    classes = tuple(sorted(found["train"]))
    if not classes:
        raise LostRegError(f"{root} holds no folders of images: expected one for each class")
    for split, by_class in found.items():
        if unknown := sorted(by_class.keys() - found["train"].keys()):
            raise LostRegError(
                f"{folders[split]} has classes without training images: {shown_names(unknown)}"
            )
    parts = {split: _part(root, by_class, classes) for split, by_class in found.items()}
    return with_drawn_splits(classes, parts, seed, **{"name": str(root), "apply_exif": True, **facts})


def _split_folders(root: Path) -> dict[Split, Path]:
    if not (root / "train").is_dir():
        if (root / "test").is_dir() and (root / "val").is_dir():
            raise LostRegError(f"{root} has test/ and val/, but no train/ to learn from")
        return {"train": root}
    if not (root / "test").is_dir() and (root / "val").is_dir():
        return {"train": root / "train", "test": root / "val"}
    names: tuple[Split, ...] = ("train", "val", "test")
    return {split: root / split for split in names if (root / split).is_dir()}


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The images below each class's folder, sorted; folders without any are no classes."""
    unlisted: dict[str, str] = {}
    found = {
        one.name: sorted(Path(file) for file in walk(str(one), unlisted, set()) if is_image(file))
        for one in folder.iterdir()
        if one.is_dir() and not is_junk(one.name)
    }
    if unlisted:
        where, reason = next(iter(unlisted.items()))
        raise LostRegError(f"cannot list {where!r}: {reason}")
    return {name: files for name, files in found.items() if files}


def _part(root: Path, by_class: dict[str, list[Path]], classes: tuple[str, ...]) -> LabelledPart:
    paths = [path for name in classes for path in by_class.get(name, ())]
    counts = [len(by_class.get(name, ())) for name in classes]
    names = [path.relative_to(root).as_posix() for path in paths]
    return LabelledPart(names, paths, np.repeat(np.arange(len(classes)), counts))
