"""Removing the results of a run, or of a sweep, so that others can take their folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.files import check_no_links
from lost_reg.runs.config_file import CONFIG_FILE
from lost_reg.runs.folder import (
    COMMAND,
    ERRORS_FILE,
    MAPS_FOLDER,
    PICTURES_FOLDER,
    RUN_LAYOUT,
    TOKENS_FILE,
    Layout,
    read_outcomes,
    read_record,
)
from lost_reg.runs.map_files import maps_path
from lost_reg.runs.pictures import picture_path
from lost_reg.runs.sweep_folder import SCORES_FILE


def remove_results(folder: Path, layout: Layout = RUN_LAYOUT) -> None:
    """Remove what runs, or sweeps, wrote into a folder, and nothing else; one that holds none stays as it is.

    Maps and pictures are removed by the names of the run's images. The record goes last, so that what was
    interrupted can be done again. The caller holds the folder's lock.

    Raises:
        LostRegError: a malformed line, which can hide the names of images, so that nothing is removed; a
            link on the way to a file; or a file that cannot be removed.
    """
    if not (folder / layout.record_file).is_file():
        return
    with _removing(folder):
        for path in list(_results(folder, layout)):
            path.unlink(missing_ok=True)
        for name in _of_images(layout):
            _remove_empty(folder / name)
        (folder / layout.record_file).unlink()


@contextlib.contextmanager
def _removing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise LostRegError(f"cannot remove the results in {str(folder)!r}: {reason}") from None


def _of_images(layout: Layout) -> dict[str, Callable[[Path, str], Path]]:
    """The folders with files of images, and where these files are: only runs have some."""
    return {MAPS_FOLDER: maps_path, PICTURES_FOLDER: picture_path} if layout is RUN_LAYOUT else {}


def _results(folder: Path, layout: Layout) -> Iterator[Path]:
    record = read_record(folder / layout.record_file)
    for outcome in read_outcomes(folder, layout):
        for name, path_of in _of_images(layout).items():
            path = path_of(folder / name, outcome.image)
            if path.is_file() and not _is_behind_link(folder / name, path):
                yield path
    last = TOKENS_FILE if layout is RUN_LAYOUT else SCORES_FILE
    for name in (layout.lines_file, ERRORS_FILE, last):
        yield folder / name
    if COMMAND in record:  # else the file is the user's
        yield folder / CONFIG_FILE


def _is_behind_link(folder: Path, path: Path) -> bool:
    try:
        check_no_links(folder, path)
    except LostRegError:
        return True
    return False


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
