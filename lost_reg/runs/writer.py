"""Writing a run folder so that a run can be killed at any time and continued."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lost_reg.errors import LostRegError, OtherSettings
from lost_reg.files import check_no_links, remove_parts, whole_file
from lost_reg.json_files import as_json
from lost_reg.runs.config_file import CONFIG_FILE, write_config
from lost_reg.runs.folder import (
    CLUSTERS,
    COMMAND,
    ERRORS_FILE,
    MAPS_FOLDER,
    PICTURES_FOLDER,
    RUN_LAYOUT,
    Layout,
    check_free,
    read_failures,
    read_outcomes,
    read_record,
)
from lost_reg.runs.seals import is_own, sealed
from lost_reg.text import counted
from lost_reg.types import Failure

_OPTIONAL = ("mask", "label", "note")  # fields of an outcome that are not written if they are None
_LOCK_FILE = ".lock"
_MOST_SHOWN = 40  # characters of a value: inputs that a shell expanded can be thousands
_DIGEST = np.dtype("S16")


class RunWriter:
    """Writes a run folder, one outcome at a time; a context manager that holds the folder's lock.

    Args:
        folder: created if missing.
        settings: the settings that the results depend on; a folder with other settings is refused.
        record: what else run.json holds (versions, device, ...).
        resume: whether to continue a folder that already holds a run.
        layout: the files of the folder.
        elsewhere: the images whose predictions are kept elsewhere; None if the folder keeps them. Otherwise
            only failures are written.

    Attributes:
        done: the names of the images that earlier sessions processed.

    Raises:
        LostRegError: a folder that cannot be written, is in use, holds a run although `resume` is not
            given, or holds a run with other settings; or predictions of another run elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        record: dict[str, Any],
        *,
        resume: bool = False,
        layout: Layout = RUN_LAYOUT,
        elsewhere: Iterable[str] | None = None,
    ):
        self.folder, self._layout, self._keeps = folder, layout, elsewhere is None
        settings = json.loads(as_json(settings))  # as read back: a tuple of layers becomes a list
        self.record: dict[str, Any] = {}
        self._lock = locked(folder)
        try:
            if elsewhere is not None:
                self.done = self._done_elsewhere(elsewhere)
            self._start(settings, record, resume)
            if elsewhere is None:
                self.done = NameSet(one.image for one in read_outcomes(folder, layout))
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _done_elsewhere(self, images: Iterable[str]) -> NameSet:
        done = NameSet(images)
        if len(done) and not (self.folder / self._layout.record_file).exists():
            raise LostRegError(
                f"{counted(len(done), 'image')} of another run are where the predictions are to be written: "
                "name a new place, or `resume` that run in its own `out`"
            )
        return done

    def _start(self, settings: dict[str, Any], record: dict[str, Any], resume: bool) -> None:
        """Check the folder, repair its files, and write the record."""
        kept: dict[str, Any] = {"sessions": []}
        record_file = self._layout.record_file
        check_free(self.folder, resume=resume, record_file=record_file)
        if (self.folder / record_file).exists():
            earlier = read_record(self.folder / record_file)
            _check_settings(self.folder, earlier["settings"], settings)
            _check_root(self.folder, earlier, {**record, "settings": settings})
            kept = {key: earlier[key] for key in ("created", "sessions", CLUSTERS) if key in earlier}
            # as it was started: a session may have other workers or limits; somebody else's is not taken over
            if COMMAND in earlier and is_own(earlier):
                kept[COMMAND] = earlier[COMMAND]
            # a smaller --limit does not undo earlier work
            kept["images"] = max(record.get("images") or 0, earlier["images"] or 0) or None
        elif COMMAND in record and (self.folder / CONFIG_FILE).exists():
            raise LostRegError(
                f"{str(self.folder / CONFIG_FILE)!r} would be replaced by the options of this run: move it, "
                "or choose another `out`"
            )
        remove_parts(self.folder, (MAPS_FOLDER, PICTURES_FOLDER))
        self._drop_unfinished_lines()
        self.record = sealed({**record, **kept, "settings": settings})
        self.write_record()
        if COMMAND in self.record:
            write_config(self.folder, self.record[COMMAND])

    def _open(self) -> None:
        try:
            self._lines = (self.folder / self._layout.lines_file).open("ab", buffering=0)
            # Failed images are tried again, since a drive may be back; until then they count as failed.
            self._errors = (self.folder / ERRORS_FILE).open("ab", buffering=0)
            self._earlier_errors = self._errors.tell()
        except OSError as error:
            raise LostRegError(f"cannot write results to {str(self.folder)!r}: {error.strerror}") from None

    def forget_earlier_failures(self) -> None:
        """Keep only the failures of this session, which has tried all earlier ones again.

        Call it at the end of a session.

        Raises:
            LostRegError: a file that cannot be written.
        """
        path = self.folder / ERRORS_FILE
        with whole_file(path, durable=True) as part, path.open("rb") as file, part.open("wb") as kept:
            file.seek(self._earlier_errors)
            shutil.copyfileobj(file, kept)

    def failures(self) -> Iterator[Failure]:
        """The images that could not be used, as recorded so far."""
        return read_failures(self.folder)

    def _drop_unfinished_lines(self) -> None:
        """Cut off what a killed run left behind the last newline of each file."""
        try:
            for name in (self._layout.lines_file, ERRORS_FILE):
                _drop_unfinished_line(self.folder / name)
        except OSError as error:
            raise LostRegError(f"cannot write results to {str(self.folder)!r}: {error.strerror}") from None

    def write(self, outcome: Any) -> None:
        """Append one outcome, a Failure or the layout's outcome type, as one line; see `elsewhere`."""
        if not self._keeps and not isinstance(outcome, Failure):
            return
        file = self._errors if isinstance(outcome, Failure) else self._lines
        line = line_of(outcome)
        with self._line_errors():
            while line:  # a nearly full disk accepts a part of a line, then fails at the next
                line = line[file.write(line) :]

    @contextlib.contextmanager
    def _line_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LostRegError(
                f"cannot write to {self.folder}: {error.strerror}; what was done is kept, `resume` continues"
            ) from None

    def write_record(self) -> None:
        """Write the record completely or not at all, even if the power fails."""
        with whole_file(self.folder / self._layout.record_file, durable=True) as part:
            part.write_text(record_text(self.record), encoding="utf-8")

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_) -> None:
        try:
            with self._line_errors(), self._lines, self._errors:
                for file in (self._lines, self._errors):
                    os.fsync(file.fileno())  # some file systems report only now that they were full
        except LostRegError:
            if not failed:  # else the first error is reported
                raise
        finally:
            self._lock.release()


def locked(folder: Path) -> FileLock:
    """The lock of a results folder, acquired; the folder is created if missing.

    Raises:
        LostRegError: a folder that is in use, cannot be written, or holds links.
    """
    shown = repr(str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(folder):
            check_no_links(folder / entry.name, folder / entry.name)
        lock = FileLock(folder / _LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout:
        raise LostRegError(
            f"{shown} is being written by another process: wait, or choose another `out`"
        ) from None
    except OSError as error:
        raise LostRegError(f"cannot write results to {shown}: {error.strerror or error}") from None
    return lock


@contextlib.contextmanager
def while_locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a results folder; see `locked`."""
    lock = locked(folder)
    try:
        yield
    finally:
        lock.release()


def line_of(outcome: Any) -> bytes:
    """An outcome as a line of JSON."""
    return (as_json(_fields(outcome), default=_fields) + "\n").encode()  # ten times as fast as asdict


def record_text(record: dict[str, Any]) -> str:
    """A record as it is written."""
    return as_json(record, indent=2) + "\n"


def _check_settings(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    before, after = dict(_flat(earlier)), dict(_flat(now))
    other = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if other:
        raise OtherSettings(
            f"{str(folder)!r} holds a run with other settings ({', '.join(other)}): choose another `out`, or "
            "continue it with those that it had",
            [
                {"setting": key, "old": shown_value(before.get(key)), "new": shown_value(after.get(key))}
                for key in other
            ],
        )


def _check_root(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that the names of a user's own files refer to the same files as before; a dataset's always do."""
    before, root = earlier.get("root"), now.get("root")
    if now["settings"].get("dataset") is None and before and root and before != root:
        raise LostRegError(
            f"{str(folder)!r} holds a run of images named from {before!r}, and these are named from "
            f"{root!r}, the folder above all of them: choose another `out`"
        )


def _flat(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings without nesting: "backbone", "max_objects"."""
    for key, value in settings.items():
        if isinstance(value, dict) and key in ("features", "options", "weights"):
            yield from ((f"weights.{name}" if key == "weights" else name, one) for name, one in value.items())
        else:
            yield key, value


def shown_value(value: Any) -> str:
    """A setting's value in words."""
    if value is None or isinstance(value, bool):
        return {None: "none", False: "no", True: "yes"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown_value(one)}" for name, one in value.items())[:_MOST_SHOWN]
    text = ", ".join(map(shown_value, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _drop_unfinished_line(path: Path) -> None:
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


class NameSet:
    """A set of very many names, stored in 16 bytes each: as hashes, which do not collide in practice."""

    def __init__(self, names: Iterable[str] = ()):
        digests = bytearray()
        for name in names:
            digests += _digest(name)
        self._digests = np.unique(np.frombuffer(digests, dtype=_DIGEST))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, name: object) -> bool:
        if not len(self) or not isinstance(name, str):
            return False
        digest = np.frombuffer(_digest(name), dtype=_DIGEST)
        index = np.searchsorted(self._digests, digest)[0]
        return bool(index < len(self) and self._digests[index] == digest[0])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are stored; those that may be missing are left out where they are."""
    return {
        name: one
        for name, one in vars(value).items()
        if (one is not None or name not in _OPTIONAL) and not name.startswith("_")
    }
