"""Probes with chosen outcomes, for tests of comparisons and reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lost_reg.probing.measures import interval, value
from lost_reg.probing.records import Outcomes, ProbeRecord, ProbeScore, write_probe

SETTINGS = {
    "backbone": "dinov2_vits14",
    "weights": {"source": "hub", "name": "timm/vit", "sha256": "0" * 64},
    "seed": 0,
}


def column(*numbers) -> np.ndarray:
    return np.array(numbers, float)[:, None]


def write_case(
    folder: Path, rows: dict, *, truth=None, names=None, task="classes", dataset="cifar10",
    label="dinov2_vits14", classes=10, failures=None, **settings,
) -> Path:  # fmt: skip
    """A probe folder with these rows for each (tokens, classifier, measure); None: too few images."""
    folder.mkdir(parents=True)
    images = next(len(one) for one in rows.values() if one is not None)
    names = tuple(names or (f"{index}.png" for index in range(images)))
    scores, all_rows = [], []
    for (tokens, classifier, measure), one in rows.items():
        if one is None:
            scores.append(ProbeScore(tokens, classifier, measure, None, None, 3, 0, 0, too_few="3 images"))
            all_rows.append(np.full((images, 1), np.nan))
            continue
        covered = ~np.isnan(one).any(axis=1)
        of_covered = one[covered], None if truth is None else truth[covered]
        scores.append(
            ProbeScore(
                tokens, classifier, measure, value(measure, *of_covered), interval(measure, *of_covered),
                train=100, val=10, test=int(covered.sum()), chosen={"C": 0.1},
                without={"test": int((~covered).sum())},
            )
        )  # fmt: skip
        all_rows.append(one)
    record = ProbeRecord(task, dataset, label, classes, {**SETTINGS, **settings}, scores, failures or {})
    write_probe(folder, record, Outcomes(names, truth, tuple(all_rows)))
    return folder
