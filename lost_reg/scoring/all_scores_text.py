"""The table of all scores as text, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lost_reg import text
from lost_reg.errors import one_line
from lost_reg.json_files import as_json
from lost_reg.scoring.all_scores import AllScores
from lost_reg.scoring.classes_text import class_rows, class_text, flat_classes
from lost_reg.scoring.compare import LEAST_P
from lost_reg.scoring.held_out import HeldOut
from lost_reg.scoring.mask_scores import Estimate
from lost_reg.scoring.score_runs import cells, flat

NO_MASKS = "its objects have no masks, so these are not scored: run with `masks`"
NO_TRUE_MASKS = "the dataset has no masks, so those that were found are not scored"
_AP = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "AR@1": "ar1", "AR@10": "ar10", "AR@100": "ar100"}
_MASK_AP = {title: _AP[title] for title in ("AP", "AP50", "AP75", "AR@100")}  # as a line has an end
_OF_MASKS = {"IoU": "iou", "max F": "f_beta", "accuracy": "accuracy"}
_DROPPED = (  # for want of width, the first first
    "box AR@1", "box AR@10", "box AP75", "mask AP75", "mask AP50", "mask accuracy", "box AR@100",
    "mask AR@100", "images", "backbone", "mask max F", "dataset",
)  # fmt: skip
_ESTIMATES = ("iou", "accuracy", "f_beta", "f_beta_of_means")


def text_table(rows: Sequence[AllScores], width: int | None = None) -> str:
    """The rows as a table, without columns of masks where no dataset has any; then notes on each.

    width: that the table may have; None for any.
    """
    with_masks = any(row.masks or row.lacks_masks for row in rows)
    names = text.short_names([row.run.path for row in rows])
    shown = [{"run": name, **_cells(row, with_masks)} for name, row in zip(names, rows)]
    lines = [text.text_table(shown, width=width, drop=_DROPPED, shorten=("run", "backbone"))]
    lines += [f"{one_line(str(row.run.path))}: {note}" for row in rows for note in _notes(row)]
    lines += [class_text(one_line(str(row.run.path)), row.classes, width) for row in rows if row.classes]
    return "\n".join(lines)


def _cells(row: AllScores, with_masks: bool) -> dict[str, str]:
    all_cells = cells(row.run)
    shown = {name: all_cells[name] for name in ("backbone", "dataset", "images", "CorLoc")}
    shown |= {f"box {title}": f"{getattr(row.boxes, name):.1f}" for title, name in _AP.items()}
    if with_masks:
        shown |= {
            f"mask {title}": f"{getattr(row.masks, name).value:.1f}" if row.masks else ""
            for title, name in _OF_MASKS.items()
        }
        shown |= {
            f"mask {title}": f"{getattr(row.mask_ap, name):.1f}" if row.mask_ap else ""
            for title, name in _MASK_AP.items()
        }
    return shown


def _notes(row: AllScores) -> list[str]:
    run, masks = row.run, row.masks
    notes = ["CorLoc {:.1f} to {:.1f}".format(*run.score.interval)]
    if masks:
        notes += [f"mask {title} {_interval(getattr(masks, name))}" for title, name in _OF_MASKS.items()]
    lines = [f"95 % intervals: {', '.join(notes)}"]
    if run.published:
        lines.append(f"published CorLoc {run.published.corloc:.1f} ({run.published.source})")
    if note := _note_on_masks(row):
        lines.append(note)
    if run.score.not_done:
        lines.append(f"{text.counted(run.score.not_done, 'image')} not done (left out)")
    if row.held_out:
        lines.append(_on_held_out(row.held_out))
    if run.other_size:
        lines.append(
            f"the size of {text.counted(run.other_size, 'image')} differs from the annotated one: "
            "rotated by EXIF?"
        )
    return lines


def _on_held_out(held_out: HeldOut) -> str:
    """How a head compares with the run that it learned from, in one line."""
    learned_from = f"{held_out.run} ({held_out.method})"
    paired = held_out.paired
    if paired is None:
        return f"not compared with {learned_from}, from which the head learned: {held_out.reason}"
    low, high = paired.interval
    p = f"= {paired.p:.4f}" if paired.p >= LEAST_P else f"< {LEAST_P}"
    return (
        f"on the {text.counted(paired.images, 'image')} held out of the head's training, CorLoc "
        f"{paired.corloc_b:.1f}; that of {learned_from}, from which it learned, {paired.corloc_a:.1f}; "
        f"{paired.difference:+.1f} points (95 % {low:+.1f} to {high:+.1f}; McNemar p {p})"
    )


def _note_on_masks(row: AllScores) -> str | None:
    """Why masks are not scored, where either the run or the dataset has some."""
    return NO_MASKS if row.lacks_masks else NO_TRUE_MASKS if row.lacks_true_masks else None


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.1f} to {estimate.high:.1f}"


def json_text(rows: Sequence[AllScores]) -> str:
    """The rows as JSON: a list of objects, with those of each class where labels are scored."""
    return as_json([_flat(row) | class_rows(row.classes) for row in rows], indent=2)


def csv_text(rows: Sequence[AllScores]) -> str:
    """The rows as CSV, with a header."""
    return text.csv_text([_flat(row) for row in rows])


def _flat(row: AllScores) -> dict[str, Any]:
    masks = {"mask_images": row.masks.images if row.masks else None}
    for name in _ESTIMATES:
        estimate = getattr(row.masks, name, None)
        for key in ("value", "low", "high"):
            suffix = "" if key == "value" else f"_{key}"
            masks[f"mask_{name}{suffix}"] = getattr(estimate, key, None)
    return {
        **flat(row.run),
        **{f"box_{name}": value for name, value in asdict(row.boxes).items()},
        **masks,
        **{f"mask_{name}": getattr(row.mask_ap, name, None) for name in _AP.values()},
        **_flat_held_out(row.held_out),
        "note": _note_on_masks(row),
        **flat_classes(row.classes),
    }


def _flat_held_out(held_out: HeldOut | None) -> dict[str, Any]:
    paired = held_out.paired if held_out else None
    return {
        "held_out_images": paired.images if paired else None,
        "held_out_corloc": paired.corloc_b if paired else None,
        "held_out_corloc_learned_from": paired.corloc_a if paired else None,
        "held_out_p": paired.p if paired else None,
    }
