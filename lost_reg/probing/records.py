"""A probe's folder: probe.json as dataclasses, and what came of each test image. Does not import torch."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
from msgspec import Meta

from lost_reg.errors import LostRegError
from lost_reg.files import check_kind, check_new, open_regular, read_regular, whole_file
from lost_reg.json_files import MALFORMED, Count, as_json, parse_json, reason_of

PROBE_FILE, OUTCOMES_FILE = "probe.json", "outcomes.npz"

Task = Literal["classes", "segmentation", "depth", "zero-shot"]
Token = Literal["cls", "register", "normal", "outlier", "mean", "patches"]
Classifier = Literal["logistic", "knn", "linear", "zero-shot"]
Measure = Literal["top1", "mean_per_class", "map", "miou", "rmse"]

Key = tuple[Token, Classifier, Measure]

TASKS: tuple[Task, ...] = get_args(Task)
_NAMES, _TRUTH, _ROWS = "names", "truth", "rows"
_MOST_CLASSES = 10**7

# What numpy and zipfile raise for an archive that is damaged.
_DAMAGED = (
    ValueError, KeyError, AttributeError, EOFError, TypeError, NotImplementedError, OverflowError,
    MemoryError, RuntimeError, BadZipFile, zlib.error,
)  # fmt: skip
Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]


@dataclass(frozen=True)
class ProbeScore:
    """One line of a probe's table: what one classifier reads from one kind of token.

    value: a share in [0, 1] for all measures but "rmse", which is in the unit of the depths; None if it could
        not be measured, and `too_few` says why.
    interval: 95 % over test images: see `measures.interval`.
    chosen: what was chosen on the validation images, such as {"C": 0.1}.
    train, val, test: how many images with such a token there were; without: how many images had none, by
        split.
    """

    tokens: Token
    classifier: Classifier
    measure: Measure
    value: Finite | None
    interval: tuple[Finite, Finite] | None
    train: Count
    val: Count
    test: Count
    chosen: dict[str, Any] = field(default_factory=dict)
    without: dict[str, Count] = field(default_factory=dict)
    too_few: str = ""

    @property
    def key(self) -> Key:
        """What two probes are compared by."""
        return self.tokens, self.classifier, self.measure


@dataclass(frozen=True)
class ProbeRecord:
    """The content of probe.json.

    dataset: its name, or the path of a user's own. label: the backbone with all differences from its
        published weights. settings: backbone, weights, precision, test_time_registers, seed, and those of
        the task.
    failures: images that could not be used, with the reason.
    """

    task: Task
    dataset: str
    label: str
    classes: Count
    settings: dict[str, Any]
    scores: Annotated[list[ProbeScore], Meta(min_length=1)]
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcomes:
    """What came of each of T test images.

    names: of the images.
    truth: (T,) int64 classes; (T, K) int8, for images of several classes, see `LabelledPart`; None where no
        measure needs it.
    rows: for each score of the record, in its order, (T, W) float64; NaN for an image that it does not cover.
        W and meaning by measure: see `measures.py`.
    """

    names: tuple[str, ...]
    truth: np.ndarray | None
    rows: tuple[np.ndarray, ...]


def write_probe(folder: Path, record: ProbeRecord, outcomes: Outcomes) -> None:
    """Write a probe into a folder, completely or not at all; probe.json comes last.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    names = [name.encode("utf-8", "surrogateescape") for name in outcomes.names]
    arrays: dict[str, Any] = {_NAMES: np.array(names, dtype=np.bytes_)}
    arrays |= {f"{_ROWS}{index}": rows for index, rows in enumerate(outcomes.rows)}
    if outcomes.truth is not None:
        arrays[_TRUTH] = outcomes.truth
    with whole_file(folder / PROBE_FILE) as part:
        part.write_text(as_json(asdict(record)) + "\n", encoding="utf-8")
        with whole_file(folder / OUTCOMES_FILE) as of_outcomes, of_outcomes.open("wb") as file:
            np.savez_compressed(file, **arrays)


def check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Check that a probe may be written to a folder: there is none, or one that `overwrite` replaces.

    Raises:
        LostRegError: it may not.
    """
    check_new(folder / PROBE_FILE, overwrite=overwrite)
    check_kind(folder / PROBE_FILE, lambda: read_probe(folder))


def read_probe(folder: Path) -> ProbeRecord:
    """Read probe.json of a folder.

    Raises:
        LostRegError: no such file, or a malformed one.
    """
    path = folder / PROBE_FILE
    try:
        return parse_json(read_regular(path), ProbeRecord)
    except FileNotFoundError:
        raise LostRegError(f"no probe in {str(folder)!r}: {PROBE_FILE} is missing") from None
    except OSError as error:
        raise LostRegError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except MALFORMED as error:
        raise LostRegError(f"{path} does not hold a probe: {reason_of(error)}") from None


def read_outcomes(folder: Path, record: ProbeRecord) -> Outcomes:
    """Read what came of each test image.

    Raises:
        LostRegError: no such file, a malformed one, or one that does not fit the record.
    """
    path = folder / OUTCOMES_FILE
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            names = tuple(name.decode("utf-8", "surrogateescape") for name in arrays[_NAMES])
            truth = arrays.get(_TRUTH)
            rows = tuple(arrays[f"{_ROWS}{index}"] for index in range(len(record.scores)))
    except OSError as error:
        raise LostRegError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except _DAMAGED:
        raise LostRegError(f"{path} does not hold the outcomes of its probe: probe again") from None
    outcomes = Outcomes(names, truth, rows)
    if not (names and len({*names}) == len(names) and _truth_fits(record, outcomes)):
        raise LostRegError(f"{path} does not hold the outcomes of its probe: probe again")
    if not all(_rows_fit(score, one, outcomes, record.classes) for score, one in zip(record.scores, rows)):
        raise LostRegError(f"{path} does not hold the outcomes of its probe: probe again")
    return outcomes


def _truth_fits(record: ProbeRecord, outcomes: Outcomes) -> bool:
    """Whether the truth has an entry for each image, and is of the kind that the measures need."""
    truth, measures = outcomes.truth, {score.measure for score in record.scores}
    if truth is None:
        return not measures & {"mean_per_class", "map"}
    if len(truth) != len(outcomes.names):
        return False
    if "map" in measures:
        is_state = truth.ndim == 2 and truth.dtype == np.int8 and np.isin(truth, (-1, 0, 1)).all()
        return bool(is_state and truth.max() == 1)
    is_class = truth.ndim == 1 and truth.dtype == np.int64
    return is_class and truth.min() >= 0 and truth.max() < min(record.classes, _MOST_CLASSES)


def _rows_fit(score: ProbeScore, rows: np.ndarray, outcomes: Outcomes, classes: int) -> bool:
    """Whether the rows of a score have the form that its measure needs: see `measures.py`."""
    if rows.ndim != 2 or len(rows) != len(outcomes.names) or rows.dtype != np.float64 or np.isinf(rows).any():
        return False
    if score.measure == "map":
        return rows.shape[1] == outcomes.truth.shape[1]
    if score.measure == "miou":
        return rows.shape[1] == 2 * classes > 0
    is_right = np.isin(rows, (0, 1)) | np.isnan(rows)
    return rows.shape[1] == 1 and (score.measure == "rmse" or bool(is_right.all()))
