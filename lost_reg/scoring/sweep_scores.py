"""CorLoc of every setting of a sweep; one is chosen on some of the images and reported on the others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg import text as texts
from lost_reg.boxes import found_objects
from lost_reg.datasets.catalog import Dataset, data_root, find_dataset
from lost_reg.errors import LostRegError, one_line
from lost_reg.files import whole_file
from lost_reg.runs.folder import Results
from lost_reg.runs.sweep_folder import SCORES_FILE, SweepResults, read_sweep
from lost_reg.scoring.corloc import objects_that_count, wilson_interval
from lost_reg.scoring.score_runs import describe_backbone
from lost_reg.types import Protocol


@dataclass(frozen=True)
class SettingScore:
    """One setting. tuned: images found of those for choosing; found: of the others."""

    protocol: Protocol
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
        return next((one for one in self.settings if one.protocol.recorded() | _SIZE == _PUBLISHED), None)

    def corloc(self, one: SettingScore) -> float:
        """In percent, on the images that did not choose."""
        return 100 * one.found / self.images_scored

    def interval(self, one: SettingScore) -> tuple[float, float]:
        """Wilson's 95 % interval of it, in percent; too high for the best in hindsight."""
        low, high = wilson_interval(one.found, self.images_scored)
        return 100 * low, 100 * high


_SIZE = {"max_side": None}
_PUBLISHED = Protocol().recorded()
_NOT_IN_JSON = ("settings", "folder", "by_image")


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
        seed: of the draw of those.
        partial: whether a sweep that is incomplete is scored on what is done.

    Raises:
        LostRegError: an incomplete sweep without `partial`, one of no dataset, ground truth that is not
            there, or too few images to be split.
    """
    sweep = read_sweep(folder)
    results = sweep.results
    name = dataset or results.settings.get("dataset")
    if name is None:
        raise LostRegError(f"{folder} is a sweep on files of your own: name its ground truth with --dataset")
    truths = find_dataset(name, data_root(root, results.record.get("data_root")))
    done, not_done = _done(folder, results, truths, partial)
    scored = sorted(image for image in done if objects_that_count(truths.truths[image]).boxes_xyxy)
    tuning = tuning_images(len(scored), tune_fraction, seed)
    found = np.stack([_found(sweep, image, truths) for image in scored], axis=1)
    return SweepScores(
        folder=folder,
        backbone=_backbone(results),
        dataset=truths.title,
        split=truths.split,
        images_tuned=int(tuning.sum()),
        images_scored=int((~tuning).sum()),
        unusable=sum(image in results.failures for image in scored),
        not_done=not_done,
        tune_fraction=tune_fraction,
        seed=seed,
        settings=tuple(
            SettingScore(protocol, int(row[tuning].sum()), int(row[~tuning].sum()))
            for protocol, row in zip(sweep.protocols, found)
        ),
        by_image=FoundByImage(tuple(scored), found, tuning),
    )


def _done(folder: Path, results: Results, truths: Dataset, partial: bool) -> tuple[set[str], int]:
    """The images that are done, and how many are not."""
    done = {*results.predictions, *results.failures}
    unknown = sorted(done - truths.truths.keys())
    if unknown:
        raise LostRegError(
            f"no ground truth for {texts.shown_names(unknown)}: is {folder} a sweep of this dataset?"
        )
    missing = len(truths.truths) - len(done)
    if missing and not partial:
        raise LostRegError(
            f"{folder} covers {len(done):,} of the {len(truths.truths):,} images of {truths.title}: --resume "
            "finishes it, --partial scores what is done"
        )
    return done, missing


def _found(sweep: SweepResults, image: str, truths: Dataset) -> np.ndarray:
    """(S,) bool: which settings found an object in an image."""
    one = sweep.results.predictions.get(image)
    if one is None:
        return np.zeros(len(sweep.protocols), bool)
    true = objects_that_count(truths.truths[image]).boxes_xyxy
    return found_objects(np.array(one.boxes_xyxy), true).any(axis=1)


def tuning_images(images: int, fraction: float, seed: int) -> np.ndarray:
    """(images,) bool: a seeded draw of the images that the choice is made on."""
    chosen = round(fraction * images)
    if not 0 < chosen < images:
        raise LostRegError(
            f"{images} images with ground truth cannot be split into {fraction:.0%} to choose on and a rest: "
            "take another --tune-fraction, or more images"
        )
    tuning = np.zeros(images, bool)
    tuning[np.random.default_rng(seed).permutation(images)[:chosen]] = True
    return tuning


def _backbone(results: Results) -> str:
    """Its name with what sets it apart, but for the protocol, of which there are many here."""
    settings = {**results.settings, "protocol": _PUBLISHED}
    return describe_backbone(Results(results.folder, {**results.record, "settings": settings}, {}, {}))


# --- tables ------------------------------------------------------------------------------------------


def describe_setting(protocol: Protocol) -> str:
    """A setting in a few words, such as "k of layer -1, normalised, bias -0.2"."""
    parts = [f"{protocol.facet} of layer {protocol.layer}"]
    parts += ["centred"] * protocol.center
    parts.append("normalised" if protocol.normalize else "raw")
    parts.append(f"bias {protocol.bias:g}" if isinstance(protocol.bias, (int, float)) else "bias auto")
    parts += [f"k = {protocol.k_patches}"] * (protocol.k_patches != Protocol().k_patches)
    return ", ".join(parts)


def text_table(scores: SweepScores) -> str:
    """The choice, the best in hindsight and LOST as published, for people."""
    rows = [("chosen on the others", scores.chosen), ("best in hindsight", scores.hindsight)]
    if scores.as_published:
        rows.append(("LOST as published", scores.as_published))
    cells = []
    for what, one in rows:
        low, high = scores.interval(one)
        interval = f"{low:.1f} to {high:.1f}"
        cells.append([what, describe_setting(one.protocol), f"{scores.corloc(one):.1f}", interval])
    return "\n".join(
        [
            f"{scores.backbone} on {scores.dataset} {scores.split}: {len(scores.settings):,} settings, "
            f"CorLoc on {scores.images_scored:,} images",
            texts.text_table(["", "setting", "CorLoc", "95 % interval"], cells),
            f"The choice was made on {scores.images_tuned:,} other images (--tune-fraction "
            f"{scores.tune_fraction:g}, --seed {scores.seed}). The best in hindsight was chosen on the "
            "images that it is scored on: too high to be compared.",
            f"{scores.unusable:,} undecodable (misses), {scores.not_done:,} not done (left out).",
        ]
    )


def json_text(scores: SweepScores) -> str:
    """Everything, every setting included; also what the report draws its curves from."""
    return json.dumps(as_dict(scores), indent=2)


def as_dict(scores: SweepScores) -> dict[str, Any]:
    """For JSON: the settings in order, the chosen one and the best in hindsight by their index."""
    return {
        **{k: v for k, v in vars(scores).items() if k not in _NOT_IN_JSON},
        "chosen": scores.settings.index(scores.chosen),
        "hindsight": scores.settings.index(scores.hindsight),
        "settings": [_row(scores, one) for one in scores.settings],
    }


def _row(scores: SweepScores, one: SettingScore) -> dict[str, Any]:
    low, high = scores.interval(one)
    return {
        **one.protocol.recorded(),
        "tuned_corloc": 100 * one.tuned / scores.images_tuned,
        "found": one.found,
        "corloc": scores.corloc(one),
        "interval_low": low,
        "interval_high": high,
    }


def csv_text(scores: SweepScores) -> str:
    """A line for each setting, with a header."""
    return texts.csv_text([_row(scores, one) for one in scores.settings])


def write_scores(scores: SweepScores) -> Path:
    """Write the scores into the sweep folder, as JSON, as a whole or not at all."""
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
        content = json.loads(path.read_text(encoding="utf-8"))
        counts = {
            name: int(content[name]) for name in ("images_tuned", "images_scored", "unusable", "not_done")
        }
        settings = tuple(_setting_of(row, counts["images_tuned"]) for row in content["settings"])
        if not settings or min(counts["images_tuned"], counts["images_scored"]) < 1:
            raise ValueError("nothing in it was scored")
        if any(not 0 <= one.found <= counts["images_scored"] for one in settings):
            raise ValueError("more images found than scored")
        return SweepScores(
            folder=folder,
            **{name: str(content[name]) for name in ("backbone", "dataset", "split")},
            **counts,
            tune_fraction=float(content["tune_fraction"]),
            seed=int(content["seed"]),
            settings=settings,
        )
    except (
        OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, LostRegError
    ) as error:  # fmt: skip
        reason = one_line(f"{type(error).__name__} {error}")
        raise LostRegError(f"{path} does not hold the scores of a sweep: {reason}") from None


def _setting_of(row: dict[str, Any], images_tuned: int) -> SettingScore:
    """The setting behind a row of `as_dict`."""
    protocol = Protocol(**{name: row[name] for name in _PUBLISHED})
    if not isinstance(protocol.layer, int):
        raise TypeError(f"expected a layer, but got {protocol.layer!r}")
    return SettingScore(protocol, round(row["tuned_corloc"] * images_tuned / 100), int(row["found"]))
