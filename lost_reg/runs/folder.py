"""Reading a run folder, the interface between discovery and scoring.

predictions.jsonl   one line per image, written as soon as it is done
errors.jsonl        the images that could not be used, and why
run.json            everything needed to repeat the run
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from lost_reg.discovery.features import FeatureConfig
from lost_reg.errors import LostRegError
from lost_reg.files import folders_with, open_regular, read_regular
from lost_reg.json_files import MALFORMED, convert, parse_json, parse_record, reason_of
from lost_reg.types import Failure, Prediction

RUN_FILE = "run.json"
SWEEP_FILE = "sweep.json"
PREDICTIONS_FILE = "predictions.jsonl"
ERRORS_FILE = "errors.jsonl"
PICTURES_FOLDER = "pictures"
MAPS_FOLDER = "maps"
TOKENS_FILE = "class_tokens.npz"  # of `lost-reg cluster`
COMMAND = "command"  # the key in run.json of the options that a run was started with
PARQUET = "parquet"  # the setting that says where the predictions are, if not in the folder
CLUSTERS = "clusters"  # the key in run.json of what `lost-reg cluster` records


@dataclass(frozen=True)
class Results:
    """The contents of a run folder.

    record: run.json. predictions, failures: by image name.
    """

    folder: Path
    record: dict[str, Any]
    predictions: dict[str, Any]
    failures: dict[str, Failure]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the results depend on, as `RunWriter` recorded them."""
        return self.record["settings"]


@dataclass(frozen=True)
class RecordedWeights:
    """Which weights a backbone had: see `backbones.weights.Weights`."""

    source: str
    name: str
    sha256: str | None


@dataclass(frozen=True)
class _TestTimeRegisters:
    count: Annotated[int, Meta(ge=1, le=1000)]
    rule: str
    neurons: Annotated[list[tuple[int, int]], Meta(min_length=1)]


@dataclass(frozen=True)
class CommonSettings:
    """Settings that the results of runs and sweeps depend on."""

    dataset: str | None
    split: str | None
    apply_exif: bool
    backbone: str
    weights: RecordedWeights
    precision: str
    background: str | None = field(default=None, kw_only=True)  # None in runs before it was recorded
    test_time_registers: _TestTimeRegisters | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class RunSettings(CommonSettings):
    """Settings of a run in run.json, which may hold more."""

    method: str
    features: FeatureConfig
    options: dict[str, Any]
    refine: str | None = None


@dataclass(frozen=True)
class Layout:
    """The files of a results folder.

    record_file: what was run, as JSON. lines_file: a line of JSON per image.
    outcome, settings: the types of a line and of the settings in the record.
    """

    record_file: str
    lines_file: str
    outcome: type[Any]
    settings: type[Any]


RUN_LAYOUT = Layout(RUN_FILE, PREDICTIONS_FILE, Prediction, RunSettings)


def check_free(folder: Path, *, resume: bool, overwrite: bool = False, record_file: str = RUN_FILE) -> None:
    """Check that results may be written to a folder.

    Raises:
        LostRegError: a path that is a file, or a folder that holds results although neither `resume` nor
            `overwrite` is given.
    """
    if folder.exists() and not folder.is_dir():
        raise LostRegError(f"cannot write results to {str(folder)!r}: it is a file; choose a folder as `out`")
    others = (name for name in (RUN_FILE, SWEEP_FILE) if name != record_file)
    other = next((name for name in others if (folder / name).exists()), None)
    if other:
        raise LostRegError(f"{str(folder)!r} holds other results ({other}): choose another `out`")
    if (folder / record_file).exists() and not (resume or overwrite):
        held = "sweep" if record_file == SWEEP_FILE else "run"
        raise LostRegError(
            f"{str(folder)!r} holds a {held} already: `resume` continues it, `overwrite` starts it anew, or "
            "choose another `out`"
        )


def find_runs(top: Path) -> list[Path]:
    """The run folders at and below a folder, sorted.

    Raises:
        LostRegError: no such folder, or no run in it.
    """
    check_folder(top)
    runs = folders_with(top, RUN_FILE)
    if not runs and folders_with(top, SWEEP_FILE):
        raise _only_a_sweep(top)
    if not runs:
        raise LostRegError(
            f"no runs in {str(top)!r}: no {RUN_FILE} in it or below it; `lost-reg run` makes one"
        )
    return runs


def check_folder(folder: Path) -> None:
    """Check that a path that should hold results is a folder.

    Raises:
        LostRegError: no such folder, or a file.
    """
    if folder.is_file():
        raise LostRegError(f"{str(folder)!r} is a file: name the folder of a run")
    if not folder.is_dir():
        raise LostRegError(f"no such folder: {str(folder)!r}")


def _only_a_sweep(folder: Path) -> LostRegError:
    return LostRegError(
        f"{str(folder)!r} holds a sweep and no run: `lost-reg sweep` with `resume` prints its scores"
    )


def read_run(folder: Path, layout: Layout = RUN_LAYOUT) -> Results:
    """Read a folder of results. An incomplete last line is ignored.

    Raises:
        LostRegError: a file that is missing or malformed; names the line.
    """
    record = read_run_record(folder, layout)
    predictions = {one.image: one for one in read_outcomes(folder, layout)}
    failures = {one.image: one for one in read_failures(folder) if one.image not in predictions}
    return Results(folder, record, predictions, failures)


def read_run_record(folder: Path, layout: Layout = RUN_LAYOUT) -> dict[str, Any]:
    """Read the record of a folder of results, whose settings are checked.

    Raises:
        LostRegError: a file that is missing or malformed, or a run whose predictions are not in its folder.
    """
    record = read_record(folder / layout.record_file)
    if where := record["settings"].get(PARQUET):
        raise LostRegError(
            f"the predictions of {str(folder)!r} are in Parquet files at {where!r}: read those, for example "
            "with DuckDB or `ray.data.read_parquet`"
        )
    try:
        convert(record["settings"], layout.settings)
    except (*MALFORMED, LostRegError) as error:
        raise LostRegError(
            f"{folder / layout.record_file} does not hold the settings of a run: {reason_of(error)}"
        ) from None
    return record


def read_outcomes(folder: Path, layout: Layout = RUN_LAYOUT) -> Iterator[Any]:
    """Stream the outcome of each image, with constant memory.

    An image that was listed twice may appear twice, with the same result.

    Raises:
        LostRegError: a line that is malformed.
    """
    return _read_lines(folder, layout.lines_file, layout.outcome)


def read_failures(folder: Path) -> Iterator[Failure]:
    """Stream the images that could not be used; some may have succeeded since.

    Raises:
        LostRegError: a line that is malformed.
    """
    return _read_lines(folder, ERRORS_FILE, Failure)


_Count = Annotated[int, Meta(ge=0, le=10**15)]


@dataclass(frozen=True)
class _Session:
    """What is read of a session in a record."""

    finished: bool = False


@dataclass(frozen=True)
class _Clusters:
    """What is read of the clusters in a record, of which there may be none yet."""

    k: _Count
    boxes: _Count
    sizes: list[_Count]
    names: list[str]
    backbone: str
    silhouette: Annotated[float, Meta(ge=-1, le=1)] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError unless each cluster has a name and a size."""
        if not len(self.names) == len(self.sizes) == self.k:
            raise ValueError("expected a name and a size for each of the `k` clusters")


@dataclass(frozen=True)
class _Record:
    """What every record holds, as far as it is read; settings are checked on their own."""

    settings: dict[str, Any]
    images: _Count | None
    sessions: list[_Session]
    created: str | None = None
    root: str | None = None
    data_root: str | None = None
    weights_file: str | None = None
    command: dict[str, Any] | None = None
    clusters: _Clusters | None = None


def read_record(path: Path) -> dict[str, Any]:
    """Read the file that says what was run.

    Raises:
        LostRegError: a file that is missing or malformed.
    """
    try:
        record = parse_record(read_regular(path))
        convert(record, _Record)
    except (FileNotFoundError, NotADirectoryError):
        check_folder(path.parent)
        if path.name == RUN_FILE and (path.parent / SWEEP_FILE).is_file():
            raise _only_a_sweep(path.parent) from None
        raise LostRegError(f"no run in {str(path.parent)!r}: no {path.name} in it") from None
    except OSError as error:
        raise LostRegError(f"cannot read {path}: {error.strerror}") from None
    except MALFORMED as error:
        raise LostRegError(f"{path} is not the record of a run: {reason_of(error)}") from None
    return record


def _read_lines(folder: Path, name: str, kind: type[Any]) -> Iterator[Any]:
    path = folder / name
    try:
        with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            yield from _parsed(file, path, kind)
    except OSError as error:
        raise LostRegError(f"cannot read {path}: {error.strerror}") from None


def _parsed(lines: Iterable[bytes], path: Path, kind: type[Any]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):  # half a line, left by a killed run
            return
        try:
            yield parse_json(line, kind)
        except MALFORMED as error:
            raise LostRegError(
                f"malformed line {number} of {path}: {reason_of(error)}; fix or delete the line"
            ) from None
