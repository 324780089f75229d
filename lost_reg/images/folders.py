"""Which files of a folder are images, and what a search leaves out: junk, and files that cannot be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from lost_reg.images.reading import HEIF_SUFFIXES, readable_suffixes
from lost_reg.text import counted, shown_names

# Names, in lower case, that systems and programs give to what is no photo of the user's.
_JUNK = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
     "ehthumbs.db", "desktop.ini")
)  # fmt: skip
# Suffixes, in lower case, of pictures and videos that are not read, or not without an extra.
_MEDIA = frozenset(
    (*HEIF_SUFFIXES, ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".svg", ".eps", ".ico", ".psd",
     ".xcf", ".tga", ".pcx", ".dds", ".exr", ".hdr", ".pbm", ".pgm", ".pnm", ".ppm", ".dcm", ".fits",
     ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
     ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
     ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
     ".webm", ".wmv")
)  # fmt: skip
# What a folder of lost-reg's own results holds, and the folders in it whose images are drawn from others.
_RESULTS = frozenset(("run.json", "predictions.jsonl"))
_DRAWN = frozenset(("pictures", "maps"))
_KINDS_SHOWN = 6


def suffix_of(file: str) -> str:
    """The suffix of a file's name, in lower case; "" without one."""
    return os.path.splitext(file)[1].lower()


def is_image(file: str) -> bool:
    """Whether a file name has the suffix of an image that can be read."""
    return suffix_of(file) in readable_suffixes()


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is left out without a word: it is hidden, or a system's own."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _JUNK


def walk(folder: str, unlisted: dict[str, str], drawn: set[str]) -> Iterator[str]:
    """The files in a folder and below it, without junk; links to folders are not followed.

    Args:
        unlisted: receives the folders that cannot be listed, and why.
        drawn: receives the folders that are left out because a run's pictures or maps are in them.
    """

    def cannot(error: OSError) -> None:
        unlisted[error.filename] = error.strerror

    for where, folders, names in os.walk(folder, onerror=cannot):
        if _RESULTS.issubset(names):
            drawn.update(os.path.join(where, name) for name in folders if name in _DRAWN)
        folders[:] = [
            name for name in folders if not is_junk(name) and os.path.join(where, name) not in drawn
        ]
        yield from (os.path.join(where, name) for name in names if not is_junk(name))


def counts_by_suffix(files: Iterable[str]) -> dict[str, int]:
    """The number of files by suffix, the most frequent first; "" counts those without one."""
    counts = Counter(map(suffix_of, files))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def passed_over(others: Iterable[str]) -> dict[str, int]:
    """Of the files that are no images, those that a user may take for some, counted by suffix.

    These are pictures and videos of other formats, and files without a suffix; labels and texts are not.
    """
    return counts_by_suffix(file for file in others if suffix_of(file) in _MEDIA or not suffix_of(file))


def passed_over_line(counts: Mapping[str, int]) -> str:
    """One line on the files that were passed over, such as "3 files passed over: 2 .heic, 1 .mov"."""
    return f"{counted(sum(counts.values()), 'file')} passed over: {listed_counts(counts)}{_advice(counts)}"


def drawn_line(folders: Iterable[str]) -> str:
    """One line on the folders that were left out because a run's pictures or maps are in them."""
    return f"left out are pictures and maps that lost-reg made: {shown_names(sorted(folders), 2)}"


def what_is_there(others: Iterable[str]) -> str:
    """What a folder, pattern or shard without images holds instead: "it holds 12 .heic, 3 .txt"."""
    counts = counts_by_suffix(others)
    if not counts:
        return "it is empty (hidden files do not count)"
    return f"it holds {listed_counts(counts)}{_advice(counts)}"


def listed_counts(counts: Mapping[str, int]) -> str:
    """Counts by suffix as a list: "2 .heic, 1 .mov, 1 without suffix"."""
    return shown_names(
        (f"{count:,} {suffix or 'without suffix'}" for suffix, count in counts.items()), _KINDS_SHOWN
    )


def _advice(counts: Mapping[str, int]) -> str:
    met = [suffix for suffix in HEIF_SUFFIXES if suffix in counts]  # and so cannot be read
    if met:
        return f"; after `pip install 'lost-reg[heif]'`, {' and '.join(met)} can be read"
    if any(suffix in counts for suffix in (".tar", ".tgz")):
        return "; name tar shards themselves, such as 'shards/*.tar'"
    return ""
