"""The scores of a sweep: as text for people, as JSON and CSV, and as the file in the sweep folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from lost_reg import text as texts
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import describe_setting
from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.json_files import MALFORMED, convert, parse_json, reason_of
from lost_reg.runs.sweep_folder import SCORES_FILE
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores


def text_table(scores: SweepScores) -> str:
    """The choice, the best in hindsight and LOST as published, for people."""
    rows = [("chosen on the others", scores.chosen), ("best in hindsight", scores.hindsight)]
    if scores.as_published:
        rows.append(("LOST as published", scores.as_published))
    cells = []
    for what, one in rows:
        low, high = scores.interval(one)
        interval = f"{low:.1f} to {high:.1f}"
        cells.append([what, describe_setting(one.setting), f"{scores.corloc(one):.1f}", interval])
    return "\n".join(
        [
            f"{scores.backbone} on {scores.dataset} {scores.split}: {len(scores.settings):,} settings, "
            f"CorLoc on {scores.images_scored:,} images",
            texts.text_table(["", "setting", "CorLoc", "95 % interval"], cells),
            f"The choice was made on {scores.images_tuned:,} other images (`tune_fraction` "
            f"{scores.tune_fraction:g}, `seed` {scores.seed}). The best in hindsight was chosen on the "
            "images that it is scored on: too high to be compared.",
            f"{scores.unusable:,} undecodable (misses), {scores.not_done:,} not done (left out).",
        ]
    )


def json_text(scores: SweepScores) -> str:
    """Everything, every setting included; also what the report draws its curves from.

    The chosen setting and the best in hindsight are given by their index.
    """
    content = {
        **{name: getattr(scores, name) for name in _ScoresFile.__dataclass_fields__},
        "chosen": scores.settings.index(scores.chosen),
        "hindsight": scores.settings.index(scores.hindsight),
        "settings": [{**one.setting, **_numbers(scores, one)} for one in scores.settings],
    }
    return json.dumps(content, indent=2)


def csv_text(scores: SweepScores) -> str:
    """A line for each setting, with a header."""
    rows = []
    for one in scores.settings:
        setting = {"method": one.setting["method"], **one.setting["features"], **one.setting["options"]}
        rows.append({**setting, **_numbers(scores, one)})
    return texts.csv_text(rows)


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

_Count = Annotated[int, Meta(ge=0)]
_Positive = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class _SettingRow:
    """A setting in the file of scores, without the numbers that follow from these."""

    method: str
    features: FeatureConfig
    options: dict[str, Any]
    tuned: _Count
    found: _Count


@dataclass(frozen=True)
class _ScoresFile:
    """The file of scores, without what follows from these."""

    backbone: str
    dataset: str
    split: str
    images_tuned: _Positive
    images_scored: _Positive
    unusable: _Count
    not_done: _Count
    tune_fraction: float
    seed: int
    settings: Annotated[list[_SettingRow], Meta(min_length=1)]


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
        checked = convert(content, _ScoresFile)
        if any(
            one.tuned > checked.images_tuned or one.found > checked.images_scored for one in checked.settings
        ):
            raise ValueError("more images found than scored")
    except (OSError, *MALFORMED, LostRegError) as error:
        raise LostRegError(f"{path} does not hold the scores of a sweep: {reason_of(error)}") from None
    settings = tuple(
        SettingScore({key: row[key] for key in ("method", "features", "options")}, row["tuned"], row["found"])
        for row in content["settings"]
    )
    return SweepScores(folder, **{**vars(checked), "settings": settings})
