"""CorLoc of every setting of a sweep; one setting is chosen on some images and scored on the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from lost_reg.boxes import centred_boxes
from lost_reg.datasets.base import REFUSE
from lost_reg.datasets.truths import Truths
from lost_reg.discovery.methods import METHODS, describe_differences, differences
from lost_reg.errors import LostRegError
from lost_reg.json_files import Count, PositiveCount
from lost_reg.runs.sweep_folder import read_sweep
from lost_reg.scoring.columns import AlignedBoxes, found_images, with_objects
from lost_reg.scoring.corloc import CENTRED_SIDE, WHOLE_SIDE, wilson_interval
from lost_reg.scoring.found_boxes import (
    FoundBoxes,
    ScoringOptions,
    backbone_conditions,
    check_complete,
    ground_truth,
    with_sizes,
)
from lost_reg.scoring.paired import mcnemar_p
from lost_reg.text import counted


@dataclass(frozen=True)
class SettingScore:
    """One setting.

    setting: as returned by `Setting.recorded`: method, features and options.
    tuned: how many of the tuning images it found; found: how many of the others.
    """

    setting: dict[str, Any]
    tuned: Count
    found: Count

    @property
    def method(self) -> str:
        """The name of its method."""
        return str(self.setting["method"])

    @cached_property
    def differences(self) -> dict[str, Any]:
        """In what it differs from its method as published."""
        return differences(self.setting)


@dataclass(frozen=True)
class FoundByImage:
    """found: (settings, images) bool, which setting found an object in which image.

    images: names of all tuning and scored images; tuning: (images,) bool, which are for tuning.
    """

    images: tuple[str, ...]
    found: np.ndarray
    tuning: np.ndarray


@dataclass(frozen=True)
class SweepScores:
    """The scores of a sweep.

    images_tuned, images_scored: how many images the choice is made on, and how many others it is scored on.
    unusable: images among both that could not be used, misses for every setting.
    not_done: images that the sweep has not reached, left out.
    conditions: how the backbone differs from that of its name as published, the same for all settings.
    found_centred, found_whole: in how many of the scored images the trivial baselines find an object: a
        centred box and the whole image; None in files of earlier versions.
    alike: how many settings, the chosen one among them, McNemar's test at 5 % does not tell apart from the
        chosen one on the tuning images; None in files of earlier versions.
    by_image: which setting found an object in which image; None for scores that were read from a file.
    """

    folder: Path
    backbone: str
    dataset: str
    split: str
    images_tuned: PositiveCount
    images_scored: PositiveCount
    unusable: Count
    not_done: Count
    tune_fraction: float
    seed: int
    settings: Annotated[tuple[SettingScore, ...], Meta(min_length=1)]
    conditions: tuple[str, ...] = ()
    found_centred: Count | None = None
    found_whole: Count | None = None
    alike: PositiveCount | None = None
    by_image: FoundByImage | None = field(default=None, compare=False)

    @property
    def chosen(self) -> SettingScore:
        """The best setting on the tuning images.

        If several tie, it is one that is as published but for the sweep's conditions, otherwise the first of
        the grid.
        """
        published = [one for one in self.as_published.values() if one in self.tied]
        return (published or self.tied)[0]

    @cached_property
    def tied(self) -> list[SettingScore]:
        """The settings that are best on the tuning images: several if they tie."""
        return _best(self.settings, [one.tuned for one in self.settings])

    @property
    def hindsight(self) -> SettingScore:
        """The best setting on the very images that it is scored on; of several, the first of the grid."""
        return self.tied_in_hindsight[0]

    @cached_property
    def tied_in_hindsight(self) -> list[SettingScore]:
        """The settings that are best on the very images that they are scored on."""
        return _best(self.settings, [one.found for one in self.settings])

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in the order in which they were tried."""
        return tuple(dict.fromkeys(one.method for one in self.settings))

    @cached_property
    def as_published(self) -> dict[str, SettingScore]:
        """By name, the methods that are installed and were tried as published, but for a sweep's conditions.

        The conditions are what all settings of a method have in common and is not as published, such as a
        `max_side`, another layer, or a single bias: see `SettingScore.differences` for them.
        """
        conditions = {name: self._conditions_of(name) for name in self.methods if name in METHODS}
        return {one.method: one for one in self.settings if one.differences == conditions.get(one.method)}

    def _conditions_of(self, method: str) -> dict[str, Any]:
        """In what all settings of a method differ from it as published, in the same way."""
        first, *others = (one.differences for one in self.settings if one.method == method)
        return {
            name: value
            for name, value in first.items()
            if all(name in other and other[name] == value for other in others)
        }

    def departures(self, one: SettingScore) -> list[str]:
        """How a setting, and its backbone, differ from what is published, in words."""
        return [*describe_differences(one.differences), *self.conditions]

    def mean_corloc(self, settings: list[SettingScore]) -> float:
        """The mean CorLoc of several settings, in percent, on the images not used for tuning."""
        return sum(map(self.corloc, settings)) / len(settings)

    def corloc(self, one: SettingScore) -> float:
        """CorLoc in percent, on the images not used for tuning."""
        return 100 * one.found / self.images_scored

    def interval(self, one: SettingScore) -> tuple[float, float]:
        """Wilson's 95 % interval of `corloc`, in percent; biased upwards for the best in hindsight."""
        return self.interval_of(one.found)

    def interval_of(self, found: int) -> tuple[float, float]:
        """Wilson's 95 % interval of a number of the images not used for tuning, in percent."""
        low, high = wilson_interval(found, self.images_scored)
        return 100 * low, 100 * high


def _best(settings: tuple[SettingScore, ...], counts: list[int]) -> list[SettingScore]:
    most = max(counts)
    return [one for one, count in zip(settings, counts) if count == most]


def score_sweep(
    folder: Path,
    *,
    dataset: str | None = None,
    root: Path | None = None,
    tune_fraction: float = 0.1,
    seed: int = 0,
    partial: bool = False,
    unannotated: str = REFUSE,
) -> SweepScores:
    """Score every setting of a sweep folder.

    Args:
        dataset, root, partial, unannotated: as in `ScoringOptions`.
        tune_fraction: the share of the images that the choice is made on.
        seed: for drawing these images.

    Raises:
        LostRegError: an incomplete sweep without `partial`, one without a dataset, missing ground truth,
            or too few images to split.
    """
    sweep = read_sweep(folder)
    found = FoundBoxes.of_results(sweep.results)
    dataset_found = ground_truth(found, ScoringOptions(dataset, root, unannotated=unannotated))
    aligned = found.on(dataset_found)
    dataset_found = with_sizes(dataset_found, aligned)
    if not partial:
        check_complete(found, aligned, dataset_found, "`partial` scores those alone")
    truths = dataset_found.truths
    of_scored = np.flatnonzero(aligned.done & with_objects(truths)).tolist()
    rows = sorted(of_scored, key=truths.names.__getitem__)
    tuning = tuning_images(len(rows), tune_fraction, seed)
    by_setting = _hits(aligned, truths, len(sweep.settings))[:, rows]
    held_out = np.array(rows)[~tuning]
    scores = SweepScores(
        folder=folder,
        backbone=found.title,
        dataset=dataset_found.title,
        split=dataset_found.split,
        images_tuned=int(tuning.sum()),
        images_scored=int((~tuning).sum()),
        unusable=int(np.count_nonzero(aligned.failed[rows])),
        not_done=int(np.count_nonzero(~aligned.done)),
        tune_fraction=tune_fraction,
        seed=seed,
        settings=tuple(
            SettingScore(setting, int(row[tuning].sum()), int(row[~tuning].sum()))
            for setting, row in zip(sweep.settings, by_setting)
        ),
        conditions=tuple(backbone_conditions(sweep.results.settings)),
        found_centred=_found_by_centred(truths, held_out, CENTRED_SIDE),
        found_whole=_found_by_centred(truths, held_out, WHOLE_SIDE),
        by_image=FoundByImage(tuple(truths.names[row] for row in rows), by_setting, tuning),
    )
    chosen = scores.settings.index(scores.chosen)
    return replace(scores, alike=_alike(by_setting[:, tuning], chosen))


def _found_by_centred(truths: Truths, rows: np.ndarray, side: float) -> int:
    """In how many of some images a centred box finds an object; not in those of unknown size."""
    return int(np.count_nonzero(found_images(centred_boxes(truths.sizes_hw, side), truths)[rows]))


def _alike(found: np.ndarray, chosen: int) -> int:
    """How many rows of (settings, images) bool McNemar's test at 5 % does not tell from a chosen one."""
    only_chosen = (found[chosen] & ~found).sum(axis=1)
    only_other = (~found[chosen] & found).sum(axis=1)
    pairs, counts = np.unique(np.stack([only_chosen, only_other], axis=1), axis=0, return_counts=True)
    return sum(int(count) for pair, count in zip(pairs, counts) if mcnemar_p(*map(int, pair)) >= 0.05)


def _hits(found: AlignedBoxes, truths: Truths, settings: int) -> np.ndarray:
    """(S, N) bool: which setting found an object in which image."""
    boxes = found.boxes_xyxy.reshape(len(truths), -1, 4)  # (N, 1, 4) if all images failed
    boxes = np.broadcast_to(boxes, (len(truths), settings, 4))
    return np.stack([found_images(boxes[:, index], truths) for index in range(settings)])


def tuning_images(images: int, fraction: float, seed: int) -> np.ndarray:
    """(images,) bool: a seeded draw of the images that the choice is made on.

    Raises:
        LostRegError: too few images for both parts to have one.
    """
    chosen = round(fraction * images)
    if not 0 < chosen < images:
        raise LostRegError(
            f"{counted(images, 'image')} with ground truth cannot be split into {fraction:.0%} to choose on "
            "and a rest: choose another `tune_fraction`, or use more images"
        )
    tuning = np.zeros(images, bool)
    tuning[np.random.default_rng(seed).permutation(images)[:chosen]] = True
    return tuning
