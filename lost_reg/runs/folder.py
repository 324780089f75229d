"""A run folder: what stands between discovery and scoring.

predictions.jsonl   one line per image, written as it is done
errors.jsonl        the images that could not be used, and why
run.json            everything needed to repeat the run
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.runs.ranks import ALONE, Ranks
from lost_reg.types import Box, Failure, FoundObject, Prediction

RUN_FILE = "run.json"
SWEEP_FILE = "sweep.json"
PREDICTIONS_FILE = "predictions.jsonl"
ERRORS_FILE = "errors.jsonl"
PICTURES_FOLDER = "pictures"
MAPS_FOLDER = "maps"
_LOCK_FILE = ".lock"
_LONGEST_PATH = 800  # characters of a name with its folders, of 4,096 bytes with the folder it goes to
_LONGEST_NAME = 230  # bytes; with what is added to a name, file systems take 255


@dataclass(frozen=True)
class Results:
    """What a run folder holds.

    settings: what the results depend on; images: how many images the run is of; see `RunWriter`.
    """

    folder: Path
    record: dict[str, Any]
    predictions: dict[str, Prediction]
    failures: dict[str, Failure]

    @property
    def settings(self) -> dict[str, Any]:
        """What the results depend on, as `RunWriter` recorded it."""
        return self.record["settings"]


@dataclass(frozen=True)
class Layout:
    """What a folder of results consists of.

    record_file: what was run, as JSON; lines_file: a line of JSON per image; parse: that of one line, which
        raises ValueError, KeyError or TypeError for one that is malformed.
    """

    record_file: str
    lines_file: str
    parse: Callable[[dict[str, Any]], Any]


def path_within(folder: Path, image: str) -> Path:
    """The file of an image in a folder, by its name: none leads out of the folder, or is too long."""
    if len(image) > _LONGEST_PATH:
        image = _shortened(image)
    parts = (image if os.sep == "/" else image.replace(os.sep, "/")).split("/")
    return folder.joinpath(*(_harmless(part) for part in parts if part not in ("", ".")))


def _harmless(part: str) -> str:
    if part == "..":
        return "%2E%2E"
    return part if len(part.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME else _shortened(part)


def _shortened(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    start, suffix = os.path.basename(name)[:50], os.path.splitext(name)[1][:10]
    return f"{start}-{digest}{suffix}"


def check_free(folder: Path, *, resume: bool, record_file: str = RUN_FILE) -> None:
    """See that results may be written to a folder.

    Raises:
        LostRegError: a path that is a file, or a folder that holds a run and `resume` is not given.
    """
    if folder.exists() and not folder.is_dir():
        raise LostRegError(f"cannot write results to {str(folder)!r}: it is a file; name a folder by --out")
    other = next(
        (name for name in (RUN_FILE, SWEEP_FILE) if name != record_file and (folder / name).exists()), None
    )
    if other:
        raise LostRegError(f"{str(folder)!r} holds other results ({other}): name another --out")
    if (folder / record_file).exists() and not resume:
        raise LostRegError(
            f"{str(folder)!r} holds a run already: --resume continues it, or name another --out"
        )


def find_runs(top: Path) -> list[Path]:
    """The run folders at and below a folder, sorted.

    Raises:
        LostRegError: no such folder, or none in it.
    """
    if not top.is_dir():
        raise LostRegError(f"no such folder: {str(top)!r}")
    runs = folders_with(top, RUN_FILE)
    if not runs and folders_with(top, SWEEP_FILE):
        raise LostRegError(
            f"{str(top)!r} holds a sweep and no run: `lost-reg sweep` with --resume prints its scores"
        )
    if not runs:
        raise LostRegError(
            f"no runs in {str(top)!r}: no {RUN_FILE} in it or below it; `lost-reg run` makes one"
        )
    return runs


def folders_with(top: Path, name: str) -> list[Path]:
    """The folders at and below a folder that hold a file of a name, sorted."""
    return sorted(Path(where) for where, _, names in os.walk(top) if name in names)


def read_run(folder: Path, layout: Layout | None = None) -> Results:
    """Read a folder of results. A last line that was cut off while it was written does not count.

    Raises:
        LostRegError: a file that is missing or malformed, with the line.
    """
    layout = layout or RUN_LAYOUT
    record = read_record(folder / layout.record_file)
    predictions = {one.image: one for one in read_outcomes(folder, layout)}
    failures = {one.image: one for one in _read_lines(folder, ERRORS_FILE, _failure_from_json)}
    failures = {name: one for name, one in failures.items() if name not in predictions}  # tried again since
    return Results(folder, record, predictions, failures)


def read_outcomes(folder: Path, layout: Layout | None = None) -> Iterator[Any]:
    """What was found in each image, one after another, as `read_run` reads them, with constant memory.

    An image may come twice, with the same result, if it was listed twice.

    Raises:
        LostRegError: a line that is malformed.
    """
    layout = layout or RUN_LAYOUT
    return _read_lines(folder, layout.lines_file, layout.parse)


class NameSet:
    """A great many names, in 16 bytes each: their hashes, of which no two are alike in practice."""

    def __init__(self, names: Iterable[str] = ()):
        digests = bytearray()
        for name in names:
            digests += _digest(name)
        self._digests = np.unique(np.frombuffer(digests, dtype=_DIGEST))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, name: str) -> bool:
        if not len(self):
            return False
        digest = np.frombuffer(_digest(name), dtype=_DIGEST)
        index = np.searchsorted(self._digests, digest)[0]
        return index < len(self) and self._digests[index] == digest[0]


_DIGEST = np.dtype("S16")


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def read_record(path: Path) -> dict[str, Any]:
    """Read the file that says what was run.

    Raises:
        LostRegError: a file that is missing or malformed.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in (("settings", dict), ("images", (int, type(None))), ("sessions", list)):
            if not isinstance(record[key], kind):
                raise TypeError(f"{key} of another type")
    except FileNotFoundError:
        raise LostRegError(f"no run in {str(path.parent)!r}: no {path.name} in it") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LostRegError(f"{path} is not the record of a run: {type(error).__name__} {error}") from None
    return record


def _read_lines(folder: Path, name: str, parse: Callable[[dict[str, Any]], Any]) -> Iterator:
    """The lines of a file, and of the parts that ranks have written and that are not joined to it yet."""
    for path in (*_parts(folder, name), folder / name):  # a part that is joined meanwhile comes twice
        try:
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                yield from _parsed(file, path, parse)
        except OSError as error:
            raise LostRegError(f"cannot read {path}: {error.strerror}") from None


def _parsed(lines: Iterable[bytes], path: Path, parse: Callable[[dict[str, Any]], Any]) -> Iterator:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):  # half a line, which a killed run left
            return
        try:
            yield parse(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{type(error).__name__} {error}"
            raise LostRegError(
                f"malformed line {number} of {path}: {reason}; mend or delete the line"
            ) from None


def _part(folder: Path, name: str, rank: int) -> Path:
    """The part of a file that a rank writes, predictions.rank3.jsonl; the first writes the file itself."""
    path = folder / name
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path


def _parts(folder: Path, name: str) -> list[Path]:
    path = Path(name)
    return sorted(folder.glob(f"{path.stem}.rank*{path.suffix}"))


def _prediction_from_json(row: dict) -> Prediction:
    if not isinstance(row["image"], str):
        raise ValueError("expected an image name")
    return Prediction(
        image=row["image"],
        size_hw=_pair(row["size_hw"], least=1),
        box_xyxy=_box(row["box_xyxy"]),
        seed=_pair(row["seed"]),
        grid_hw=_pair(row["grid_hw"], least=1),
        degree=int(row["degree"]),
        affinity=row.get("affinity"),  # absent in earlier versions, as are further objects
        further=tuple(_object_from_json(one) for one in row.get("further", ())),
    )


def _object_from_json(row: dict) -> FoundObject:
    return FoundObject(_box(row["box_xyxy"]), _pair(row["seed"]), int(row["degree"]), row["affinity"])


def _pair(numbers: list, least: int = 0) -> tuple[int, int]:
    if len(numbers) != 2 or not all(isinstance(one, int) and one >= least for one in numbers):
        raise ValueError(f"expected two whole numbers of at least {least}")
    return tuple(numbers)


def _box(sides: list) -> Box:
    if len(sides) != 4 or not all(isinstance(side, (int, float)) and math.isfinite(side) for side in sides):
        raise ValueError("expected a box of four numbers")
    return tuple(sides)


RUN_LAYOUT = Layout(RUN_FILE, PREDICTIONS_FILE, _prediction_from_json)


def _failure_from_json(row: dict) -> Failure:
    return Failure(**{field.name: str(row[field.name]) for field in fields(Failure)})


class RunWriter:
    """Writes a run folder, one outcome at a time; a context manager that holds the folder's lock.

    Of several ranks, the first keeps the folder and the others write parts, which it joins to its files in
    the end (`join`), or at the start of the next session if a rank has died.

    Args:
        folder: created if it is not there.
        settings: what the results depend on; a folder with other settings is refused.
        record: what else is worth keeping (versions, device, ...), written into run.json.
        resume: whether a folder that holds a run already is continued.
        layout: what the folder consists of.
        ranks: this process among those of the run; they all wait for the first.

    Attributes:
        done: the names of the images that earlier sessions did, a NameSet.

    Raises:
        LostRegError: a folder that cannot be written, is in use, holds a run and `resume` is not
            given, or holds one of other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        record: dict[str, Any],
        *,
        resume: bool = False,
        layout: Layout = RUN_LAYOUT,
        ranks: Ranks = ALONE,
    ):
        self.folder, self._layout, self._ranks = folder, layout, ranks
        self.record: dict[str, Any] = {}
        self._lock = self._locked() if ranks.first else None
        try:
            if ranks.first:
                self._start(settings, record, resume)
            ranks.wait()  # the folder is ready
            self.done = NameSet(one.image for one in read_outcomes(folder, layout))
            ranks.wait()  # all have read what was done before any writes
            self._open()
        except BaseException:
            self._unlock()
            raise

    def _locked(self) -> FileLock:
        shown = repr(str(self.folder))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK_FILE)
            lock.acquire(timeout=0)
        except Timeout:
            raise LostRegError(
                f"{shown} is being written by another run: wait, or name another --out"
            ) from None
        except OSError as error:
            raise LostRegError(f"cannot write results to {shown}: {error.strerror or error}") from None
        return lock

    def _unlock(self) -> None:
        if self._lock:
            self._lock.release()

    def _start(self, settings: dict[str, Any], record: dict[str, Any], resume: bool) -> None:
        """Check the folder, put what it holds in order, and write the record."""
        kept: dict[str, Any] = {"sessions": []}
        record_file = self._layout.record_file
        check_free(self.folder, resume=resume, record_file=record_file)
        if (self.folder / record_file).exists():
            earlier = read_record(self.folder / record_file)
            _check_settings(self.folder, earlier["settings"], settings)
            _check_root(self.folder, earlier, {**record, "settings": settings})
            kept = {key: earlier[key] for key in ("created", "sessions") if key in earlier}
            # a smaller --limit does not undo what was done
            kept["images"] = max(record.get("images") or 0, earlier["images"] or 0) or None
        self.join()
        self.record = {**record, **kept, "settings": settings}
        self.write_record()

    def _open(self) -> None:
        lines, errors = (
            _part(self.folder, name, self._ranks.rank) for name in (self._layout.lines_file, ERRORS_FILE)
        )
        try:
            self._lines = lines.open("ab", buffering=0)
            # What failed is tried again, as a drive that was gone may be back; until then it has failed.
            self._errors = errors.open("ab", buffering=0)
            self._earlier_errors = self._errors.tell()
        except OSError as error:
            raise LostRegError(f"cannot write results to {str(self.folder)!r}: {error.strerror}") from None

    def forget_earlier_failures(self) -> None:
        """Keep only what failed in this session, which has tried all of it again. For the end, before `join`.

        Raises:
            LostRegError: a file that cannot be written.
        """
        path = self.folder / ERRORS_FILE
        with whole_file(path, durable=True) as part, path.open("rb") as file, part.open("wb") as kept:
            file.seek(self._earlier_errors)
            shutil.copyfileobj(file, kept)

    def failures(self) -> Iterator[Failure]:
        """What failed, as it is recorded by now."""
        return _read_lines(self.folder, ERRORS_FILE, _failure_from_json)

    def join(self) -> None:
        """Cut off lines that were not finished, and add the parts that ranks wrote to the files they are of.

        Each part is deleted once it is added. Killed in between, the next join adds none of its images twice.

        Raises:
            LostRegError: a file that cannot be written.
        """
        try:
            for name in (self._layout.lines_file, ERRORS_FILE):
                _drop_unfinished_line(self.folder / name)
                if parts := _parts(self.folder, name):
                    for part in parts:
                        _drop_unfinished_line(part)
                    _add_lines(parts, self.folder / name)
                    for part in parts:
                        part.unlink()
        except OSError as error:
            raise LostRegError(f"cannot write results to {str(self.folder)!r}: {error.strerror}") from None

    def write(self, outcome: Any) -> None:
        """Append one outcome, a Failure or what the layout is of, as one line."""
        file = self._errors if isinstance(outcome, Failure) else self._lines
        line = (json.dumps(vars(outcome), default=vars) + "\n").encode()  # a tenth of what asdict takes
        with self._line_errors():
            while line:  # a disk that is nearly full takes a part, and says only of the next that it is full
                line = line[file.write(line) :]

    @contextlib.contextmanager
    def _line_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LostRegError(
                f"cannot write to {self.folder}: {error.strerror}; what was done is kept, --resume goes on"
            ) from None

    def write_record(self) -> None:
        """Write the record as a whole, or not at all, even if the power goes."""
        with whole_file(self.folder / self._layout.record_file, durable=True) as part:
            part.write_text(json.dumps(self.record, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_) -> None:
        try:
            with self._line_errors(), self._lines, self._errors:
                for file in (self._lines, self._errors):
                    os.fsync(file.fileno())  # some file systems tell only now that they were full
        except LostRegError:
            if not failed:  # else what went wrong first is told
                raise
        finally:
            self._unlock()


def _check_settings(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    other = [key for key in sorted({*earlier, *now}) if earlier.get(key) != now.get(key)]
    if other:
        shown = "; ".join(f"{key} was {_short(earlier.get(key))}, is {_short(now.get(key))}" for key in other)
        raise LostRegError(f"{str(folder)!r} holds a run with other settings ({shown}): name another --out")


def _check_root(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """See that names of the user's own files mean the same files as before; those of a dataset always do."""
    before, root = earlier.get("root"), now.get("root")
    if now["settings"].get("dataset") is None and before and root and before != root:
        raise LostRegError(
            f"{str(folder)!r} holds a run of images named from {before!r}, and these are named from "
            f"{root!r}, the folder above all of them: name another --out"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."  # inputs that a shell expanded can be thousands


def _add_lines(parts: Sequence[Path], whole: Path) -> None:
    """Append the lines of parts that the whole does not have, which it has if this was cut short before."""
    with whole.open("a+b") as file:
        file.seek(0)
        there = NameSet(line.decode("latin-1") for line in file)
        for part in parts:
            with part.open("rb") as lines:
                file.writelines(line for line in lines if line.decode("latin-1") not in there)
        file.flush()
        os.fsync(file.fileno())


def _drop_unfinished_line(path: Path) -> None:
    """Cut off what a killed run left behind the last newline."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end and _byte_before(file, end) != b"\n":
            end -= 1
        file.truncate(end)


def _byte_before(file, position: int) -> bytes:
    file.seek(position - 1)
    return file.read(1)
