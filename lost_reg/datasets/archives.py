"""Unpacks archives strictly inside one folder, and completely or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock

from lost_reg.errors import LostRegError

_CHUNK = 2**20  # bytes copied at a time
_MOST_TIMES, _SPARE_BYTES, _LEAST_BYTES = 20, 2**24, 2**12  # texts unpack to about ten times their size


def extract(
    archive: Path, folder: Path, *, members: Callable[[str], bool] | None = None, remove: bool = False
) -> None:
    """Unpack a zip archive or an uncompressed tar into a folder, next to its existing contents.

    Everything is first unpacked to a hidden folder inside it, and moved when complete: a new folder appears
    whole or not at all. A link becomes a copy of the file in the archive that it points to; empty folders are
    left out. Together, the files can have _MOST_TIMES the archive's size and _SPARE_BYTES; each takes
    _LEAST_BYTES besides its content.

    Args:
        members: whether a file is wanted, by its name in the archive; by default all are.
        remove: remove the archive in the end.

    Raises:
        LostRegError: an archive that is missing, damaged, too large once it is unpacked, or contains no
            wanted file; a member that leads outside the folder or is not a file; a folder that cannot be
            written.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise LostRegError(f"there is no archive {archive}; download it first")
    staging = _staging(archive, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{staging}.lock"):
            shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
            try:
                _unpack(archive, staging, members or (lambda name: True))
                _merge(staging, folder)
                if remove:
                    archive.unlink()
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except LostRegError:
        raise
    except Exception as error:  # each compression raises its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LostRegError(
            f"cannot unpack {archive} into {folder}: {reason}; make room or get permission there, or remove "
            "the archive if it is damaged, then run the same command again"
        ) from error


def is_unfinished(archive: Path, folder: Path) -> bool:
    """Whether a process was killed while it unpacked an archive here, so that not all may have been moved."""
    return archive.exists() and _staging(archive, folder).exists()


def remove_leftovers(archive: Path, folder: Path) -> None:
    """Remove what a killed process left of unpacking an archive; none may be unpacking it."""
    shutil.rmtree(_staging(archive, folder), ignore_errors=True)


def _staging(archive: Path, folder: Path) -> Path:
    return folder / f".{archive.name}.extracting"


def _unpack(archive: Path, staging: Path, wanted: Callable[[str], bool]) -> None:
    """Write the wanted files under `staging`; no links are created, so names alone decide where files go."""
    if not (is_tar := _is_tar(archive)) and not zipfile.is_zipfile(archive):
        raise LostRegError(f"{archive} is neither a tar nor a zip archive: remove it and download it again")
    files, left = _tar_files if is_tar else _zip_files, _MOST_TIMES * archive.stat().st_size + _SPARE_BYTES
    for name, content in files(archive, wanted):
        target = Path(os.path.abspath(staging / name))
        inside = target.is_relative_to(os.path.abspath(staging))
        if not inside or content is None:
            why = "is a device, or a link to no file of the archive" if inside else "leads outside the folder"
            raise LostRegError(f"refused to unpack {archive}: its member {name!r} {why}; get another copy")
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, open(target, "wb") as file:
            left = _copy(content, file, left - _LEAST_BYTES)
        if left < 0:
            raise LostRegError(f"refused to unpack {archive}: it would take far more room than itself")
    if not staging.exists():
        raise LostRegError(f"{archive} holds none of the files wanted: remove it and download the right one")


def _copy(content: IO[bytes], file: IO[bytes], left: int) -> int:
    """Copy at most `left` bytes; returns how many are left then, negative if there was more to copy."""
    while left >= 0 and (block := content.read(_CHUNK)):
        file.write(block[:left])
        left -= len(block)
    return left


def _is_tar(archive: Path) -> bool:
    """Whether it is an uncompressed tar: one compressed could unpack to headers of any size, in memory."""
    try:
        tarfile.open(archive, "r:").close()
    except tarfile.TarError:
        return False
    return True


def _zip_files(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and contents of the wanted files; no contents for a link."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if not member.is_dir() and wanted(member.filename):
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                yield member.filename, None if is_link else opened.open(member)


def _tar_files(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and contents of the wanted files; no contents for a device or a dangling link."""
    with tarfile.open(archive, "r:") as opened:
        for member in opened:
            if not member.isdir() and wanted(member.name):
                try:
                    content = opened.extractfile(member)  # follows links, but only from member to member
                except (KeyError, RecursionError):
                    content = None
                yield member.name, content


def _merge(source: Path, folder: Path) -> None:
    """Move the contents of `source` into `folder`; folders in both are merged, files replaced."""
    for entry in sorted(source.iterdir()):
        target = folder / entry.name
        if entry.is_dir() and target.is_dir():
            _merge(entry, target)
        else:
            os.replace(entry, target)
