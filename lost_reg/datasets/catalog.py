"""The table of datasets, finding one on this machine, and the listing of `lost-reg datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lost_reg.datasets.base import DATA_ROOT_VARIABLE, Dataset, DatasetSpec
from lost_reg.datasets.coco import find_coco20k, is_coco, open_coco
from lost_reg.datasets.image_paths import ListedFolder
from lost_reg.datasets.mask_folders import ANY, find_masks, open_masks
from lost_reg.datasets.voc import find_bundled, find_voc, open_voc
from lost_reg.errors import LostRegError
from lost_reg.text import agreeing, counted, text_table

SPECS = (
    DatasetSpec("voc07", "VOCdevkit/VOC2007", "trainval", 5011, "PASCAL VOC 2007 trainval", find_voc, True),
    DatasetSpec("voc12", "VOCdevkit/VOC2012", "trainval", 11540, "PASCAL VOC 2012 trainval", find_voc, True),
    DatasetSpec("coco20k", "coco", "coco20k", 19817, "LOST's part of COCO train2014", find_coco20k, True),
    DatasetSpec("samples", "samples", "trainval", 16, "scenes rendered by this project", find_bundled),
    DatasetSpec("ecssd", "ECSSD", "all", 1000, "ECSSD, with a mask of each image", find_masks),
    DatasetSpec("duts-te", "DUTS-TE", "test", 5019, "DUTS test, with a mask of each image", find_masks),
    DatasetSpec("dut-omron", "DUT-OMRON", "all", 5168, "DUT-OMRON, with a mask of each image", find_masks),
)
_BY_NAME = {spec.name: spec for spec in SPECS}
WITH_MASKS = {ANY: None, **{spec.name: spec for spec in SPECS if spec.find is find_masks}}
DOWNLOADABLE = tuple(spec.name for spec in SPECS if spec.can_download)


@dataclass(frozen=True)
class DatasetFormat:
    """A supported format of users' own datasets.

    about: what a user gives, as part of a sentence.
    matches: whether a path could be a dataset in this format.
    open: (absolute path) -> Dataset; raises LostRegError if it is not one.
    """

    about: str
    matches: Callable[[Path], bool]
    open: Callable[[Path], Dataset]


FORMATS = (
    DatasetFormat("a folder in VOC layout", Path.is_dir, open_voc),
    DatasetFormat("a COCO annotation file (.json)", is_coco, open_coco),
)
_OWN = f"{', '.join(one.about for one in FORMATS)}, or {ANY}=FOLDER with a folder of images and one of masks"


def data_root(option: str | Path | None = None, recorded: str | Path | None = None) -> Path:
    """The folder of the datasets: the option, else LOST_REG_DATA, else the recorded one, else ./data."""
    return Path(option or os.environ.get(DATA_ROOT_VARIABLE) or recorded or "data")


def find_dataset(name: str, root: Path) -> Dataset:
    """Find a dataset on this machine.

    Args:
        name: a name in the table, NAME=FOLDER for one of WITH_MASKS in any folder, or the path of a user's
            own dataset in one of FORMATS.
        root: the data root.

    Raises:
        LostRegError: an unknown name, or missing data; says where it was looked for and which command
            gets it.
    """
    spec = _BY_NAME.get(name)
    if spec is not None:
        return spec.find(spec, root)
    known, folder = _with_masks(name)
    if known:
        path = Path(folder).absolute()
        return open_masks(f"{known}={path}", path, WITH_MASKS[known])
    path = Path(name).absolute()  # recorded as absolute, so that scoring finds it from any folder
    for one in FORMATS:
        if one.matches(path):
            return one.open(path)
    nor = "" if path.exists() else ", nor is it a file or folder"
    raise LostRegError(f"unknown dataset {name!r}{nor}: choose among {', '.join(_BY_NAME)}, or give {_OWN}")


def is_known(name: str) -> bool:
    """Whether a name is one of the table, which is found below the data root."""
    return name in _BY_NAME


def short_name(name: str) -> str:
    """A name that results on a dataset can have: without the folder, if it is NAME=FOLDER of the table."""
    known, folder = _with_masks(name)
    return known if known and known != ANY else folder


def _with_masks(name: str) -> tuple[str | None, str]:
    """NAME and FOLDER of NAME=FOLDER for one of WITH_MASKS; else None and the name."""
    known, separator, folder = name.partition("=")
    return (known, folder) if separator and known in WITH_MASKS else (None, name)


def missing_images(dataset: Dataset) -> list[str]:
    """The images of a dataset whose files are not there."""
    folder = ListedFolder(dataset.root)
    return [name for name in dataset.images if not folder.has(name)]


def datasets_table(root: Path, width: int | None = None) -> str:
    """A table with a row for each dataset, and a note on getting more. `width`: see `text.text_table`."""
    rows = [
        {
            "dataset": spec.name,
            "about": spec.about,
            "images": f"{spec.images:,}",
            "files": _presence(spec, root),
        }
        for spec in SPECS
    ]
    return "\n".join(
        [
            text_table(rows, width=width, drop=("about",), fold="files"),
            f"They are searched in {root}.",
            f"`lost-reg datasets --download NAME` downloads {', '.join(DOWNLOADABLE)}. Where those with",
            "masks lie elsewhere, give NAME=FOLDER. Datasets of your own are given as",
            f"{_OWN}.",
        ]
    )


def _presence(spec: DatasetSpec, root: Path) -> str:
    try:
        found = find_dataset(spec.name, root)
    except LostRegError as error:
        folder = root / spec.folder
        is_damaged = spec.name in WITH_MASKS and folder.is_dir()
        return f"not usable: {error}" if is_damaged else f"not here: looked for {folder}"
    missing = len(missing_images(found))
    if missing:
        are = agreeing(missing, "are")
        return f"incomplete: {missing:,} of {counted(len(found.images), 'image')} {are} missing"
    return "here" if found.is_full else f"here: {counted(len(found.images), 'image')} of it"
