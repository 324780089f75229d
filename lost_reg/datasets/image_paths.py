"""Finding the image files that annotations name, in a folder that they never lead out of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lost_reg.files import leads_out


class ListedFolder:
    """The files below a folder; each folder in it is listed at most once."""

    def __init__(self, root: Path):
        self._root = root
        self._listed: dict[str, frozenset[str]] = {}

    def has(self, name: str) -> bool:
        """Whether a path names a file below the folder: relative, with forward slashes, without "..".

        An absolute path, or one with "..", names none, whatever lies there.
        """
        folder, separator, last = name.rpartition("/")
        folder += separator  # "/x" is a name in "/", which leads out
        if folder not in self._listed:
            self._listed[folder] = frozenset() if leads_out(folder) else _files_in(self._root / folder)
        return last in self._listed[folder]


def _files_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_dir())
    except (OSError, ValueError):  # not there, not readable, or no name of a folder
        return frozenset()


def last_part(name: str) -> str:
    """The last part of a path of any system, such as x.jpg of /data/x.jpg and of D:\\data\\x.jpg."""
    return name.replace("\\", "/").rpartition("/")[2]


def by_last_part(names: Sequence[str]) -> dict[str, str]:
    """The names by their last parts, without those that end alike."""
    times = Counter(map(last_part, names))
    return {last_part(name): name for name in names if times[last_part(name)] == 1}


def found_below(root: Path, names: Sequence[str]) -> dict[str, str]:
    """The images that are in a folder: their paths below it, by the names that annotations have for them.

    A name is tried as it is, then with its backslashes as slashes, then by its last part, unless several of
    the names end in that.
    """
    folder = ListedFolder(root)
    alone = [name for name in names if "/" not in name and "\\" not in name]
    found = {name: name for name in alone if folder.has(name)}
    if len(alone) == len(names):
        return found
    unique = by_last_part(names)
    for name in names:
        last = last_part(name)
        for path in (name, name.replace("\\", "/"), *([last] if last in unique else [])):
            if folder.has(path):
                found[name] = path
                break
    return found


def best_folder(folders: Iterable[Path], names: Sequence[str]) -> tuple[Path | None, dict[str, str]]:
    """The folder that holds the most of the images, the first of several, and what `found_below` gives."""
    best: tuple[Path | None, dict[str, str]] = None, {}
    for folder in folders:
        found = found_below(folder, names)
        if len(found) > len(best[1]):
            best = folder, found
        if len(found) == len(names):
            break
    return best
