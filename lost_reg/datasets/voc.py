"""Datasets in PASCAL VOC's layout: Annotations/*.xml, JPEGImages, ImageSets/Main/SPLIT.txt.

As in LOST (valeoai/LOST, datasets.py), all objects count, including difficult and truncated ones, and 1 is
subtracted from xmin and ymin but not from xmax and ymax.
"""

from __future__ import annotations

import codecs
import os
import posixpath
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lost_reg.datasets.base import Dataset, DatasetSpec, not_found
from lost_reg.datasets.fields import MISSING, as_mark, as_number, as_size, number_in
from lost_reg.datasets.image_paths import ListedFolder, last_part
from lost_reg.datasets.truths import Truths
from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, read_text
from lost_reg.images.reading import readable_suffixes
from lost_reg.text import shown_names, text_of
from lost_reg.types import Box, ImageTruth, SizeHW

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_HARD = ("difficult", "truncated")
_CHARACTERS = 2**16  # that are parsed at a time
_OF_A_CLASS = re.compile(r"\S+\s+(-1|0|1)")
_ENCODING = re.compile(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")


def find_voc(spec: DatasetSpec, root: Path) -> Dataset:
    """Find a dataset of the table that is in VOC layout.

    Raises:
        LostRegError: a dataset that is not below the data root, or is incomplete.
    """
    folder = root / spec.folder
    if not _has_layout(folder):
        raise not_found(spec, folder, root)
    return _dataset(spec.name, folder, spec.split, spec.images)


def find_bundled(spec: DatasetSpec, root: Path) -> Dataset:
    """A dataset in VOC layout that is part of the package, unless one of its name is below the data root."""
    own = root / spec.folder
    folder = own if _has_layout(own) else Path(__file__).parent / spec.folder
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
    files = _by_stem(images, readable_suffixes())
    if listed.is_file():
        stems = _listed_stems(listed, files)
    elif full_size is None:
        split, stems = "all", {stem: f"{stem}.jpg" for stem in sorted(files)}
    else:
        raise LostRegError(f"{name} is incomplete: no list of its images at {listed}")
    if not stems:
        raise LostRegError(f"{name} has no images: {listed if listed.is_file() else images} is empty")
    alike = [one for stem in stems if len(files.get(stem, ())) > 1 for one in files[stem]]
    if alike:
        raise LostRegError(f"images in {images} share one stem, and so one annotation: {shown_names(alike)}")
    names = {stem: files.get(stem, [name])[0] for stem, name in stems.items()}
    annotations = _annotation_files(folder / "Annotations", names)

    def load_truths() -> Truths:
        return Truths.of(read_voc_truth(path, names[stem]) for stem, path in annotations.items())

    unannotated = tuple(image for stem, image in names.items() if stem not in annotations)
    return Dataset(
        name, split, images, tuple(names.values()), full_size, load_truths, unannotated=unannotated
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """The files in a folder with one of the suffixes, in any case, by stem."""
    found: dict[str, list[str]] = {}
    for file in sorted(map(Path, os.listdir(folder))):
        if file.suffix.lower() in suffixes:
            found.setdefault(file.stem, []).append(file.name)
    return found


def _annotation_files(folder: Path, stems: Iterable[str]) -> dict[str, Path]:
    """The annotations that are there, by stem."""
    files = _by_stem(folder, (".xml",))
    paths = ((stem, folder / files.get(stem, [f"{stem}.xml"])[0]) for stem in stems)
    return {stem: path for stem, path in paths if stem in files or ("/" in stem and path.is_file())}


def _listed_stems(listed: Path, files: Mapping[str, list[str]]) -> dict[str, str]:
    """The stems of a list's images, and the name that each has where its file is not there.

    A line names an image by its stem or its file name, with or without JPEGImages/ before it. A path of
    another kind is tried by its last part.

    Raises:
        LostRegError: a line with a column of 1 and -1, as in VOC's lists of one class, or an image that is
            listed twice.
    """
    folder = ListedFolder(listed.parents[2] / "JPEGImages")
    stems: dict[str, str] = {}
    repeated = []
    for number, line in enumerate(read_text(listed, errors="surrogateescape").split("\n"), start=1):
        entry = line.strip()
        if not entry:
            continue
        if _OF_A_CLASS.fullmatch(entry) and entry not in files:
            raise LostRegError(
                f"{listed}, line {number}: {entry!r} is of a class's list: expected a name alone"
            )
        stem, name = _stem_of(entry, files, folder)
        repeated += [stem] if stem in stems else []
        stems[stem] = name
    if repeated:
        raise LostRegError(f"{listed} lists images twice: {shown_names(repeated)}")
    return stems


def _stem_of(entry: str, files: Mapping[str, list[str]], folder: ListedFolder) -> tuple[str, str]:
    path = posixpath.normpath(entry.replace("\\", "/")).rpartition("JPEGImages/")[2]
    readable = readable_suffixes()
    for one in (path, last_part(path)):
        stem, suffix = os.path.splitext(one)
        stem, suffix = (stem, suffix) if suffix.lower() in readable else (one, ".jpg")
        for known in (one, stem):
            if known in files:
                return known, files[known][0]
        if "/" in stem and folder.has(stem + suffix):
            return stem, stem + suffix
    return stem, stem + suffix


def read_voc_truth(path: Path, image: str) -> ImageTruth:
    """Read one VOC annotation.

    Its text is in the encoding that it declares, or else in UTF-8, or in UTF-16 with its mark. It may leave
    out the size of the image. A box whose sides are equal is legal: it counts, but no box can find it.

    Raises:
        LostRegError: a file that is missing, is not such an annotation, or has a field that is missing, no
            number or out of range; names the object and the field.
    """
    what = f"image {image}: "
    size_hw: SizeHW | None = None
    boxes: list[Box] = []
    labels: list[str] = []
    hard: list[bool] = []
    difficult: list[bool] = []
    try:
        for one in _children(_text_of(read_regular(path))):
            if one.tag == "size" and size_hw is None:
                size_hw = as_size(*(number_in(_text(one, side)) for side in ("height", "width")))
            elif one.tag == "object":
                what = f"object {len(boxes) + 1} of image {image}: "
                boxes.append(_box(one))
                labels.append(sys.intern(_text(one, "name") or ""))
                marks = [as_mark(name, _text(one, name) or MISSING) for name in _HARD]
                hard.append(any(marks))
                difficult.append(marks[0])
                what = f"image {image}: "
    except FileNotFoundError:
        raise LostRegError(f"no ground truth for {image}: {path} is missing") from None
    except OSError as error:
        raise LostRegError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise LostRegError(f"{path}: {what}{error}") from None
    return ImageTruth(
        image=image,
        image_id=path.stem,
        size_hw=size_hw,
        boxes_xyxy=tuple(boxes),
        labels=tuple(labels),
        hard=tuple(hard),
        difficult=tuple(difficult),
    )


def _text(one: ElementTree.Element | None, name: str) -> str | None:
    """The text of a field; an element in its place is shown as such. None without the field."""
    found = None if one is None else one.find(name)
    if found is None:
        return None
    return f"<{found[0].tag}>" if len(found) else found.text or ""


def _box(one: ElementTree.Element) -> Box:
    sides = one.find("bndbox")  # a path such as bndbox/xmin would take ElementTree three times as long
    # some boxes of VOC2012 (2011_003353) are not whole numbers
    xmin, ymin, xmax, ymax = (as_number(side, number_in(_text(sides, side))) for side in _SIDES)
    for low, high, names in ((xmin, xmax, "xmin and xmax"), (ymin, ymax, "ymin and ymax")):
        if high < low - 1:
            raise ValueError(f"{names} are {low:g} and {high:g} (expected the smaller one first)")
    return xmin - 1, ymin - 1, xmax, ymax


def _text_of(content: bytes) -> str:
    """The text of an annotation, in the encoding that it declares.

    Entities are refused: annotations need none, and they can expand without end or name other files.
    """
    declared = _ENCODING.match(content.removeprefix(codecs.BOM_UTF8))
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    if encoding.lower().startswith(("utf-16", "utf-32")):
        encoding = "utf-8"  # as it could be read, it is not in these
    text = text_of(content, encoding).lstrip()
    if "<!ENTITY" in text:
        raise ValueError("it defines entities, which annotations do not need")
    return text


def _children(text: str) -> Iterator[ElementTree.Element]:
    """The elements below the root of an annotation, one at a time: memory does not grow with their number.

    Raises ValueError for other content.
    """
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    above: list[ElementTree.Element] = []  # the elements that the parser is in
    try:
        for start in range(0, len(text), _CHARACTERS):
            parser.feed(text[start : start + _CHARACTERS])
            for event, element in parser.read_events():
                if event == "end":
                    above.pop()
                    if len(above) == 1:
                        yield element
                        above[0].clear()
                    continue
                if not above and element.tag != "annotation":
                    raise ValueError(f"its root is <{element.tag[:40]}> (expected <annotation>)")
                above.append(element)
        parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"it is not XML: {error}") from None
