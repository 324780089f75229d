"""A report of runs, sweeps and artifacts: one page that opens from disk, with its pictures next to it.

The page needs no server and no network. User-supplied names are always shown as plain text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.files import check_no_links, remove_parts, whole_file
from lost_reg.progress import Progress, no_progress
from lost_reg.report.artifacts import artifacts_section
from lost_reg.report.gallery import MAX_IMAGES, Shown, gallery_section, has_maps, write_gallery
from lost_reg.report.loading import load
from lost_reg.report.page import MARK, render, unfinished_page
from lost_reg.report.pictures import PICTURE_FOLDERS, Pictures
from lost_reg.report.probes import probes_section
from lost_reg.report.runs import bars_section, corloc_section, paired_section
from lost_reg.report.sweeps import sweeps_section
from lost_reg.runs.image_folder import RECORDED, ImageRoot
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.text import counted

PAGE_FILE = "index.html"


@dataclass(frozen=True)
class ReportSummary:
    """What was written: the page, what it shows, how many of the images, and why some have no picture."""

    page: Path
    runs: int
    sweeps: int
    artifacts: int
    probes: int
    shown: int
    images: int
    with_maps: int
    without_picture: tuple[str, ...]
    withheld: tuple[str, ...]


def write_report(
    top: Path,
    out: Path,
    options: ScoringOptions,
    *,
    max_images: int = MAX_IMAGES,
    images: ImageRoot = RECORDED,
    progress: Progress = no_progress,
    wording: Callable[[str], str] = str,
) -> tuple[ReportSummary, list[LostRegError]]:
    """Write a report of all runs, sweeps and artifacts at and below a folder.

    Args:
        out: the folder of the report; an earlier report in it is replaced once the new one is complete.
        max_images: how many images of each dataset the gallery shows at most, evenly spaced.
        images: where the images of runs on a user's own files are; by default where they were.
        progress: called with the numbers of gallery images done, without a picture, and in total.
        wording: applied to the page's texts: the command line makes options of `parameters`.

    Returns:
        What was written, and the errors for what could not be read or scored and is left out.

    Raises:
        LostRegError: nothing that can be shown, or a folder that is not free or cannot be written.
    """
    check_free(out)
    content = load(top, options)
    _prepare(out)
    shown, pictures = Shown(max_images, images, options.count_hard), Pictures(out)
    gallery = write_gallery(content.runs, pictures, shown, progress=progress)
    sections = (
        corloc_section(content.runs, content.errors),
        bars_section(content.runs),
        paired_section(content.runs, options),
        sweeps_section(content.sweeps, content.unscored),
        artifacts_section(content.artifacts),
        probes_section(content.probes),
        gallery_section(content.runs, gallery),
    )
    for entry in (entry for item in gallery["items"] for entry in item["entries"].values()):
        for reason in {"failure", "maps_error"} & entry.keys():
            entry[reason] = wording(entry[reason])
    page = render([section for section in sections if section], _summary_line(gallery), gallery, wording)
    _write(out / PAGE_FILE, page)
    pictures.remove_others()
    summary = ReportSummary(
        page=out / PAGE_FILE,
        runs=len(content.runs),
        sweeps=len(content.sweeps),
        artifacts=len(content.artifacts),
        probes=len(content.probes),
        shown=len(gallery["items"]),
        images=sum(dataset["images"] for dataset in gallery["datasets"]),
        with_maps=sum(map(has_maps, gallery["items"])),
        without_picture=tuple(gallery["without_picture"]),
        withheld=tuple(gallery["withheld"]),
    )
    return summary, content.errors


def _summary_line(gallery: dict[str, Any]) -> str:
    if not gallery["datasets"]:
        return "No runs: only sweeps, artifacts and probes"
    runs = sum(len(dataset["runs"]) for dataset in gallery["datasets"])
    names = ", ".join(dataset["name"] for dataset in gallery["datasets"])
    images = sum(dataset["images"] for dataset in gallery["datasets"])
    shown = len(gallery["items"])
    in_gallery = f", {shown:,} of them in the gallery" if shown < images else ""
    return f"{counted(runs, 'run')} on {names}: {counted(images, 'image')}{in_gallery}"


# --- the folder ---------------------------------------------------------------------------------------


def check_free(out: Path) -> None:
    """Check that a report may be written to a folder.

    Raises:
        LostRegError: a file, or a folder that contains anything other than an earlier report.
    """
    if out.exists() and not out.is_dir():
        raise LostRegError(f"cannot write the report to {str(out)!r}: it is a file; name a folder with `out`")
    if out.is_dir() and any(out.iterdir()) and not _is_report(out):
        raise LostRegError(f"{str(out)!r} holds files other than a report: name another folder with `out`")


def _is_report(folder: Path) -> bool:
    try:
        with (folder / PAGE_FILE).open(encoding="utf-8", errors="replace") as file:
            return MARK in file.read(2000)
    except OSError:
        return False


def _prepare(out: Path) -> None:
    """Make the folders, and if there is no page, one that marks them as a report that is being written."""
    for name in PICTURE_FOLDERS:
        check_no_links(out / name, out / name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_parts(out, PICTURE_FOLDERS)
        if not (out / PAGE_FILE).exists():
            _write(out / PAGE_FILE, unfinished_page())
        for name in PICTURE_FOLDERS:
            (out / name).mkdir(exist_ok=True)
    except OSError as error:
        raise LostRegError(f"cannot write the report to {str(out)!r}: {error.strerror or error}") from None


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
