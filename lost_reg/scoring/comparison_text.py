"""A comparison of two runs as plain text, JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lost_reg import text as texts
from lost_reg.errors import one_line
from lost_reg.json_files import as_json
from lost_reg.scoring.compare import (
    LEAST_P,
    SIGNIFICANT,
    Comparison,
    Group,
    SettingDifference,
    causes_of,
)
from lost_reg.scoring.paired import Paired

FEWEST = 6  # if fewer images were found by only one of the two, p is never below SIGNIFICANT
_DROPPED = ("both", "neither", "A alone", "B alone", "images", "p")  # for want of width
_SHORT_KINDS = {"largest object": "largest"}  # in the table, so that no size is cut there
_FEW = 5  # images that are named unless all are requested


def text(comparison: Comparison, *, all_images: bool = False, width: int | None = None) -> str:
    """The comparison as text: settings that differ, a table, the verdict, images that only one found.

    width: that tables may have; None for any.
    """
    return "\n".join(
        [
            *_heading(comparison),
            "",
            *setting_lines(comparison.differences, width),
            "",
            _table(comparison, width),
            *_table_notes(comparison),
            "",
            comparison.verdict,
            *_groups_that_differ(comparison),
            *_alone("A", comparison.only_a, all_images),
            *_alone("B", comparison.only_b, all_images),
        ]
    )


def _heading(comparison: Comparison) -> Iterator[str]:
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        notes = [f"{run.unusable:,} undecodable (counted as misses)"] if run.unusable else []
        if run.other_size:
            notes.append(
                f"the size of {texts.counted(run.other_size, 'image')} differs from the annotated one: "
                "rotated by EXIF?"
            )
        yield one_line("; ".join([f"{name}: {run.title}, {run.path}", *notes]))
    yield one_line(
        f"{comparison.dataset} {comparison.split}: {texts.counted(comparison.total.images, 'image')}; "
        f"left out: {comparison.without_truth:,} without any box, {comparison.not_done:,} not done by both"
    )


def setting_lines(differences: Sequence[SettingDifference] | None, width: int | None = None) -> list[str]:
    """A table of the settings that differ, and which of them can be the cause."""
    if differences is None:
        return ["A prediction file does not record its settings: what differs is not known."]
    if not differences:
        return ["The settings of A and B are the same."]
    rows = [{"differs": one.setting, "A": _shown(one.a), "B": _shown(one.b)} for one in differences]
    lines = [texts.text_table(rows, width=width, shorten=("A", "B", "differs"))]
    causes = causes_of(differences)
    if len(causes) > 1:
        lines.append(f"Several settings differ ({', '.join(causes)}): any can be the cause.")
    return lines


def _shown(value: Any) -> str:
    shown = "none" if value is None else one_line(str(value))
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _table(comparison: Comparison, width: int | None) -> str:
    rows = [{"over": "all images", **paired_cells(comparison.total), "p (Holm)": ""}]
    rows += [
        {
            "over": f"{_SHORT_KINDS.get(group.kind, group.kind)}: {group.name}",
            **paired_cells(group.paired),
            "p (Holm)": shown_p(group.p_holm),
        }
        for group in _shown_groups(comparison)
    ]
    return texts.text_table(rows, width=width, drop=_DROPPED, shorten=("over",))


def paired_cells(paired: Paired) -> dict[str, str]:
    """The cells of a table row, by column."""
    low, high = paired.interval
    return {
        "images": f"{paired.images:,}",
        "A": f"{paired.corloc_a:.1f}",
        "B": f"{paired.corloc_b:.1f}",
        "B - A": f"{paired.difference:+.1f}",
        "95 % interval": f"{low:+.1f} to {high:+.1f}",
        "both": f"{paired.both:,}",
        "A alone": f"{paired.only_a:,}",
        "B alone": f"{paired.only_b:,}",
        "neither": f"{paired.neither:,}",
        "p": shown_p(paired.p),
    }


def shown_p(p: float) -> str:
    """A p value, such as "0.0123" and "<0.0001"."""
    return f"{p:.4f}" if p >= LEAST_P else f"<{LEAST_P}"


def _shown_groups(comparison: Comparison) -> list[Group]:
    return [one for one in (*comparison.sizes, *comparison.classes) if one.paired.images >= FEWEST]


def _table_notes(comparison: Comparison) -> Iterator[str]:
    shown = _shown_groups(comparison)
    left_out = len(comparison.sizes) + len(comparison.classes) - len(shown)
    if left_out:
        yield (
            f"{texts.counted(left_out, 'group')} of fewer than {FEWEST} images "
            f"{texts.agreeing(left_out, 'are')} not shown: no difference could be significant in them "
            "(`json` and `csv` have them)."
        )
    if any(row.only_a + row.only_b < FEWEST for row in (comparison.total, *(one.paired for one in shown))):
        yield (
            f"Where A alone and B alone add up to fewer than {FEWEST} images, p cannot be below "
            f"{SIGNIFICANT} and the interval is too narrow."
        )


def _groups_that_differ(comparison: Comparison) -> Iterator[str]:
    """A line per kind of group: which groups differ significantly after Holm's correction."""
    for kind, groups in (("sizes", comparison.sizes), ("classes", comparison.classes)):
        significant = [group for group in groups if group.p_holm < SIGNIFICANT]
        names = (f"{group.name} ({group.paired.difference:+.1f})" for group in significant)
        shown = one_line(", ".join(names)) or "none"
        yield f"Of {len(groups)} {kind}, these differ significantly after Holm's correction: {shown}."


def _alone(name: str, images: tuple[str, ...], all_images: bool) -> Iterator[str]:
    if not images:
        yield f"Found by {name} alone: none"
    elif all_images:
        yield f"Found by {name} alone: {len(images):,}"
        yield from (f"  {one_line(image)}" for image in images)
    else:
        more = " (`images` lists them)" if len(images) > _FEW else ""
        yield f"Found by {name} alone: {one_line(texts.shown_names(images, _FEW))}{more}"


def json_text(comparison: Comparison) -> str:
    """The comparison as a JSON object, with all images that only one of the two found."""
    content = {
        **asdict(comparison),
        "verdict": comparison.verdict,
        "total": _numbers(comparison.total),
        "sizes": list(map(_group, comparison.sizes)),
        "classes": list(map(_group, comparison.classes)),
    }
    return as_json(content, indent=2, default=str)


def _group(group: Group) -> dict[str, Any]:
    return {"kind": group.kind, "name": group.name, **_numbers(group.paired), "p_holm": group.p_holm}


def _numbers(paired: Paired) -> dict[str, Any]:
    low, high = paired.interval
    derived = {name: getattr(paired, name) for name in ("corloc_a", "corloc_b", "difference")}
    return {
        "images": paired.images, **asdict(paired), **derived,
        "interval_low": low, "interval_high": high, "p": paired.p,
    }  # fmt: skip


def csv_text(comparison: Comparison) -> str:
    """The table as CSV, with a header: a row for all images, and one per size and class."""
    whole = {"kind": "all images", "name": "", **_numbers(comparison.total), "p_holm": None}
    return texts.csv_text([whole, *map(_group, (*comparison.sizes, *comparison.classes))])


def images_csv_text(comparison: Comparison) -> str:
    """The images that only one of the two found as CSV, with a header: image, found_by (A or B)."""
    sides = (("A", comparison.only_a), ("B", comparison.only_b))
    rows = [{"image": image, "found_by": side} for side, images in sides for image in images]
    return texts.csv_text(rows, ("image", "found_by"))
