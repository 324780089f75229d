"""Writes the boxes of a run folder for other programs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.export.base import Export
from lost_reg.export.boxes import Filters, Selection, Tally
from lost_reg.export.crops import write_crops
from lost_reg.export.files import check_target
from lost_reg.export.formats import FORMATS
from lost_reg.export.image_files import LINK, ImageFiles, SkippedImages
from lost_reg.export.summary import ExportSummary, listed
from lost_reg.files import whole_file, whole_folder
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.folder import Results, read_run

_TOTAL_UNKNOWN = "the run was not finished: how many images are left is unknown"


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to.

    to, out: one of FORMATS and the path it is written to, or None for neither.
    crops: the folder that crops are written to, or None.
    images: how a format that holds the images gets them: one of `image_files.MODES`.
    image_root: where the images are now; by default, where they were during the run.
    """

    to: str | None = None
    out: Path | None = None
    crops: Path | None = None
    images: str = LINK
    image_root: Path | None = None
    filters: Filters = field(default_factory=Filters)


def export_run(folder: Path, options: ExportOptions, progress: Progress = no_progress) -> ExportSummary:
    """Write the boxes of a run in another format, or as crops, or both; each as a whole or not at all.

    Args:
        progress: called after each image whose crops were written, with the images done, skipped and to do.

    Raises:
        LostRegError: a folder that holds no run, a run of which no box is left, or a target that cannot be
            written or holds something already.
    """
    _check_targets(options)
    results = read_run(folder)
    selection = Selection(results.predictions.values(), options.filters)
    tally = selection.tally()
    if not tally.boxes:
        raise LostRegError(_none_left(folder, tally))
    export = Export(selection, results.settings, ImageFiles(_image_root(results, options), options.images))
    not_cropped = SkippedImages()
    # what was written takes its place at the end, when nothing can fail any more
    with contextlib.ExitStack() as stack:
        if options.to and options.out:
            written = FORMATS[options.to]
            whole = whole_file if written.suffix else whole_folder
            written.write(export, stack.enter_context(whole(options.out)))
        if options.crops:
            part = stack.enter_context(whole_folder(options.crops))
            not_cropped = write_crops(
                export, part, lambda done, skipped: progress(done, skipped, tally.images)
            )
    not_done = _not_done(results)
    return ExportSummary(
        tally=tally,
        beyond_first=tally.boxes - tally.images if options.to and FORMATS[options.to].one_box else 0,
        not_placed=export.files.missing,
        not_cropped=not_cropped,
        failed=len(results.failures),
        not_done=not_done or 0,
        notes=(*export.notes, *([_TOTAL_UNKNOWN] if not_done is None else [])),
    )


def _check_targets(options: ExportOptions) -> None:
    if options.to and options.out:
        check_target(options.out, FORMATS[options.to].suffix)
    if options.crops:
        check_target(options.crops, "")
    if options.out and options.crops:
        out, crops = (Path(os.path.abspath(path)) for path in (options.out, options.crops))
        if out.is_relative_to(crops) or crops.is_relative_to(out):
            raise LostRegError(f"{str(out)!r} and {str(crops)!r} are in one another: choose separate folders")


def _image_root(results: Results, options: ExportOptions) -> Path | None:
    """The folder of the images, if it is known.

    Raises:
        LostRegError: a given root that is no folder.
    """
    if options.image_root and not options.image_root.is_dir():
        raise LostRegError(f"no such folder of images: {str(options.image_root)!r}")
    recorded = results.record.get("root")
    return options.image_root or (Path(recorded) if recorded else None)


def _not_done(results: Results) -> int | None:
    """How many images the run has not reached; None if it was not finished and recorded no total."""
    sessions, total = results.record["sessions"], results.record["images"]
    if sessions and sessions[-1].get("finished", False):
        return 0
    return max(0, total - len(results.predictions) - len(results.failures)) if total else None


def _none_left(folder: Path, tally: Tally) -> str:
    if not tally.dropped:
        return f"{folder} holds no boxes"
    return f"no box of {folder} passes the filters ({listed(tally.dropped)}): loosen them"
