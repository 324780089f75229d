"""Two runs on the same images: which finds more, by how much, on which images, and could it be chance?

An image is found as in CorLoc: its one box has IoU >= 0.5 with any object. `paired` computes the statistics,
over all images and

- per class, over the images that contain an object of the class: found if the box has IoU >= 0.5 with an
  object of that very class (as Deselaers et al. 2010 define CorLoc per class). An image of several classes
  counts for each, and one box can hardly be right for all of them.
- per size, over the images whose largest object covers a given share of the image: found as in CorLoc, so
  each image counts once and the rows add up to the total. (COCO's areas for small, medium and large would
  not separate the images: the largest object is nearly always a large one.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, product
from pathlib import Path
from typing import Any

from lost_reg.boxes import found_objects
from lost_reg.datasets.catalog import Dataset
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import find_runs, read_run
from lost_reg.scoring.corloc import objects_that_count
from lost_reg.scoring.found_boxes import (
    FoundBoxes,
    ScoringOptions,
    check_complete,
    ground_truth,
    read_file_boxes,
    split_title,
)
from lost_reg.scoring.paired import Paired, holm
from lost_reg.text import agreeing, counted, shown_names
from lost_reg.types import Box, ImageTruth

# Upper bounds on the share of the image. From one half on, the whole image as a box has IoU >= 0.5.
SIZES = ((0.05, "under 5 %"), (0.2, "5 to 20 %"), (0.5, "20 to 50 %"), (math.inf, "50 % and more"))
UNKNOWN_SIZE = "of unknown size"

SIGNIFICANT = 0.05  # p below this is called a difference
LEAST_P = 0.0001  # smaller p values are shown as "< 0.0001"

# Settings that cannot explain a difference: where the images were, and the number of objects after the first.
_NO_CAUSE = ("dataset", "split", "inputs", "max_objects")


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs. title, settings: see `FoundBoxes`.

    unusable: images in the denominator that it could not use, counted as misses.
    other_size: images whose size differs from the annotated one.
    """

    path: Path
    title: str
    settings: dict[str, Any] | None
    unusable: int
    other_size: int


@dataclass(frozen=True)
class SettingDifference:
    """A setting that differs between the runs, such as "layer"; None where a run does not have it."""

    setting: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Group:
    """The runs on a subset of the images.

    kind: "class" or "largest object"; name: which class or size.
    p_holm: the p value, adjusted for the number of groups of its kind.
    """

    kind: str
    name: str
    paired: Paired
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same images. Differences are B minus A.

    differences: the settings that differ, or None for prediction files, whose settings are not known.
    total, classes, sizes: see the module's docstring.
    only_a, only_b: the images that only one of them found.
    without_truth: images left out because they have no ground-truth box; not_done: those left out
        because one of the runs has not reached them (`partial`).
    notes: what the user should know about the ground truth.
    """

    a: ComparedRun
    b: ComparedRun
    dataset: str
    split: str
    differences: tuple[SettingDifference, ...] | None
    total: Paired
    classes: tuple[Group, ...]
    sizes: tuple[Group, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    without_truth: int
    not_done: int
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        total = self.total
        low, high = total.interval
        p = f"= {total.p:.4f}" if total.p >= LEAST_P else f"< {LEAST_P}"
        numbers = f"{total.difference:+.1f} points of CorLoc (95 % {low:+.1f} to {high:+.1f}; McNemar p {p})"
        if total.p >= SIGNIFICANT:
            return f"No significant difference between A and B: {numbers}."
        return f"{'B finds more than A' if total.difference > 0 else 'B finds less than A'}: {numbers}."

    @property
    def causes(self) -> tuple[str, ...]:
        """The settings that can explain a difference; a backbone and its weights count as one."""
        settings = (one.setting for one in self.differences or ())
        names = ("backbone" if name.startswith("weights.") else name for name in settings)
        return tuple(dict.fromkeys(name for name in names if name not in _NO_CAUSE))


def compare(path_a: Path, path_b: Path, options: ScoringOptions | None = None) -> Comparison:
    """Compare two runs, or prediction files, on the same images.

    Args:
        path_a, path_b: run folders (or folders with one run in them), LOST pickles or COCO detections.
        options: the dataset, if neither names one; `partial` compares the images that both processed.

    Raises:
        LostRegError: runs on different datasets, splits or images; an incomplete run without `partial`;
            missing or malformed files; or nothing to compare.
    """
    options = options or ScoringOptions()
    a, b = _read(path_a), _read(path_b)
    dataset = _shared_dataset(a, b, options)
    a, b = a.on(dataset), b.on(dataset)
    _check_same_sizes(a, b)
    dataset = dataset.with_sizes({**a.sizes_hw, **b.sizes_hw}, a.done | b.done)
    if not options.partial:
        for found in (a, b):
            check_complete(found, dataset, "`partial` compares the images that both did")
    done_by_both = a.done & b.done
    done = [name for name in dataset.truths if name in done_by_both]
    truths = [objects_that_count(dataset.truths[name], options.count_hard) for name in done]
    images = [
        _MatchedImage(truth, [_matches(found.boxes.get(truth.image), truth) for found in (a, b)])
        for truth in truths
        if truth.boxes_xyxy
    ]
    if not images:
        raise LostRegError("nothing to compare: no image that both did has a ground-truth box")
    return Comparison(
        a=_compared_run(a, dataset, images),
        b=_compared_run(b, dataset, images),
        dataset=dataset.title,
        split=split_title(dataset, options),
        differences=_setting_differences(a, b),
        total=_count(image.found for image in images),
        classes=_groups("class", map(_by_class, images)),
        sizes=_groups("largest object", map(_by_size, images), [*(name for _, name in SIZES), UNKNOWN_SIZE]),
        only_a=tuple(image.truth.image for image in images if image.found == (True, False)),
        only_b=tuple(image.truth.image for image in images if image.found == (False, True)),
        without_truth=len(done) - len(images),
        not_done=len(dataset.truths) - len(done),
        notes=dataset.notes,
    )


# --- the same images ---------------------------------------------------------------------------------


def _read(path: Path) -> FoundBoxes:
    if path.is_file():
        return read_file_boxes(path)
    runs = find_runs(path)
    if len(runs) > 1:
        shown = shown_names(map(str, runs))
        raise LostRegError(
            f"{str(path)!r} holds {counted(len(runs), 'run')} ({shown}): name the one to compare"
        )
    return FoundBoxes.of_results(read_run(runs[0]))


def _shared_dataset(a: FoundBoxes, b: FoundBoxes, options: ScoringOptions) -> Dataset:
    """The dataset that the options name, else the one of both; a run without a dataset takes the other's."""
    named = [found for found in (a, b) if found.settings and found.settings["dataset"] is not None]
    if not options.dataset and len(named) == 2:
        for what in ("dataset", "split"):
            of_a, of_b = a.settings[what], b.settings[what]
            if of_a != of_b:
                raise LostRegError(
                    f"not the same images: the {what} of {a.path} is {of_a!r}, that of {b.path} is {of_b!r}"
                    + ("; if the images are the same, name their `dataset`" if what == "dataset" else "")
                )
    return ground_truth((named or [a])[0], options)


def _check_same_sizes(a: FoundBoxes, b: FoundBoxes) -> None:
    shared = a.sizes_hw.keys() & b.sizes_hw.keys()
    other = sorted(name for name in shared if a.sizes_hw[name] != b.sizes_hw[name])
    if other:
        raise LostRegError(
            f"not the same images: {len(other):,} of them {agreeing(len(other), 'are')} of another size in "
            f"{a.path} than in {b.path} ({shown_names(other)}): was EXIF orientation applied in one of "
            "the two?"
        )


def _compared_run(found: FoundBoxes, dataset: Dataset, images: list[_MatchedImage]) -> ComparedRun:
    unusable = sum(image.truth.image not in found.boxes for image in images)
    return ComparedRun(found.path, found.title, found.settings, unusable, len(found.of_other_size(dataset)))


def _setting_differences(a: FoundBoxes, b: FoundBoxes) -> tuple[SettingDifference, ...] | None:
    if a.settings is None or b.settings is None:
        return None
    of_a, of_b = dict(_flat(a.settings)), dict(_flat(b.settings))
    both = (SettingDifference(name, of_a.get(name), of_b.get(name)) for name in of_a | of_b)
    return tuple(one for one in both if one.a != one.b)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings without nesting: "backbone", "weights.name"; "layer" and "bias" without a prefix."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, "" if key in ("features", "options") else f"{prefix}{key}.")
        else:
            yield prefix + key, value


# --- found or not ------------------------------------------------------------------------------------

_Found = tuple[bool, ...]  # by A, by B


@dataclass(frozen=True)
class _MatchedImage:
    """An image with the objects that count; matches: which of them A's box and B's box match."""

    truth: ImageTruth
    matches: Sequence[Sequence[bool]]

    @property
    def found(self) -> _Found:
        return tuple(map(any, self.matches))


def _matches(box: Box | None, truth: ImageTruth) -> list[bool]:
    if box is None:  # nothing was found, or the image could not be used
        return [False] * len(truth.boxes_xyxy)
    return found_objects(box, truth.boxes_xyxy).tolist()


def _by_class(image: _MatchedImage) -> Iterator[tuple[str, _Found]]:
    """Each class of the image, and whether an object of it was found."""
    found = [set(compress(image.truth.labels, matches)) for matches in image.matches]
    return ((label, tuple(label in labels for labels in found)) for label in set(image.truth.labels))


def _by_size(image: _MatchedImage) -> Iterator[tuple[str, _Found]]:
    """The size of the image's largest object, and whether any object was found."""
    height, width = image.truth.size_hw or (0, 0)
    largest = max((xmax - xmin) * (ymax - ymin) for xmin, ymin, xmax, ymax in image.truth.boxes_xyxy)
    share = largest / (height * width) if height * width > 0 else math.nan
    name = next((name for bound, name in SIZES if share < bound), UNKNOWN_SIZE)
    yield name, image.found


def _groups(
    kind: str, images: Iterable[Iterable[tuple[str, _Found]]], order: Sequence[str] = ()
) -> tuple[Group, ...]:
    """The groups that have images: in the given order, or by name."""
    members: dict[str, list[_Found]] = {}
    for name, found in chain.from_iterable(images):
        members.setdefault(name, []).append(found)
    names = [name for name in order or sorted(members) if name in members]
    paired = [_count(members[name]) for name in names]
    return tuple(Group(kind, *group) for group in zip(names, paired, holm([one.p for one in paired])))


def _count(found: Iterable[_Found]) -> Paired:
    times = Counter(found)
    return Paired(*(times[outcome] for outcome in product((True, False), repeat=2)))
