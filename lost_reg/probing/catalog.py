"""The datasets of the class probe by name, and finding them on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np

from lost_reg.datasets.base import DATA_ROOT_VARIABLE
from lost_reg.errors import LostRegError, one_line
from lost_reg.probing import torchvision_sets
from lost_reg.probing.class_folders import open_class_folders
from lost_reg.probing.labelled import LabelledDataset, LabelledPart, with_drawn_splits
from lost_reg.probing.records import Measure
from lost_reg.text import first_sentence

_CUB, _IMAGENET, _PLACES = "CUB_200_2011", "imagenet", "places205"


@dataclass(frozen=True)
class LabelledSpec:
    """One dataset of the table.

    title: its name in the literature. folder: below the data root.
    measure: the one that is usual for it: see Kornblith et al. 2019, "Do better ImageNet models transfer
        better?", table 1.
    drawn: what `read` draws with the seed, in words.
    read: (data root, download, seed) -> its classes and parts; for others than torchvision's, None.
    get: for one that cannot be downloaded, where it comes from.
    """

    name: str
    title: str
    folder: str
    measure: Measure = "top1"
    read: Callable[[Path, bool, int], torchvision_sets.Parts] | None = None
    get: str = ""
    drawn: tuple[str, ...] = ()

    @property
    def can_download(self) -> bool:
        """Whether torchvision can download it."""
        return not self.get


def _cub200(root: Path, download: bool, seed: int) -> torchvision_sets.Parts:
    """CUB-200-2011, by its lists: lines of an image's number and what belongs to it."""

    def column(name: str) -> list[str]:
        lines = (root / _CUB / f"{name}.txt").read_text().splitlines()
        return [line.split(maxsplit=1)[1].strip() for line in lines]

    names = [f"{_CUB}/images/{name}" for name in column("images")]
    labels = np.array([int(label) - 1 for label in column("image_class_labels")])
    every = LabelledPart(names, [root / name for name in names], labels)
    is_train = np.array(column("train_test_split")) == "1"
    classes = tuple(name.partition(".")[2].replace("_", " ") for name in column("classes"))
    return classes, {"train": every.of(is_train), "test": every.of(~is_train)}


_loaded = torchvision_sets.by_loader
SPECS = (
    LabelledSpec("imagenet", "ImageNet", _IMAGENET, get="image-net.org"),
    LabelledSpec("places205", "Places205", _PLACES, get="places.csail.mit.edu"),
    LabelledSpec("aircraft", "FGVC-Aircraft", "fgvc-aircraft-2013b", "mean_per_class",
                 _loaded("FGVCAircraft", "train", "val", "test")),
    LabelledSpec("cifar10", "CIFAR-10", "cifar-10-batches-py", read=torchvision_sets.cifar("CIFAR10")),
    LabelledSpec("cifar100", "CIFAR-100", "cifar-100-python", read=torchvision_sets.cifar("CIFAR100")),
    LabelledSpec("cub200", "CUB-200-2011", _CUB, read=_cub200, get="vision.caltech.edu/datasets"),
    LabelledSpec("caltech101", "Caltech101", "caltech101/101_ObjectCategories", "mean_per_class",
                 torchvision_sets.caltech101,
                 drawn=(f"{torchvision_sets.CALTECH_TRAINING} of each class for training",)),
    LabelledSpec("cars", "Stanford Cars", "stanford_cars", read=_loaded("StanfordCars", "train", "test"),
                 get="github.com/pytorch/vision/issues/7545"),
    LabelledSpec("dtd", "DTD", "dtd", read=_loaded("DTD", "train", "val", "test")),
    LabelledSpec("flowers102", "Flowers-102", "flowers-102", "mean_per_class",
                 _loaded("Flowers102", "train", "val", "test")),
    LabelledSpec("food101", "Food-101", "food-101", read=_loaded("Food101", "train", "test")),
    LabelledSpec("pets", "Oxford-IIIT Pets", "oxford-iiit-pet", "mean_per_class", torchvision_sets.pets),
    LabelledSpec("sun397", "SUN397", "SUN397", read=_loaded("SUN397")),
    LabelledSpec("voc07", "VOC2007 classification", "VOCdevkit/VOC2007", "map", torchvision_sets.voc07),
)  # fmt: skip
_BY_NAME = {spec.name: spec for spec in SPECS}


def is_labelled(name: str) -> bool:
    """Whether a name is one of the table."""
    return name in _BY_NAME


def find_labelled(name: str, root: Path, *, download: bool = False, seed: int = 0) -> LabelledDataset:
    """Find a dataset with classes on this machine.

    Args:
        name: a name in the table, or the path of a folder: see `open_class_folders`.
        root: the data root. download: download it if it is missing. seed: of the splits that are drawn.

    Raises:
        LostRegError: an unknown name, missing or damaged data, or too few images; says what to do.
    """
    spec = _BY_NAME.get(name)
    if spec:
        return _open(spec, root, download, seed)
    folder = Path(name).absolute()
    if not folder.is_dir():
        raise LostRegError(
            f"unknown dataset {name!r}, nor is it a folder: choose among {', '.join(_BY_NAME)}, or give "
            "a folder that has a folder of images for each class, possibly in train/, val/ and test/"
        )
    if download:
        raise LostRegError("`download` is for the datasets that lost-reg knows by name, not for folders")
    return open_class_folders(folder, seed)


def _open(spec: LabelledSpec, root: Path, download: bool, seed: int) -> LabelledDataset:
    if not (download and spec.can_download) and not (root / spec.folder).is_dir():
        raise _not_found(spec, root)
    facts = {"measure": spec.measure, "apply_exif": False}
    if spec.read is None:
        return open_class_folders(root / spec.folder, seed, name=spec.name, **facts)
    classes, parts = _read(spec, root, download and spec.can_download, seed)
    return with_drawn_splits(classes, parts, seed, spec.drawn, name=spec.name, **facts)


def _read(spec: LabelledSpec, root: Path, download: bool, seed: int) -> torchvision_sets.Parts:
    """Its classes and parts. torchvision raises RuntimeError for what it does not find, and many others."""
    try:
        return spec.read(root, download, seed)
    except (LostRegError, MemoryError):
        raise
    except URLError as error:
        raise LostRegError(f"cannot download {spec.title}: {one_line(str(error.reason))}") from None
    except ModuleNotFoundError as error:
        raise LostRegError(f"{spec.title} needs the package {error.name}: install it") from None
    except Exception as error:
        why = one_line(first_sentence(error))
        raise LostRegError(f"{spec.title} in {root / spec.folder} is incomplete or damaged: {why}") from None


def _not_found(spec: LabelledSpec, root: Path) -> LostRegError:
    folders = ", as train/ and val/ of class folders" if spec.read is None else ""
    by_hand = f"it cannot be downloaded from here; {spec.get} has it{folders}"
    get = "`download` gets it" if spec.can_download else by_hand
    return LostRegError(
        f"{spec.title} is not there: looked for {root / spec.folder} (the data root is {root}, set by "
        f"`data_root` or {DATA_ROOT_VARIABLE}); {get}"
    )
