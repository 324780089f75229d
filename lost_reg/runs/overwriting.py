"""Removing the results of a run, so that another can take its folder."""

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
    PREDICTIONS_FILE,
    RUN_FILE,
    TOKENS_FILE,
    read_outcomes,
    read_record,
)
from lost_reg.runs.map_files import maps_path
from lost_reg.runs.pictures import picture_path

_OF_IMAGES: dict[str, Callable[[Path, str], Path]] = {
    MAPS_FOLDER: maps_path,
    PICTURES_FOLDER: picture_path,
}


def remove_results(folder: Path) -> None:
    """Remove what runs wrote into a folder, and nothing else; a folder that holds no run stays as it is.

    Maps and pictures are removed by the names of the run's images. The record goes last, so that what was
    interrupted can be done again. The caller holds the folder's lock.

    Raises:
        LostRegError: a malformed line, which can hide the names of images, so that nothing is removed; a
            link on the way to a file; or a file that cannot be removed.
    """
    if not (folder / RUN_FILE).is_file():
        return
    try:
        for path in list(_results(folder)):
            path.unlink(missing_ok=True)
        for name in _OF_IMAGES:
            _remove_empty(folder / name)
        (folder / RUN_FILE).unlink()
    except OSError as error:
        raise LostRegError(f"cannot remove the results in {str(folder)!r}: {error.strerror}") from None


def _results(folder: Path) -> Iterator[Path]:
    for outcome in read_outcomes(folder):
        for name, path_of in _OF_IMAGES.items():
            path = path_of(folder / name, outcome.image)
            if path.is_file() and not _is_behind_link(folder / name, path):
                yield path
    for name in (PREDICTIONS_FILE, ERRORS_FILE, TOKENS_FILE):
        yield folder / name
    if COMMAND in read_record(folder / RUN_FILE):  # else the file is the user's
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
