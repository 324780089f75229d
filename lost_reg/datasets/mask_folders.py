"""Datasets of images with one PNG mask each, as salient object detection uses: ECSSD, DUTS-TE, DUT-OMRON.

They are downloaded by hand. Two folders of equal stems hold the images and the masks; they are found by the
names that they have in the archives, or else by words in their names. A pixel belongs to the object where its
grey value is above 127, of 255. All pixels of a mask are one object, even if it has several parts: its box is
the extent of them all. An image whose mask is empty has no object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from lost_reg.datasets.base import Dataset, DatasetSpec
from lost_reg.datasets.truths import Truths
from lost_reg.errors import LostRegError
from lost_reg.images.decoding import Decoding, decode
from lost_reg.images.reading import readable_suffixes
from lost_reg.images.sizes import sizes_or_reasons
from lost_reg.masks.grids import box_of, stored
from lost_reg.text import shown_names
from lost_reg.types import Failure, ImageTruth, Mask, SizeHW

ANY = "masks"  # `masks=FOLDER`: a user's own
LABEL = "object"

# The folders of images and of masks in the archives.
_ARCHIVED = {
    "ecssd": ("images", "ground_truth_mask"),
    "duts-te": ("DUTS-TE-Image", "DUTS-TE-Mask"),
    "dut-omron": ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
}
_MASKS = re.compile(r"(?i:mask|truth|annotation)|GT|(?:^|[-_ ])gt(?:$|[-_ ])")
_IMAGES = re.compile(r"(?i:images?|imgs?|photos?)$")
_PNG = b"\x89PNG\r\n\x1a\n"
_Object = tuple[ImageTruth, tuple[Mask, ...]]


def find_masks(spec: DatasetSpec, root: Path) -> Dataset:
    """Find a dataset of the table that has masks below the data root.

    Raises:
        LostRegError: see `open_masks`.
    """
    folder = root / spec.folder
    if not folder.is_dir():
        raise LostRegError(
            f"{spec.name} is not there: looked for {folder}; download it yourself (its addresses are in "
            f"data/README.md), and name its folder: {spec.name}=FOLDER"
        )
    return open_masks(spec.name, folder, spec)


def open_masks(name: str, folder: Path, spec: DatasetSpec | None = None) -> Dataset:
    """A folder that holds a folder of images and one of masks.

    Args:
        name: how the dataset is recorded.
        spec: its row in the table; None for a user's own.

    Raises:
        LostRegError: no such folders, or more than one of a kind; an image without a mask, or the other way
            round.
    """
    images, masks = _image_and_mask_folders(folder, spec)
    image_names, mask_names = by_stem(images, readable_suffixes()), by_stem(masks, (".png",))
    if not image_names:
        raise LostRegError(f"no images in {images}")
    _check_pairs(image_names, mask_names, (images, masks))
    stems = sorted(image_names)

    @cache
    def read() -> dict[str, _Object]:
        paths = {image_names[stem]: masks / mask_names[stem] for stem in stems}
        sizes = sizes_or_reasons(images / image for image in paths)
        objects = {
            image: _object(images / image, size_hw, mask, is_object)
            for (image, mask), size_hw, is_object in zip(paths.items(), sizes, _read_masks(paths.values()))
        }
        if not any(of_image for _, of_image in objects.values()):
            raise LostRegError(f"no mask in {masks} has a grey value above 127, which marks an object")
        return objects

    return Dataset(
        name=name,
        split=spec.split if spec else "all",
        root=images,
        images=tuple(image_names[stem] for stem in stems),
        full_size=spec.images if spec else None,
        load_truths=lambda: Truths.of(truth for truth, _ in read().values()),
        masks_of=lambda truth: read()[truth.image][1],
        label=spec.name if spec else folder.name,
    )


def _check_pairs(images: dict[str, str], masks: dict[str, str], folders: tuple[Path, Path]) -> None:
    image_folder, mask_folder = folders
    for these, others, what, folder in (
        (images, masks, "PNG mask", mask_folder),
        (masks, images, "image", image_folder),
    ):
        alone = [name for stem, name in sorted(these.items()) if stem not in others]
        if alone:
            raise LostRegError(f"{folder} has no {what} for {shown_names(alone)}: their stems must be equal")


def _image_and_mask_folders(folder: Path, spec: DatasetSpec | None) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise LostRegError(f"no such folder: {str(folder)!r}")
    for top in (folder, *_folders(folder)):
        inside = _folders(top)
        archived = [one for one in inside if spec and one.name in _ARCHIVED[spec.name]]
        among = archived if len(archived) == 2 else inside
        masks = [one for one in among if _MASKS.search(one.name)]
        images = [one for one in among if _IMAGES.search(one.name) and one not in masks]
        if len(images) == len(masks) == 1:
            return _innermost(images[0]), _innermost(masks[0])
    raise LostRegError(
        f"{str(folder)!r} does not hold one folder of images and one of masks, such as images and masks: "
        f"its folders are {shown_names([one.name for one in _folders(folder)]) or 'none'}"
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith((".", "_")))


def _innermost(folder: Path) -> Path:
    """Where a folder holds nothing but a folder, as some archives do, the inner one."""
    while len(os.listdir(folder)) == len(inside := _folders(folder)) == 1:
        folder = inside[0]
    return folder


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The files with one of the suffixes, without hidden ones, which archives from macOS have."""
    files = map(Path, os.listdir(folder))
    found = (one for one in files if one.suffix.lower() in suffixes and not one.name.startswith("."))
    return {one.stem: one.name for one in found}


def _object(image: Path, size_hw: SizeHW | str, mask: Path, is_object: np.ndarray) -> _Object:
    if isinstance(size_hw, str):
        raise LostRegError(f"{image}: {size_hw}")
    if is_object.shape != size_hw:
        sizes = [f"{width} x {height}" for height, width in (is_object.shape, size_hw)]
        raise LostRegError(f"{mask} has {sizes[0]} pixels, but its image {image.name} has {sizes[1]}")
    boxes = (box_of(is_object),) if is_object.any() else ()
    truth = ImageTruth(
        image=image.name,
        image_id=image.stem,
        size_hw=size_hw,
        boxes_xyxy=boxes,
        labels=(LABEL,) * len(boxes),
        hard=(False,) * len(boxes),
    )
    return truth, tuple(stored(is_object, size_hw) for _ in boxes)


def _read_masks(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    """The pixels of each object: (height, width) bool. A colour counts as grey of its largest channel.

    Nobody has checked these files, so they are decoded as those of a run are.
    """
    decoding = Decoding(apply_exif=False, max_side=None, patch_size=1, background="black")
    named = ((str(path), path) if _is_png(path) else Failure(str(path), "not a PNG file") for path in paths)
    for outcome in decode(named, decoding):
        if isinstance(outcome, Failure):
            raise LostRegError(f"{outcome.image}: {outcome.reason}")
        red, green, blue = np.moveaxis(outcome.pixels > 127, 2, 0)
        yield red | green | blue  # many times as fast as `any` over the last axis


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_PNG)) == _PNG
    except OSError as error:
        raise LostRegError(f"cannot read {path}: {error.strerror}") from None
