"""The measurements of backbones, as tables, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lost_reg import text
from lost_reg.artifacts.records import (
    CONTROLS,
    GROUPS,
    MEASURES,
    RULES,
    BackboneArtifacts,
    ControlScore,
    CorLocChange,
    Measure,
    ProbeScores,
    SeedStatistics,
)
from lost_reg.json_files import as_json

NONE = "-"
_TOO_FEW = (
    "Too few: in brackets, how many there are, of how many a probe needs: patches to learn from, or images "
    "to be tested on. Measure more images."
)
# What tables leave out for want of width, the first first.
_DROPPED = ("images that tie", "rest", "cosine: outliers")
_CONTROLS_DROPPED = (
    "changed",
    "class token, cosine",
    "from other patches",
    "seeds moved",
    "seeds on outliers",
)
_PROBES_DROPPED = ("learned from", "tested on", "distance in cells")


def percent(share: float | None) -> str:
    """A share in [0, 1], or None if nothing was measured, as percent."""
    return NONE if share is None else f"{_digits(100 * share)} %"


def _digits(number: float) -> str:
    """A number with three digits or so, such as "25.0" and "0.57"."""
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def tables_text(backbones: Sequence[BackboneArtifacts], width: int | None = None) -> str:
    """All that is shown in a terminal: a summary, controls, linear probes. `width`: see `text.text_table`."""
    lines = [summary_table(backbones, width)]
    shorten = ("tokens", "backbone")
    if controls := control_rows(backbones):
        lines.append("\nControls, with 95 % intervals, and p also after Holm's correction by column:")
        lines.append(text.text_table(controls, width=width, drop=_CONTROLS_DROPPED, shorten=shorten))
    lines.append("\nLinear probes of position and pixels, with 95 % intervals over images:")
    rows = probe_rows(backbones)
    lines.append(text.text_table(rows, width=width, drop=_PROBES_DROPPED, shorten=("backbone",)))
    lines += too_few_notes(backbones)
    return "\n".join(lines)


def summary_table(backbones: Sequence[BackboneArtifacts], width: int | None = None) -> str:
    """A line for each backbone, for the layer where outliers are measured, for a terminal."""
    chosen = backbones[0].outliers.rule
    fixed = backbones[0].layers[0].cutoffs["fixed"]
    above = {"sigma": RULES["sigma"], "fixed": f"{fixed:g}", "reference": "reference"}
    rows = [
        {
            **_name_cells(one, backbones),
            "layer": str(one.outliers.layer),
            **{f"above {above[rule]}": percent(one.outlier_layer.shares[rule]) for rule in RULES},
            **_outlier_cells(one),
            **_corloc_cell(one, backbones),
        }
        for one in backbones
    ]
    drop = [*_DROPPED, *(f"above {above[rule]}" for rule in RULES if rule != chosen), "layer", "by chance"]
    return text.text_table(rows, width=width, drop=drop, shorten=("backbone",))


def outlier_rows(backbones: Sequence[BackboneArtifacts]) -> list[dict[str, str]]:
    """The cut-off of each backbone, how many outliers it has, and their statistics."""
    return [
        {
            **_name_cells(one, backbones),
            "layer": str(one.outliers.layer),
            "cut-off": f"{one.outliers.cutoff:.4g} ({RULES[one.outliers.rule]})",
            "outliers": percent(one.outliers.share),
            "images with any": f"{one.outliers.images_with_any:,} of {one.images:,}",
            **_outlier_cells(one),
            **_corloc_cell(one, backbones),
        }
        for one in backbones
    ]


def _name_cells(one: BackboneArtifacts, backbones: Sequence[BackboneArtifacts]) -> dict[str, str]:
    """The backbone and, where any is a checkpoint of a series, the step."""
    if all(other.step is None for other in backbones):
        return {"backbone": one.label}
    return {"backbone": one.label, "step": NONE if one.step is None else f"{one.step:,}"}


def _corloc_cell(one: BackboneArtifacts, backbones: Sequence[BackboneArtifacts]) -> dict[str, str]:
    """CorLoc of LOST with its interval, where there is ground truth."""
    if not any(other.discovery for other in backbones):
        return {}
    found = one.discovery
    return {"CorLoc": _corloc_text(found.corloc, found.interval) if found else NONE}


def _corloc_text(corloc: float, interval: tuple[float, float]) -> str:
    return f"{corloc:.1f} ({interval[0]:.1f} to {interval[1]:.1f})"


def _outlier_cells(one: BackboneArtifacts) -> dict[str, str]:
    seeds, cosines = one.outliers.seeds, one.outliers.neighbour_cosine
    means = [NONE if found is None else f"{found.mean:.2f}" for found in map(cosines.get, GROUPS)]
    return {
        "seeds on outliers": percent(seeds.share),
        "by chance": percent(seeds.share_by_chance),
        "images that tie": _tied(seeds),
        **dict(zip(("cosine: outliers", "rest"), means)),
    }


def _tied(seeds: SeedStatistics) -> str:
    """In how many images several patches tie for the lowest degree, and the share of these images."""
    if not seeds.images or seeds.ties is None:
        return NONE
    return f"{seeds.ties:,} of {seeds.images:,} ({percent(seeds.ties / seeds.images)})"


def probe_rows(backbones: Sequence[BackboneArtifacts]) -> list[dict[str, str]]:
    """What a linear probe reads from each group of patches of each backbone, with 95 % intervals."""
    return [
        {**_name_cells(one, backbones), "read from": name, **_probe_cells(one.outliers.probes[group])}
        for one in backbones
        for group, name in GROUPS.items()
    ]


def too_few_notes(backbones: Sequence[BackboneArtifacts]) -> list[str]:
    """What "too few" means in the rows of probes; nothing if none says so."""
    probes = [probe for one in backbones for probe in one.outliers.probes.values() if probe]
    return [_TOO_FEW] if any(probe.too_few for probe in probes) else []


def _probe_cells(probe: ProbeScores | None) -> dict[str, str]:
    """The numbers of a probe, or what there is too little of."""
    learned, tested = (f"{probe.learned_from:,}", f"{probe.tested_on:,}") if probe else (NONE, NONE)
    numbers = (
        {
            "position_top1": _with_interval(probe, "position_top1", 100, " %"),
            "position_distance": _with_interval(probe, "position_distance"),
            "pixel_l2": _with_interval(probe, "pixel_l2"),
        }
        if probe and not probe.too_few
        else {**dict.fromkeys(MEASURES, NONE), "position_top1": probe.too_few if probe else NONE}
    )
    cells = dict(zip(("position, top-1", "distance in cells", "pixels, L2"), numbers.values()))
    return {**cells, "learned from": learned, "tested on": tested}


def _with_interval(probe: ProbeScores, measure: Measure, scale: float = 1, unit: str = "") -> str:
    """Such as "25.0 % (20.1 to 30.5)"; without the interval in files that have none."""
    mean = f"{_digits(scale * getattr(probe, measure))}{unit}"
    if measure not in probe.intervals:
        return mean
    low, high = probe.intervals[measure]
    return f"{mean} ({_digits(scale * low)} to {_digits(scale * high)})"


# --- controls ----------------------------------------------------------------------------------------


def control_rows(backbones: Sequence[BackboneArtifacts]) -> list[dict[str, str]]:
    """What each change of tokens that enter the last block does, below what is without a change."""
    with_corloc = any(one.discovery for one in backbones)
    rows = []
    for one in backbones:
        if one.controls:
            rows.append({**_name_cells(one, backbones), **_untouched_cells(one, with_corloc)})
        rows += [
            {**_name_cells(one, backbones), **_control_cells(score, with_corloc)} for score in one.controls
        ]
    return rows


def _untouched_cells(one: BackboneArtifacts, with_corloc: bool) -> dict[str, str]:
    cells = {
        "tokens": "untouched",
        "changed": NONE,
        "seeds moved": NONE,
        "seeds on outliers": percent(one.controls[0].seeds_on_outliers_before),
        "class token, cosine": NONE,
    }
    if with_corloc:
        found = f"{one.discovery.corloc:.1f}" if one.discovery else NONE
        cells |= {"CorLoc": found, "difference": NONE, "from other patches": NONE}
    return cells


def _control_cells(score: ControlScore, with_corloc: bool) -> dict[str, str]:
    cosine, interval = score.class_cosine, score.class_cosine_interval
    between = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    cells = {
        "tokens": f"{GROUPS[score.group]} {CONTROLS[score.control]}",
        "changed": f"{score.patches:,} in {text.counted(score.images, 'image')}",
        "seeds moved": percent(score.seeds_moved),
        "seeds on outliers": percent(score.seeds_on_outliers),
        "class token, cosine": NONE if cosine is None else f"{cosine:.4f}{between}",
    }
    if with_corloc:
        cells |= {
            "CorLoc": f"{score.corloc.corloc:.1f}" if score.corloc else NONE,
            "difference": _change_text(score.corloc),
            "from other patches": _change_text(score.from_rest),
        }
    return cells


def _change_text(change: CorLocChange | None) -> str:
    """Such as "+4.7 (+1.2 to +8.3), p 0.012, Holm 0.037"; without the latter in files that do not have it."""
    if change is None:
        return NONE
    low, high = change.interval
    adjusted = "" if change.p_holm is None else f", Holm {change.p_holm:.2g}"
    return f"{change.difference:+.1f} ({low:+.1f} to {high:+.1f}), p {change.p:.2g}{adjusted}"


# --- for programs ------------------------------------------------------------------------------------


def json_text(backbones: Sequence[BackboneArtifacts]) -> str:
    """A list with the numbers of each backbone at the layer of the outliers, controls included."""
    rows = [{**flat(one), "controls": [asdict(score) for score in one.controls]} for one in backbones]
    return as_json(rows, indent=2)


def csv_text(backbones: Sequence[BackboneArtifacts]) -> str:
    """The same, a line for each backbone; the columns of a control begin with it and its group."""
    rows = [{**flat(one), **_flat_controls(one)} for one in backbones]
    header = list(dict.fromkeys(name for row in rows for name in row))
    return text.csv_text([{name: row.get(name) for name in header} for row in rows])


def flat(one: BackboneArtifacts) -> dict[str, Any]:
    """The numbers of a backbone at the layer of the outliers; None for what was not measured."""
    layer, outliers, found = one.outlier_layer, one.outliers, one.discovery
    cosines = outliers.neighbour_cosine
    return {
        "backbone": one.label,
        "step": one.step,
        "parameters": one.parameters,
        "images": one.images,
        "patches": one.patches,
        "layer": layer.layer,
        "norm_mean": layer.mean,
        "norm_sigma": layer.sigma,
        "norm_largest": layer.largest,
        **{f"norm_p{name}": value for name, value in layer.percentiles.items()},
        **{f"cutoff_{rule}": layer.cutoffs[rule] for rule in RULES},
        **{f"share_{rule}": layer.shares[rule] for rule in RULES},
        "rule": outliers.rule,
        "outliers": outliers.count,
        "images_with_any": outliers.images_with_any,
        "seeds_on_outliers": outliers.seeds.share,
        "seeds_by_chance": outliers.seeds.share_by_chance,
        **{f"cosine_{group}": mean.mean if (mean := cosines[group]) else None for group in GROUPS},
        "scored_images": found.images if found else None,
        "found": found.found if found else None,
        "corloc": found.corloc if found else None,
        "corloc_low": found.interval[0] if found else None,
        "corloc_high": found.interval[1] if found else None,
    }


def _flat_controls(one: BackboneArtifacts) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for score in one.controls:
        change, from_rest = score.corloc, score.from_rest
        values = {
            "patches": score.patches,
            "images": score.images,
            "seeds_moved": score.seeds_moved,
            "seeds_on_outliers": score.seeds_on_outliers,
            "class_cosine": score.class_cosine,
            "corloc": change.corloc if change else None,
            "difference": change.difference if change else None,
            "p": change.p if change else None,
            "p_holm": change.p_holm if change else None,
        }
        if from_rest:
            values |= {
                "difference_from_rest": from_rest.difference,
                "p_from_rest": from_rest.p,
                "p_holm_from_rest": from_rest.p_holm,
            }
        columns |= {f"{score.control}_{score.group}_{name}": value for name, value in values.items()}
    return columns
