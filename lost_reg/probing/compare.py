"""Two probes on the same test images: by how much do their scores differ, and could it be chance?

Scores are compared that both probes have: of the same tokens, by the same classifier, in the same measure.
Images resample in pairs. For top-1, interval and p are those that runs are compared by (`scoring.paired`):
the paired bootstrap, computed exactly, and McNemar's exact test. For the other measures, the images are drawn
2,000 times, and p is that of the bootstrap (`measures.difference_interval`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.probing.measures import difference_interval, value
from lost_reg.probing.records import (
    PROBE_FILE,
    Key,
    Measure,
    Outcomes,
    ProbeRecord,
    ProbeScore,
    read_outcomes,
    read_probe,
)
from lost_reg.probing.tables import MEASURES
from lost_reg.scoring.compare import SettingDifference, setting_differences
from lost_reg.scoring.paired import bootstrap_interval, holm, mcnemar_p
from lost_reg.text import shown_names


@dataclass(frozen=True)
class ComparedProbe:
    """One of the two probes; label: its backbone, see `ProbeRecord`."""

    path: Path
    label: str


@dataclass(frozen=True)
class PairedScore:
    """A score of both probes, over the images that both cover.

    a, b, difference (B minus A), interval (95 %, of the difference): in the unit of the measure, see
        `ProbeScore`.
    p_holm: the p value, adjusted for the number of scores that are compared.
    only_a, only_b: how many images are left out because only one probe covers them.
    """

    tokens: str
    classifier: str
    measure: Measure
    images: int
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float
    only_a: int
    only_b: int

    @property
    def name(self) -> str:
        """What was scored, such as "outlier logistic top-1"."""
        return score_name(self.tokens, self.classifier, self.measure)


@dataclass(frozen=True)
class ProbeComparison:
    """Two probes on the same test images.

    differences: the settings that differ.
    notes: on the scores that are not compared.
    """

    a: ComparedProbe
    b: ComparedProbe
    task: str
    dataset: str
    test_images: int
    differences: tuple[SettingDifference, ...]
    scores: tuple[PairedScore, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Probe:
    path: Path
    record: ProbeRecord
    outcomes: Outcomes

    @property
    def scores(self) -> dict[Key, tuple[ProbeScore, np.ndarray]]:
        """Each score by its key, with the rows of the test images."""
        pairs = zip(self.record.scores, self.outcomes.rows)
        return {score.key: (score, rows) for score, rows in pairs}

    def on(self, names: Sequence[str]) -> _Probe:
        """The probe with these test images, of which it covers no others than its own."""
        places = {name: place for place, name in enumerate(self.outcomes.names)}
        own = np.array([name in places for name in names], bool)
        chosen = np.array([places.get(name, 0) for name in names], int)
        rows = tuple(np.where(own[:, None], one[chosen], np.nan) for one in self.outcomes.rows)
        truth = None if self.outcomes.truth is None else self.outcomes.truth[chosen]
        return replace(self, outcomes=Outcomes(tuple(names), truth, rows))


def is_probe(path: Path) -> bool:
    """Whether a path is the folder of a probe."""
    return (path / PROBE_FILE).is_file()


def score_name(tokens: str, classifier: str, measure: Measure) -> str:
    """What a score is called in text, such as "outlier logistic top-1"."""
    return f"{tokens} {classifier} {MEASURES[measure]}"


def compare_probes(path_a: Path, path_b: Path) -> ProbeComparison:
    """Compare the scores of two probes on the same test images.

    Raises:
        LostRegError: one that is no probe; probes of different tasks, datasets or test images; missing or
            malformed files; or no score that both have.
    """
    for path, other in ((path_a, path_b), (path_b, path_a)):
        if not is_probe(path):
            raise LostRegError(
                f"{str(other)!r} is a probe and {str(path)!r} is none: compare two probes, or two runs"
            )
    a, b = (_read(path) for path in (path_a, path_b))
    a, b = _on_same_images(a, b)
    keys = dict.fromkeys(one.key for one in (*a.record.scores, *b.record.scores))
    found = [_paired(a, b, key) for key in keys]
    compared = [one for one in found if isinstance(one, PairedScore)]
    notes = tuple(one for one in found if isinstance(one, str))
    if not compared:
        raise LostRegError(f"nothing to compare in {path_a} and {path_b}: {'; '.join(notes)}")
    adjusted = holm([one.p for one in compared])
    return ProbeComparison(
        a=ComparedProbe(path_a, a.record.label),
        b=ComparedProbe(path_b, b.record.label),
        task=a.record.task,
        dataset=a.record.dataset,
        test_images=len(a.outcomes.names),
        differences=setting_differences(a.record.settings, b.record.settings),
        scores=tuple(replace(one, p_holm=p) for one, p in zip(compared, adjusted)),
        notes=notes,
    )


def _read(path: Path) -> _Probe:
    record = read_probe(path)
    return _Probe(path, record, read_outcomes(path, record))


# --- the same images ---------------------------------------------------------------------------------


def _on_same_images(a: _Probe, b: _Probe) -> tuple[_Probe, _Probe]:
    """Both with the same test images, in the same order: those of either."""
    for what in ("task", "dataset", "classes"):
        of_a, of_b = getattr(a.record, what), getattr(b.record, what)
        if of_a != of_b:
            raise LostRegError(
                f"not the same test images: the {what} of {a.path} is {of_a!r}, that of {b.path} is {of_b!r}"
            )
    for one, other in ((a, b), (b, a)):
        lacking = {*one.outcomes.names} - {*other.outcomes.names, *other.record.failures}
        if lacking:
            raise LostRegError(
                f"not the same test images: {len(lacking):,} of those of {one.path} are none of {other.path} "
                f"({shown_names(sorted(lacking))}): were they split or limited in another way?"
            )
    names = tuple(dict.fromkeys((*a.outcomes.names, *b.outcomes.names)))
    both = {*a.outcomes.names} & {*b.outcomes.names}
    shared = np.array([name in both for name in names], bool)
    a, b = a.on(names), b.on(names)
    of_a, of_b = a.outcomes.truth, b.outcomes.truth
    if of_a is not None and of_b is not None and not np.array_equal(of_a[shared], of_b[shared]):
        raise LostRegError(f"not the same test images: their classes in {a.path} are others than in {b.path}")
    return a, b


# --- the scores --------------------------------------------------------------------------------------


def _paired(a: _Probe, b: _Probe, key: Key) -> PairedScore | str:
    """A score of both, with p not yet adjusted, or why it is not compared."""
    name = score_name(*key)
    for side, probe in (("A", a), ("B", b)):
        if key not in probe.scores:
            return f"{name} is not compared: {side} does not have it"
        score, _ = probe.scores[key]
        if score.value is None:
            return f"{name} is not compared: {side} has no value ({score.too_few})"
    (score, rows_a), (_, rows_b) = a.scores[key], b.scores[key]
    covered_a, covered_b = (~np.isnan(rows).any(axis=1) for rows in (rows_a, rows_b))
    both = covered_a & covered_b
    if not both.any():
        return f"{name} is not compared: there is no test image that both cover"
    truth = None if a.outcomes.truth is None else a.outcomes.truth[both]
    rows_a, rows_b = rows_a[both], rows_b[both]
    of_a, of_b = (value(score.measure, rows, truth) for rows in (rows_a, rows_b))
    interval, p = _tested(score.measure, rows_a, rows_b, truth)
    counts = (np.count_nonzero(one) for one in (both, covered_a & ~covered_b, covered_b & ~covered_a))
    images, only_a, only_b = map(int, counts)
    return PairedScore(*key, images, of_a, of_b, of_b - of_a, interval, p, p, only_a, only_b)


def _tested(
    measure: Measure, a: np.ndarray, b: np.ndarray, truth: np.ndarray | None
) -> tuple[tuple[float, float], float]:
    """The interval of B's value minus A's, and its p value."""
    if measure != "top1":
        return difference_interval(measure, a, b, truth)
    only_a, only_b = (int(np.count_nonzero(one)) for one in (a > b, b > a))
    low, high = bootstrap_interval(only_b, only_a, len(a))
    return (low / len(a), high / len(a)), mcnemar_p(only_a, only_b)
