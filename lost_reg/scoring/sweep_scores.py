"""CorLoc of every setting of a sweep; one is chosen on some of the images and reported on the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.boxes import found_objects
from lost_reg.datasets.catalog import Dataset
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.runs.sweep_folder import read_sweep
from lost_reg.scoring.corloc import objects_that_count, wilson_interval
from lost_reg.scoring.found_boxes import FoundBoxes, ScoringOptions, check_complete, ground_truth
from lost_reg.types import Box


@dataclass(frozen=True)
class SettingScore:
    """One setting.

    setting: as `Setting.recorded` gives it: method, features and options.
    tuned: images found of those for choosing; found: of the others.
    """

    setting: dict[str, Any]
    tuned: int
    found: int


@dataclass(frozen=True)
class FoundByImage:
    """found: (settings, images) bool, which setting found an object in which image.

    images: the names of those that choose or are scored; tuning: (images,) bool, which of them choose.
    """

    images: tuple[str, ...]
    found: np.ndarray
    tuning: np.ndarray


@dataclass(frozen=True)
class SweepScores:
    """A sweep, scored.

    images_tuned, images_scored: how many images choose, and how many others the choice is reported on.
    unusable: images of both that could not be used, misses of every setting.
    not_done: images that the sweep has not reached, left out.
    by_image: which setting found an object in which image; None for scores that were read from a file.
    """

    folder: Path
    backbone: str
    dataset: str
    split: str
    images_tuned: int
    images_scored: int
    unusable: int
    not_done: int
    tune_fraction: float
    seed: int
    settings: tuple[SettingScore, ...]
    by_image: FoundByImage | None = field(default=None, compare=False)

    @property
    def chosen(self) -> SettingScore:
        """The best on the images for choosing; of several, the first."""
        return max(self.settings, key=lambda one: one.tuned)

    @property
    def hindsight(self) -> SettingScore:
        """The best on the very images that it is reported on."""
        return max(self.settings, key=lambda one: one.found)

    @property
    def as_published(self) -> SettingScore | None:
        """LOST as published, if it was among the settings (at any `max_side`)."""
        published = Setting().recorded()
        return next((one for one in self.settings if _at_native_size(one.setting) == published), None)

    def corloc(self, one: SettingScore) -> float:
        """In percent, on the images that did not choose."""
        return 100 * one.found / self.images_scored

    def interval(self, one: SettingScore) -> tuple[float, float]:
        """Wilson's 95 % interval of it, in percent; too high for the best in hindsight."""
        low, high = wilson_interval(one.found, self.images_scored)
        return 100 * low, 100 * high


def _at_native_size(setting: dict[str, Any]) -> dict[str, Any]:
    return {**setting, "features": {**setting["features"], "max_side": None}}


def score_sweep(
    folder: Path,
    *,
    dataset: str | None = None,
    root: Path | None = None,
    tune_fraction: float = 0.1,
    seed: int = 0,
    partial: bool = False,
) -> SweepScores:
    """Score every setting of a sweep folder.

    Args:
        dataset: the ground truth, for a sweep on files of the user's.
        root: the data root.
        tune_fraction: the share of the images that the choice is made on.
        seed: of the random draw of those.
        partial: whether an incomplete sweep is scored on the images that are done.

    Raises:
        LostRegError: an incomplete sweep without `partial`, one of no dataset, ground truth that is
            missing, or too few images to be split.
    """
    sweep = read_sweep(folder)
    found = FoundBoxes.of_results(sweep.results, sweep.boxes)
    truths = ground_truth(found, ScoringOptions(dataset, root))
    found = found.on(truths)
    if not partial:
        check_complete(found, truths, "`partial` scores those alone")
    scored = sorted(image for image in found.done if objects_that_count(truths.truths[image]).boxes_xyxy)
    tuning = tuning_images(len(scored), tune_fraction, seed)
    nothing = (None,) * len(sweep.settings)
    hits = [_hits(found.boxes.get(image, nothing), truths, image) for image in scored]
    by_setting = np.stack(hits, axis=1)  # (settings, images)
    return SweepScores(
        folder=folder,
        backbone=found.title,
        dataset=truths.title,
        split=truths.split,
        images_tuned=int(tuning.sum()),
        images_scored=int((~tuning).sum()),
        unusable=sum(image in found.failures for image in scored),
        not_done=len(truths.truths) - len(found.done),
        tune_fraction=tune_fraction,
        seed=seed,
        settings=tuple(
            SettingScore(setting, int(row[tuning].sum()), int(row[~tuning].sum()))
            for setting, row in zip(sweep.settings, by_setting)
        ),
        by_image=FoundByImage(tuple(scored), by_setting, tuning),
    )


_EMPTY = (0, 0, 0, 0)  # overlaps with nothing


def _hits(boxes: tuple[Box | None, ...], truths: Dataset, image: str) -> np.ndarray:
    """(S,) bool: which settings found an object in an image."""
    objects = objects_that_count(truths.truths[image]).boxes_xyxy
    return np.any(found_objects(np.array([box or _EMPTY for box in boxes]), objects), axis=1)


def tuning_images(images: int, fraction: float, seed: int) -> np.ndarray:
    """(images,) bool: a seeded draw of the images that the choice is made on.

    Raises:
        LostRegError: too few images for both parts to have one.
    """
    chosen = round(fraction * images)
    if not 0 < chosen < images:
        raise LostRegError(
            f"{images} images with ground truth cannot be split into {fraction:.0%} to choose on and a rest: "
            "take another `tune_fraction`, or more images"
        )
    tuning = np.zeros(images, bool)
    tuning[np.random.default_rng(seed).permutation(images)[:chosen]] = True
    return tuning
