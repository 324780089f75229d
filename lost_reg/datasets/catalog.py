"""Datasets with ground truth: where they lie, which images they have, what is true of them.

The rules are LOST's (valeoai/LOST, datasets.py): all objects of VOC count, difficult and truncated ones
too, and 1 is subtracted from xmin and ymin but not from the maxima; COCO's crowd objects are dropped and
the corners of its boxes rounded.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.images.reading import SUFFIXES
from lost_reg.text import shown_names
from lost_reg.types import ImageTruth

DATA_ROOT_VARIABLE = "LOST_REG_DATA"


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of the table.

    format: "voc" or "coco".
    folder: where it lies below the data root.
    split, images: the split that is scored, and how many images the full one has.
    about: one line for `lost-reg datasets`.
    """

    name: str
    format: str
    folder: str
    split: str
    images: int
    about: str


SPECS = (
    DatasetSpec("voc07", "voc", "VOCdevkit/VOC2007", "trainval", 5011, "PASCAL VOC 2007 trainval"),
    DatasetSpec("voc12", "voc", "VOCdevkit/VOC2012", "trainval", 11540, "PASCAL VOC 2012 trainval"),
    DatasetSpec("coco20k", "coco", "coco", "coco20k", 19817, "LOST's 19,817 images of COCO train2014"),
    DatasetSpec("samples", "voc", "samples", "trainval", 16, "scenes rendered by this project"),
)
_BY_NAME = {spec.name: spec for spec in SPECS}

COCO20K_LIST = "coco_20k_filenames.txt"
COCO20K_ANNOTATIONS = "annotations/instances_train2014.json"
_COCO20K_CACHE = "coco20k_ground_truth.json"


@dataclass(frozen=True)
class Dataset:
    """A dataset on this machine.

    root: the folder that `images` are relative to.
    full_size: how many images the full split has, or None for a user's own dataset.
    load_truths: reads the ground truth; called once, when it is needed.
    """

    name: str
    split: str
    root: Path
    images: tuple[str, ...]
    full_size: int | None
    load_truths: Callable[[], list[ImageTruth]]

    @property
    def title(self) -> str:
        """Its name for people: the last part of a path."""
        return Path(self.name).name

    @cached_property
    def truths(self) -> dict[str, ImageTruth]:
        """The ground truth of each image, by its name.

        Raises:
            LostRegError: annotations that are missing or malformed.
        """
        return {truth.image: truth for truth in self.load_truths()}

    @property
    def is_full(self) -> bool:
        """Whether this is the whole split that published numbers are of."""
        return self.full_size == len(self.images)


def data_root(option: str | Path | None = None, recorded: str | Path | None = None) -> Path:
    """The folder of the datasets: the option, then LOST_REG_DATA, then what a run recorded, then ./data."""
    return Path(option or os.environ.get(DATA_ROOT_VARIABLE) or recorded or "data")


def find_dataset(name: str, root: Path) -> Dataset:
    """Find a dataset on this machine.

    Args:
        name: a name of the table; or the path of a folder in VOC layout (Annotations, JPEGImages and, if
            there is one, ImageSets/Main/trainval.txt), or of a COCO instances file (.json).
        root: the data root.

    Raises:
        LostRegError: an unknown name, or data that is not there, with where it was looked for and the
            command that gets it.
    """
    spec = _BY_NAME.get(name)
    if spec is not None:
        return _FINDERS[spec.format](spec, root)
    path = Path(name).absolute()  # recorded like this, so that scoring finds it from any folder
    if path.is_dir():
        return _voc_dataset(str(path), path, "trainval", None)
    if path.is_file() and path.suffix == ".json":
        return _coco_dataset(str(path), path)
    raise LostRegError(
        f"unknown dataset {name!r}: choose among {', '.join(_BY_NAME)}, or give a folder in VOC layout "
        "or a COCO annotation file (.json)"
    )


def missing_images(dataset: Dataset) -> list[str]:
    """The images of a dataset whose files are not there."""
    present = {entry.name for entry in os.scandir(dataset.root)} if dataset.root.is_dir() else set()
    # the table's datasets are flat; in a user's own, a name may lead into a folder
    return [n for n in dataset.images if n not in present and not ("/" in n and (dataset.root / n).is_file())]


def not_there(spec: DatasetSpec, looked_for: Path, root: Path) -> LostRegError:
    """The error for a dataset that is not on this machine."""
    get_it = (
        "it comes with the project's checkout: give its data folder"
        if spec.name == "samples"
        else f"`lost-reg datasets --download {spec.name} --data-root {root}` gets it"
    )
    return LostRegError(
        f"{spec.name} is not there: looked for {looked_for} (the data root is {root}, set by --data-root or "
        f"{DATA_ROOT_VARIABLE}); {get_it}"
    )


# --- VOC ---------------------------------------------------------------------------------------------


def _find_voc(spec: DatasetSpec, root: Path) -> Dataset:
    folder = root / spec.folder
    if not (folder / "JPEGImages").is_dir() or not (folder / "Annotations").is_dir():
        raise not_there(spec, folder, root)
    return _voc_dataset(spec.name, folder, spec.split, spec.images)


def _voc_dataset(name: str, folder: Path, split: str, full_size: int | None) -> Dataset:
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    if not images.is_dir() or not annotations.is_dir():
        raise LostRegError(
            f"{str(folder)!r} is not in VOC layout: expected the folders JPEGImages and Annotations in it"
        )
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    suffix_of = {
        Path(n).stem: Path(n).suffix for n in os.listdir(images) if Path(n).suffix.lower() in SUFFIXES
    }
    if listed.is_file():
        stems = tuple(line.strip() for line in os.fsdecode(listed.read_bytes()).splitlines() if line.strip())
    elif full_size is None:
        split, stems = "all", tuple(sorted(suffix_of))
    else:
        raise LostRegError(f"{name} is incomplete: no list of its images at {listed}")
    if not stems:
        raise LostRegError(f"{name} has no images: {listed if listed.is_file() else images} is empty")

    def load_truths() -> list[ImageTruth]:
        return [
            read_voc_truth(annotations / f"{stem}.xml", stem + suffix_of.get(stem, ".jpg")) for stem in stems
        ]

    names = tuple(stem + suffix_of.get(stem, ".jpg") for stem in stems)
    return Dataset(name, split, images, names, full_size, load_truths)


def read_voc_truth(path: Path, image: str) -> ImageTruth:
    """Read one VOC annotation.

    Raises:
        LostRegError: a file that is missing or malformed.
    """
    try:
        annotation = ElementTree.parse(path).getroot()
        objects = annotation.findall("object")
        return ImageTruth(
            image=image,
            image_id=path.stem,
            size_hw=(int(annotation.findtext("size/height")), int(annotation.findtext("size/width"))),
            boxes_xyxy=tuple(_voc_box(one) for one in objects),
            labels=tuple(one.findtext("name", default="") for one in objects),
            hard=tuple("1" in (one.findtext("difficult"), one.findtext("truncated")) for one in objects),
        )
    except FileNotFoundError:
        raise LostRegError(f"no ground truth for {image}: {path} is missing") from None
    except (ElementTree.ParseError, TypeError, ValueError, OSError) as error:
        raise LostRegError(f"malformed ground truth {path}: {error}") from None


def _voc_box(one: ElementTree.Element) -> tuple[float, float, float, float]:
    # some boxes of VOC2012 (2011_003353) are not whole numbers
    xmin, ymin, xmax, ymax = (
        float(one.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return xmin - 1, ymin - 1, xmax, ymax


# --- COCO --------------------------------------------------------------------------------------------


def _find_coco20k(spec: DatasetSpec, root: Path) -> Dataset:
    folder = root / spec.folder
    listed, annotations = folder / COCO20K_LIST, folder / COCO20K_ANNOTATIONS
    for file in (listed, annotations):
        if not file.is_file():
            raise not_there(spec, file, root)
    # LOST's list has names such as train2014/COCO_train2014_000000560992.jpg
    names = tuple(Path(line).name for line in listed.read_text().split())

    def load_truths() -> list[ImageTruth]:
        return _cached(folder / _COCO20K_CACHE, annotations, names)

    return Dataset(spec.name, spec.split, folder / "train2014", names, spec.images, load_truths)


def _coco_dataset(name: str, annotations: Path) -> Dataset:
    names = tuple(record["file_name"] for record in _read_coco(annotations).dataset["images"])
    if not names:
        raise LostRegError(f"{name!r} lists no images")
    beside = [annotations.parent, annotations.parent.parent]
    folders = [*beside, *(child for folder in beside for child in sorted(folder.iterdir()) if child.is_dir())]
    root = next((folder for folder in folders if (folder / names[0]).is_file()), None)
    if root is None:
        raise LostRegError(
            f"no folder beside {name!r} holds its images: looked for {names[0]!r} in {annotations.parent}"
        )
    return Dataset(name, "all", root, names, None, lambda: read_coco_truths(annotations, names))


def read_coco_truths(annotations: Path, names: tuple[str, ...]) -> list[ImageTruth]:
    """Read the ground truth of the named images from a COCO instances file.

    Raises:
        LostRegError: a file that is malformed, or an image that it does not know.
    """
    coco = _read_coco(annotations)
    records = {record["file_name"]: record for record in coco.dataset["images"]}
    unknown = [name for name in names if name not in records]
    if unknown:
        raise LostRegError(f"no ground truth for {shown_names(unknown)} in {annotations}")
    try:
        return [_coco_truth(coco, records[name]) for name in names]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LostRegError(f"malformed ground truth {annotations}: {type(error).__name__} {error}") from None


def _coco_truth(coco, record: dict) -> ImageTruth:
    objects = [one for one in coco.imgToAnns[record["id"]] if not one.get("iscrowd", 0)]
    return ImageTruth(
        image=record["file_name"],
        image_id=str(record["id"]),
        size_hw=(record["height"], record["width"]),
        boxes_xyxy=tuple(_coco_box(*one["bbox"]) for one in objects),
        labels=tuple(coco.cats.get(one["category_id"], {}).get("name", "") for one in objects),
        hard=(False,) * len(objects),
    )


def _coco_box(x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
    return round(x), round(y), round(x + width), round(y + height)


def _read_coco(annotations: Path):
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            coco = COCO(str(annotations))
        if not all(isinstance(one["file_name"], str) and "id" in one for one in coco.dataset["images"]):
            raise ValueError("an image without file_name or id")
    except (ValueError, KeyError, TypeError, AssertionError, OSError, RecursionError) as error:
        raise LostRegError(
            f"{str(annotations)!r} is not a COCO annotation file: {type(error).__name__} {error}"
        ) from None
    return coco


def _cached(cache: Path, annotations: Path, names: tuple[str, ...]) -> list[ImageTruth]:
    """`read_coco_truths` from a small cache, made anew when the annotations or the names have changed."""
    stat = annotations.stat()
    stamp = {"bytes": stat.st_size, "modified": stat.st_mtime_ns}
    with contextlib.suppress(
        OSError, ValueError, KeyError, TypeError, RecursionError
    ):  # no cache, or not a whole one
        content = json.loads(cache.read_text())
        if content["source"] == stamp and [row["image"] for row in content["truths"]] == list(names):
            return [_truth_from_json(row) for row in content["truths"]]
    truths = read_coco_truths(annotations, names)
    with contextlib.suppress(OSError):  # a data root that cannot be written needs no cache
        part = cache.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"source": stamp, "truths": [vars(truth) for truth in truths]}))
        part.replace(cache)
    return truths


def _truth_from_json(row: dict) -> ImageTruth:
    return ImageTruth(
        image=row["image"],
        image_id=row["image_id"],
        size_hw=tuple(row["size_hw"]),
        boxes_xyxy=tuple(map(tuple, row["boxes_xyxy"])),
        labels=tuple(row["labels"]),
        hard=tuple(row["hard"]),
    )


_FINDERS = {"voc": _find_voc, "coco": _find_coco20k}
