"""CorLoc of every setting of a sweep; one setting is chosen on some images and scored on the others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from lost_reg import text
from lost_reg.boxes import found_objects
from lost_reg.datasets.catalog import Dataset
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import METHODS, describe_setting, preset_setting
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.json_files import MALFORMED, convert, parse_json, reason_of
from lost_reg.runs.sweep_folder import SCORES_FILE, read_sweep
from lost_reg.scoring.corloc import objects_that_count, wilson_interval
from lost_reg.scoring.found_boxes import FoundBoxes, ScoringOptions, check_complete, ground_truth
from lost_reg.text import counted
from lost_reg.types import Box

Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class SettingScore:
    """One setting.

    setting: as returned by `Setting.recorded`: method, features and options.
    tuned: how many of the tuning images it found; found: how many of the others.
    """

    setting: dict[str, Any]
    tuned: Count
    found: Count


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
    by_image: FoundByImage | None = field(default=None, compare=False)

    @property
    def chosen(self) -> SettingScore:
        """The best setting on the tuning images; the first, if tied."""
        return max(self.settings, key=lambda one: one.tuned)

    @property
    def hindsight(self) -> SettingScore:
        """The best setting on the very images that it is scored on."""
        return max(self.settings, key=lambda one: one.found)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in the order in which they were tried."""
        return tuple(dict.fromkeys(one.setting["method"] for one in self.settings))

    @property
    def as_published(self) -> dict[str, SettingScore]:
        """By name, the methods that are installed and were tried as published, at any `max_side`."""
        published = {name: preset_setting(name).recorded() for name in self.methods if name in METHODS}
        return {
            one.setting["method"]: one
            for one in self.settings
            if {**one.setting, "features": {**one.setting["features"], "max_side": None}}
            == published.get(one.setting["method"])
        }

    def corloc(self, one: SettingScore) -> float:
        """CorLoc in percent, on the images not used for tuning."""
        return 100 * one.found / self.images_scored

    def interval(self, one: SettingScore) -> tuple[float, float]:
        """Wilson's 95 % interval of `corloc`, in percent; biased upwards for the best in hindsight."""
        low, high = wilson_interval(one.found, self.images_scored)
        return 100 * low, 100 * high


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
        dataset, root, partial: as in `ScoringOptions`.
        tune_fraction: the share of the images that the choice is made on.
        seed: for drawing these images.

    Raises:
        LostRegError: an incomplete sweep without `partial`, one without a dataset, missing ground truth,
            or too few images to split.
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


_EMPTY = (0, 0, 0, 0)  # overlaps nothing


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
            f"{counted(images, 'image')} with ground truth cannot be split into {fraction:.0%} to choose on "
            "and a rest: choose another `tune_fraction`, or use more images"
        )
    tuning = np.zeros(images, bool)
    tuning[np.random.default_rng(seed).permutation(images)[:chosen]] = True
    return tuning


# --- text, JSON, CSV ---------------------------------------------------------------------------------


def choice_rows(scores: SweepScores) -> list[dict[str, str]]:
    """The choice, the best in hindsight and each method as published, as rows of a table."""
    shown = {
        f"chosen on {text.counted(scores.images_tuned, 'other image')}": scores.chosen,
        "best in hindsight": scores.hindsight,
        **{f"{title_of(one)} as published{_size(one)}": one for one in scores.as_published.values()},
    }
    return [
        {
            "which": which,
            "setting": f"{title_of(one)}: " * (len(scores.methods) > 1) + describe_setting(one.setting),
            "CorLoc": f"{scores.corloc(one):.1f}",
            "95 % interval": "{:.1f} to {:.1f}".format(*scores.interval(one)),
        }
        for which, one in shown.items()
    ]


def title_of(one: SettingScore) -> str:
    """The name of a setting's method as papers write it, if it is installed."""
    name = str(one.setting["method"])
    return METHODS[name].title if name in METHODS else name


def _size(one: SettingScore) -> str:
    """How the images' size departs from the native one that methods are published with."""
    side = one.setting["features"].get("max_side")
    return f", but at max side {side}" if side else ""


def text_table(scores: SweepScores) -> str:
    """The choice, the best in hindsight and each method as published, as text."""
    return "\n".join(
        [
            f"{scores.backbone} on {scores.dataset} {scores.split}: "
            f"{text.counted(len(scores.settings), 'setting')}{_of_methods(scores)}, "
            f"CorLoc on {text.counted(scores.images_scored, 'image')}",
            text.text_table(choice_rows(scores)),
            f"The choice was made on {text.counted(scores.images_tuned, 'other image')} (`tune_fraction` "
            f"{scores.tune_fraction:g}, `seed` {scores.seed}). The best in hindsight was chosen on the "
            "images that it is scored on: too high to be compared.",
            f"{scores.unusable:,} undecodable (misses), {scores.not_done:,} not done (left out).",
        ]
    )


def _of_methods(scores: SweepScores) -> str:
    return f" of {len(scores.methods)} methods" if len(scores.methods) > 1 else ""


def json_text(scores: SweepScores) -> str:
    """All scores, including every setting's; the report draws its curves from this.

    The chosen setting and the best in hindsight are given by index.
    """
    content = {
        **vars(scores),
        "chosen": scores.settings.index(scores.chosen),
        "hindsight": scores.settings.index(scores.hindsight),
        "settings": [{**one.setting, **_numbers(scores, one)} for one in scores.settings],
    }
    del content["folder"], content["by_image"]
    return json.dumps(content, indent=2)


def csv_text(scores: SweepScores) -> str:
    """A line for each setting, with a header; empty where a setting's method does not have an option."""
    settings = [
        {"method": one.setting["method"], **one.setting["features"], **one.setting["options"]}
        for one in scores.settings
    ]
    numbers = [_numbers(scores, one) for one in scores.settings]
    header = dict.fromkeys(name for row in (*settings, *numbers) for name in row)
    return text.csv_text([{**one, **of_one} for one, of_one in zip(settings, numbers)], header)


def _numbers(scores: SweepScores, one: SettingScore) -> dict[str, Any]:
    low, high = scores.interval(one)
    return {
        "tuned": one.tuned,
        "tuned_corloc": 100 * one.tuned / scores.images_tuned,
        "found": one.found,
        "corloc": scores.corloc(one),
        "interval_low": low,
        "interval_high": high,
    }


# --- the file of scores ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recorded:
    """A setting in the file of scores."""

    method: str
    features: FeatureConfig
    options: dict[str, Any]


def write_scores(scores: SweepScores) -> Path:
    """Write the scores into the sweep folder, as JSON, complete or not at all."""
    path = scores.folder / SCORES_FILE
    with whole_file(path) as part:
        part.write_text(json_text(scores) + "\n", encoding="utf-8")
    return path


def read_scores(folder: Path) -> SweepScores:
    """Read what `write_scores` wrote.

    Raises:
        LostRegError: a file that is missing, or holds something else.
    """
    path = folder / SCORES_FILE
    try:
        content = parse_json(path.read_bytes(), dict[str, Any])
        settings = [
            {**row, "setting": {name: row[name] for name in vars(convert(row, _Recorded))}}
            for row in convert(content.get("settings"), list[dict[str, Any]])
        ]
        scores = convert({**content, "settings": settings, "folder": folder, "by_image": None}, SweepScores)
        if any(
            one.tuned > scores.images_tuned or one.found > scores.images_scored for one in scores.settings
        ):
            raise ValueError("more images found than scored")
    except (OSError, *MALFORMED, LostRegError) as error:
        raise LostRegError(f"{path} does not hold the scores of a sweep: {reason_of(error)}") from None
    return scores
