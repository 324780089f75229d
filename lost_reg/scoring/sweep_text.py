"""The scores of a sweep as text, JSON and CSV, and the file of scores in its folder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lost_reg import text
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.methods import METHODS, describe_setting
from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, whole_file
from lost_reg.json_files import MALFORMED, as_json, convert, parse_json, reason_of
from lost_reg.runs.sweep_folder import SCORES_FILE
from lost_reg.scoring.sweep_scores import SettingScore, SweepScores


def choice_rows(scores: SweepScores) -> list[dict[str, str]]:
    """The choice, the best in hindsight, each method as published and the baselines, as rows of a table.

    Where several settings tie, the row says so, and another has their mean.
    """
    tied, in_hindsight = len(scores.tied), len(scores.tied_in_hindsight)
    on_others = f"chosen on {text.counted(scores.images_tuned, 'other image')}"
    rows = [_setting_row(scores, on_others + _one_of(tied), scores.chosen)]
    if tied > 1:
        mean = f"{scores.mean_corloc(scores.tied):.1f}"
        rows.append(_row(f"mean of the {tied:,} that tie there", "", mean))
    rows.append(_setting_row(scores, "best in hindsight" + _one_of(in_hindsight), scores.hindsight))
    rows += [
        _setting_row(scores, f"{title_of(one)} as published{_but_at(scores, one)}", one)
        for one in scores.as_published.values()
    ]
    for name, found in baselines(scores).items():
        low, high = scores.interval_of(found)
        rows.append(_row(name, "", f"{100 * found / scores.images_scored:.1f}", f"{low:.1f} to {high:.1f}"))
    return rows


def _setting_row(scores: SweepScores, which: str, one: SettingScore) -> dict[str, str]:
    interval = "{:.1f} to {:.1f}".format(*scores.interval(one))
    return _row(which, _named(scores, one), f"{scores.corloc(one):.1f}", interval)


def _named(scores: SweepScores, one: SettingScore) -> str:
    """A setting in a few words, with its method if there are several."""
    return f"{title_of(one)}: " * (len(scores.methods) > 1) + describe_setting(one.setting)


def _row(which: str, setting: str, corloc: str, interval: str = "") -> dict[str, str]:
    return {"which": which, "setting": setting, "CorLoc": corloc, "95 % interval": interval}


def _one_of(settings: int) -> str:
    return f" (one of {settings:,} that tie)" if settings > 1 else ""


def baselines(scores: SweepScores) -> dict[str, int]:
    """In how many of the scored images each trivial baseline finds an object; empty if not recorded."""
    found = {"centred box": scores.found_centred, "whole image": scores.found_whole}
    return {name: count for name, count in found.items() if count is not None}


def title_of(one: SettingScore) -> str:
    """The name of a setting's method as papers write it, if it is installed."""
    return METHODS[one.method].title if one.method in METHODS else one.method


def _but_at(scores: SweepScores, one: SettingScore) -> str:
    """The conditions of a sweep that are not as published, such as ", but at max side 224, bf16"."""
    departures = scores.departures(one)
    return f", but at {', '.join(departures)}" if departures else ""


_DROPPED = ("95 % interval", "setting")  # for want of width


def text_table(scores: SweepScores, width: int | None = None) -> str:
    """The choice, the best in hindsight, each method as published and the baselines, as text.

    width: of the table; below it, the settings chosen are written out.
    """
    chosen, best = (_named(scores, one) for one in (scores.chosen, scores.hindsight))
    return "\n".join(
        [
            f"{scores.backbone} on {scores.dataset} {scores.split}: "
            f"{text.counted(len(scores.settings), 'setting')}{_of_methods(scores)}, "
            f"CorLoc on {text.counted(scores.images_scored, 'image')}",
            text.text_table(choice_rows(scores), width=width, drop=_DROPPED),
            f"Chosen on {text.counted(scores.images_tuned, 'other image')} (`tune_fraction` "
            f"{scores.tune_fraction:g}, `seed` {scores.seed}): {chosen}.",
            f"The best in hindsight, {best}, was chosen on the images that it is scored on: too high to be "
            "compared.",
            *choice_notes(scores),
            f"{scores.unusable:,} undecodable (misses), {scores.not_done:,} not done (left out).",
        ]
    )


def choice_notes(scores: SweepScores) -> list[str]:
    """How much the choice says: the rule among settings that tie, and how many cannot be told apart."""
    images, lines = text.counted(scores.images_tuned, "image"), []
    if len(scores.tied) > 1:
        is_published = scores.chosen in scores.as_published.values()
        rule = "the one as published" if is_published else "the first in the order of the sweep"
        lines.append(
            f"{text.counted(len(scores.tied), 'setting')} tie on the {images} of the choice: {rule} is taken."
        )
    if scores.alike and len(scores.settings) > 1:
        lines.append(
            f"{scores.alike:,} of {text.counted(len(scores.settings), 'setting')}, the chosen one included, "
            f"cannot be told apart on these {images} (McNemar's test, p >= 0.05)."
        )
    return lines


def chance_warning(scores: SweepScores) -> str | None:
    """One line if the choice is mostly chance: most settings cannot be told apart from the chosen one."""
    if not scores.alike or scores.alike == 1 or 2 * scores.alike <= len(scores.settings):
        return None
    return (
        f"{scores.alike:,} of {text.counted(len(scores.settings), 'setting')} cannot be told apart on the "
        f"{text.counted(scores.images_tuned, 'image')} that the choice was made on: it is mostly chance; try "
        "more images, a larger `tune_fraction` or fewer settings"
    )


def _of_methods(scores: SweepScores) -> str:
    return f" of {len(scores.methods)} methods" if len(scores.methods) > 1 else ""


def json_text(scores: SweepScores) -> str:
    """All scores, including every setting's; the report draws its curves from this.

    The chosen setting, those that tie with it, the best in hindsight and the methods as published are given
    by index.
    """
    recorded = {one.name: getattr(scores, one.name) for one in fields(scores)}
    index = {id(one): number for number, one in enumerate(scores.settings)}
    content = {
        **recorded,
        "chosen": index[id(scores.chosen)],
        "tied": [index[id(one)] for one in scores.tied],
        "tied_corloc": scores.mean_corloc(scores.tied),
        "hindsight": index[id(scores.hindsight)],
        "as_published": {name: index[id(one)] for name, one in scores.as_published.items()},
        **_percentages(scores),
        "settings": [{**one.setting, **_numbers(scores, one)} for one in scores.settings],
    }
    del content["folder"], content["by_image"]
    return as_json(content, indent=2)


def csv_text(scores: SweepScores) -> str:
    """A line for each setting, with a header; empty where a setting's method does not have an option."""
    of_sweep = {"backbone": scores.backbone, "dataset": scores.dataset, "split": scores.split}
    rows = []
    for one in scores.settings:
        numbers = _numbers(scores, one)
        departures = "; ".join(numbers.pop("departures"))
        settings = {"method": one.method, **one.setting["features"], **one.setting["options"]}
        last = {**_percentages(scores), "departures": departures}
        rows.append({**of_sweep, **settings, **numbers, **last})
    header = dict.fromkeys(name for row in rows for name in row if name not in last)
    return text.csv_text(rows, [*header, *last])


def _percentages(scores: SweepScores) -> dict[str, float | None]:
    """CorLoc of the baselines, as `lost-reg corloc` has it."""
    counts = {"centred": scores.found_centred, "whole": scores.found_whole}
    return {
        name: None if count is None else 100 * count / scores.images_scored for name, count in counts.items()
    }


def _numbers(scores: SweepScores, one: SettingScore) -> dict[str, Any]:
    low, high = scores.interval(one)
    return {
        "tuned": one.tuned,
        "tuned_corloc": 100 * one.tuned / scores.images_tuned,
        "found": one.found,
        "corloc": scores.corloc(one),
        "interval_low": low,
        "interval_high": high,
        "departures": scores.departures(one),
    }


# --- the file of scores ------------------------------------------------------------------------------


_Value = bool | int | float | str | None


@dataclass(frozen=True)
class _Recorded:
    """A setting in the file of scores."""

    method: str
    features: FeatureConfig
    options: dict[str, _Value | list[_Value]]
    refine: str | None = None


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
        content = parse_json(read_regular(path), dict[str, Any])
        settings = [
            {**row, "setting": {name: row[name] for name in vars(convert(row, _Recorded)) if name in row}}
            for row in convert(content.get("settings"), list[dict[str, Any]])
        ]
        scores = convert({**content, "settings": settings, "folder": folder, "by_image": None}, SweepScores)
        if any(
            one.tuned > scores.images_tuned or one.found > scores.images_scored for one in scores.settings
        ):
            raise ValueError("more images found than scored")
        named = {
            (one.method, *sorted(one.setting["features"]), *sorted(one.setting["options"]))
            for one in scores.settings
        }
        if len(named) > len(scores.methods):
            raise ValueError("settings of one method have other options than each other")
    except (OSError, *MALFORMED, LostRegError) as error:
        raise LostRegError(f"{path} does not hold the scores of a sweep: {reason_of(error)}") from None
    return scores
