"""Scores of labels as text, JSON and CSV."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lost_reg import text
from lost_reg.scoring.classes import Agreement, ClassScores

_APS = {"AP50": "ap50", "AP": "ap", "COCO AP50": "coco_ap50", "COCO AP": "coco_ap"}
_AGREEMENTS = {"purity": "purity", "NMI": "nmi"}


def class_text(run: str, scores: ClassScores, width: int | None = None) -> str:
    """The section of a run: a row for each class and their mean, then purity and NMI."""
    rows = [
        {
            "class": one.name,
            "cluster": one.cluster or "",
            "objects": f"{one.objects:,}",
            **{title: f"{getattr(one, name):.1f}" for title, name in _APS.items()},
        }
        for one in scores.classes
    ]
    rows.append(
        {
            "class": f"mean of {len(scores.classes)}",
            "cluster": "",
            "objects": f"{sum(one.objects for one in scores.classes):,}",
            **{title: f"{scores.mean(name):.1f}" for title, name in _APS.items()},
        }
    )
    lines = [
        f"\nclasses of {run}: clusters assigned by the Hungarian method on AP50",
        text.text_table(rows, width=width, drop=("COCO AP", "COCO AP50"), shorten=("class", "cluster")),
    ]
    for title, name in _AGREEMENTS.items():
        if one := getattr(scores, name):
            lines.append(f"{title} {_words(one)}")
    labelled, have = text.counted(scores.labelled, "labelled box"), text.agreeing(scores.boxes, "have")
    held = f"{scores.boxes:,} of {labelled} {have} IoU >= 0.5 with a true object"
    return "\n".join([*lines, f"{held}; {text.counted(scores.clusters, 'cluster')}"])


def _words(one: Agreement) -> str:
    """Such as "62.1 (58.0 to 66.3), by chance 35.2: 26.9 above (22.1 to 31.4)"."""
    return (
        f"{one.value:.1f} ({one.low:.1f} to {one.high:.1f}), by chance {one.chance:.1f}: "
        f"{one.above:.1f} above it ({one.above_low:.1f} to {one.above_high:.1f})"
    )


def flat_classes(scores: ClassScores | None) -> dict[str, Any]:
    """The means, purity and NMI as columns, which are None without scores."""
    columns: dict[str, Any] = {
        "clusters": scores and scores.clusters,
        "labelled_boxes": scores and scores.boxes,
    }
    for name in _APS.values():
        columns[f"class_{name}"] = scores and scores.mean(name)
    for name in _AGREEMENTS.values():
        one = getattr(scores, name, None)
        keys = ("value", "low", "high", "chance", "above", "above_low", "above_high")
        columns |= {name if key == "value" else f"{name}_{key}": getattr(one, key, None) for key in keys}
    return columns


def class_rows(scores: ClassScores | None) -> dict[str, Any]:
    """The scores of each class, under "classes"; nothing without scores."""
    return {"classes": [asdict(one) for one in scores.classes]} if scores else {}
