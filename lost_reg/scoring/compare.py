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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.datasets.catalog import Dataset
from lost_reg.datasets.truths import Truths
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import find_runs
from lost_reg.scoring.columns import AlignedBoxes, any_of_image, matching_objects, with_objects
from lost_reg.scoring.found_boxes import (
    FoundBoxes,
    ScoringOptions,
    check_complete,
    ground_truth,
    read_file_boxes,
    split_title,
    with_sizes,
)
from lost_reg.scoring.paired import Paired, holm
from lost_reg.text import agreeing, counted, shown_names

# Upper bounds on the share of the image. From one half on, the whole image as a box has IoU >= 0.5.
SIZES = ((0.05, "< 5 %"), (0.2, "5-20 %"), (0.5, "20-50 %"), (math.inf, ">= 50 %"))
UNKNOWN_SIZE = "unknown"

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
    check_same_dataset(a, b, options)
    named = [found for found in (a, b) if _names_dataset(found)]
    dataset = ground_truth((named or [a])[0], options)
    return compare_found(a, b, (a.on(dataset), b.on(dataset)), dataset, options)


def compare_found(
    a: FoundBoxes,
    b: FoundBoxes,
    on_dataset: tuple[AlignedBoxes, AlignedBoxes],
    dataset: Dataset,
    options: ScoringOptions,
) -> Comparison:
    """Compare the boxes of two runs, which are in the rows of a dataset; see `compare`."""
    _check_same_sizes(a, b, *on_dataset, dataset)
    dataset = with_sizes(dataset, *on_dataset)
    if not options.partial:
        for found, aligned in zip((a, b), on_dataset):
            check_complete(found, aligned, dataset, "`partial` compares the images that both did")
    done = on_dataset[0].done & on_dataset[1].done
    truths = dataset.truths.counting(options.count_hard)
    compared = done & with_objects(truths)
    images = int(np.count_nonzero(compared))
    if not images:
        raise LostRegError("nothing to compare: no image that both did has a ground-truth box")
    matches = [matching_objects(one.boxes_xyxy, truths) for one in on_dataset]
    by_a, by_b = (any_of_image(one, truths) & compared for one in matches)
    return Comparison(
        a=_compared_run(a, on_dataset[0], dataset, compared),
        b=_compared_run(b, on_dataset[1], dataset, compared),
        dataset=dataset.title,
        split=split_title(dataset, options),
        differences=setting_differences(a.settings, b.settings),
        total=_paired(by_a[compared], by_b[compared]),
        classes=_by_class(truths, matches, compared),
        sizes=_by_size(truths, [by_a, by_b], compared),
        only_a=tuple(compress(truths.names, by_a & ~by_b)),
        only_b=tuple(compress(truths.names, by_b & ~by_a)),
        without_truth=int(np.count_nonzero(done)) - images,
        not_done=len(truths) - int(np.count_nonzero(done)),
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
    return FoundBoxes.of_run(runs[0])


def check_same_dataset(a: FoundBoxes, b: FoundBoxes, options: ScoringOptions) -> None:
    """Check that two runs are on one dataset; a run without a dataset takes the other's.

    Raises:
        LostRegError: they name different ones, and the options name none.
    """
    if options.dataset or not (_names_dataset(a) and _names_dataset(b)):
        return
    for what in ("dataset", "split"):
        of_a, of_b = a.settings[what], b.settings[what]
        if of_a != of_b:
            raise LostRegError(
                f"not the same images: the {what} of {a.path} is {of_a!r}, that of {b.path} is {of_b!r}"
                + ("; if the images are the same, name their `dataset`" if what == "dataset" else "")
            )


def _names_dataset(found: FoundBoxes) -> bool:
    return bool(found.settings and found.settings["dataset"] is not None)


def _check_same_sizes(
    a: FoundBoxes, b: FoundBoxes, on_a: AlignedBoxes, on_b: AlignedBoxes, dataset: Dataset
) -> None:
    is_known = (on_a.sizes_hw[:, 0] > 0) & (on_b.sizes_hw[:, 0] > 0)
    other = is_known & (on_a.sizes_hw != on_b.sizes_hw).any(axis=1)
    names = sorted(compress(dataset.truths.names, other))
    if names:
        raise LostRegError(
            f"not the same images: {len(names):,} of them {agreeing(len(names), 'are')} of another size in "
            f"{a.path} than in {b.path} ({shown_names(names)}): was EXIF orientation applied in one of "
            "the two?"
        )


def _compared_run(
    found: FoundBoxes, aligned: AlignedBoxes, dataset: Dataset, compared: np.ndarray
) -> ComparedRun:
    unusable = int(np.count_nonzero(aligned.failed & compared))
    other_size = aligned.of_other_size(dataset.truths)
    return ComparedRun(found.path, found.title, found.settings, unusable, other_size)


def setting_differences(
    a: dict[str, Any] | None, b: dict[str, Any] | None
) -> tuple[SettingDifference, ...] | None:
    """The settings that differ, nested ones by names such as "weights.name"; None if either is not known."""
    if a is None or b is None:
        return None
    of_a, of_b = dict(_flat(a)), dict(_flat(b))
    both = (SettingDifference(name, of_a.get(name), of_b.get(name)) for name in of_a | of_b)
    return tuple(one for one in both if one.a != one.b)


def causes_of(differences: Sequence[SettingDifference]) -> tuple[str, ...]:
    """The settings that can explain a difference; a backbone and its weights count as one."""
    names = ("backbone" if one.setting.startswith("weights.") else one.setting for one in differences)
    return tuple(dict.fromkeys(name for name in names if name not in _NO_CAUSE))


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings without nesting: "backbone", "weights.name"; "layer" and "bias" without a prefix."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, "" if key in ("features", "options") else f"{prefix}{key}.")
        else:
            yield prefix + key, value


# --- found or not ------------------------------------------------------------------------------------


def _by_class(truths: Truths, matches: Sequence[np.ndarray], compared: np.ndarray) -> tuple[Group, ...]:
    """Per class, the images that contain it, and whether an object of it was found."""
    classes = len(truths.classes)
    pairs = truths.image_of * classes + truths.labels  # of each object: its image and its class
    of_compared = compared[truths.image_of]
    contained = np.unique(pairs[of_compared])
    found = [np.isin(contained, pairs[of_compared & matched]) for matched in matches]
    return _groups("class", contained % max(1, classes), found, sorted(truths.classes), truths.classes)


def _by_size(truths: Truths, found: Sequence[np.ndarray], compared: np.ndarray) -> tuple[Group, ...]:
    """Per size of the image's largest object, the images, and whether any object was found."""
    xmin, ymin, xmax, ymax = truths.boxes_xyxy.T
    rows = np.flatnonzero(compared)  # each has an object
    largest = np.full(len(truths), -np.inf)
    np.maximum.at(largest, truths.image_of, (xmax - xmin) * (ymax - ymin))
    areas = truths.sizes_hw.prod(axis=1)
    shares = np.divide(largest, areas, out=np.full(len(truths), np.nan), where=areas > 0)[rows]
    names = [*(name for _, name in SIZES), UNKNOWN_SIZE]
    sizes = np.searchsorted([bound for bound, _ in SIZES], shares, side="right")  # NaN comes last
    return _groups("largest object", sizes, [one[rows] for one in found], names, names)


def _groups(
    kind: str, groups: np.ndarray, found: Sequence[np.ndarray], order: Sequence[str], names: Sequence[str]
) -> tuple[Group, ...]:
    """The groups that have images, in the given order.

    Args:
        groups: (N,) int, the place in `names` of the group of each image.
        found: by A and by B, (N,) bool.
    """
    outcomes = np.bincount(4 * groups + _outcomes(*found), minlength=4 * len(names)).reshape(-1, 4)
    counts = dict(zip(names, outcomes.tolist()))
    shown = [name for name in order if any(counts[name])]
    paired = [Paired(*counts[name]) for name in shown]
    return tuple(Group(kind, *group) for group in zip(shown, paired, holm([one.p for one in paired])))


def _paired(by_a: np.ndarray, by_b: np.ndarray) -> Paired:
    return Paired(*np.bincount(_outcomes(by_a, by_b), minlength=4).tolist())


def _outcomes(by_a: np.ndarray, by_b: np.ndarray) -> np.ndarray:
    """(N,) int: the place of each image among the fields of `Paired`: both, only A, only B, neither."""
    return 2 * ~by_a + ~by_b
