"""Datasets in PASCAL VOC's layout: Annotations/*.xml, JPEGImages, ImageSets/Main/SPLIT.txt.

As in LOST (valeoai/LOST, datasets.py), all objects count, including difficult and truncated ones, and 1 is
subtracted from xmin and ymin but not from xmax and ymax.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lost_reg.datasets.base import Dataset, DatasetSpec, not_found
from lost_reg.errors import LostRegError
from lost_reg.images.reading import readable_suffixes
from lost_reg.types import Box, ImageTruth


def find_voc(spec: DatasetSpec, root: Path) -> Dataset:
    """Find a dataset of the table that is in VOC layout.

    Raises:
        LostRegError: a dataset that is not below the data root, or is incomplete.
    """
    folder = root / spec.folder
    if not _has_layout(folder):
        raise not_found(spec, folder, root)
    return _dataset(spec.name, folder, spec.split, spec.images)


def open_voc(folder: Path) -> Dataset:
    """A user's own folder in VOC layout; without a trainval.txt, all of its images.

    Raises:
        LostRegError: a folder in another layout, or without images.
    """
    if not _has_layout(folder):
        raise LostRegError(
            f"{str(folder)!r} is not in VOC layout: expected the folders JPEGImages and Annotations in it"
        )
    return _dataset(str(folder), folder, "trainval", None)


def _has_layout(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "Annotations").is_dir()


def _dataset(name: str, folder: Path, split: str, full_size: int | None) -> Dataset:
    images, listed = folder / "JPEGImages", folder / "ImageSets" / "Main" / f"{split}.txt"
    files = map(Path, os.listdir(images))
    readable = readable_suffixes()
    suffixes = {file.stem: file.suffix for file in files if file.suffix.lower() in readable}
    if listed.is_file():
        stems = tuple(line.strip() for line in os.fsdecode(listed.read_bytes()).splitlines() if line.strip())
    elif full_size is None:
        split, stems = "all", tuple(sorted(suffixes))
    else:
        raise LostRegError(f"{name} is incomplete: no list of its images at {listed}")
    if not stems:
        raise LostRegError(f"{name} has no images: {listed if listed.is_file() else images} is empty")
    names = tuple(stem + suffixes.get(stem, ".jpg") for stem in stems)

    def load_truths() -> list[ImageTruth]:
        annotations = folder / "Annotations"
        return [read_voc_truth(annotations / f"{stem}.xml", name) for stem, name in zip(stems, names)]

    return Dataset(name, split, images, names, full_size, load_truths)


def read_voc_truth(path: Path, image: str) -> ImageTruth:
    """Read one VOC annotation. Raises LostRegError for a file that is missing or malformed."""
    try:
        annotation = ElementTree.parse(path).getroot()
        objects = annotation.findall("object")
        return ImageTruth(
            image=image,
            image_id=path.stem,
            size_hw=(int(_text(annotation, "size/height")), int(_text(annotation, "size/width"))),
            boxes_xyxy=tuple(_box(one) for one in objects),
            labels=tuple(one.findtext("name", default="") for one in objects),
            hard=tuple("1" in (one.findtext("difficult"), one.findtext("truncated")) for one in objects),
            difficult=tuple(one.findtext("difficult") == "1" for one in objects),
        )
    except FileNotFoundError:
        raise LostRegError(f"no ground truth for {image}: {path} is missing") from None
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise LostRegError(f"malformed ground truth {path}: {error}") from None


def _box(one: ElementTree.Element) -> Box:
    # some boxes of VOC2012 (2011_003353) are not whole numbers
    xmin, ymin, xmax, ymax = (
        float(_text(one, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return xmin - 1, ymin - 1, xmax, ymax


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path} in it")
    return text
