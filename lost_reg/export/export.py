"""From a run folder to files that other programs read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.export.boxes import Filters, Selection, Tally
from lost_reg.export.crops import write_crops
from lost_reg.export.files import LINK, Misses, Pictures, check_target
from lost_reg.export.formats import FORMATS, Export
from lost_reg.files import whole_file, whole_folder
from lost_reg.plausibility import IMPLAUSIBLE
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.folder import Results, read_run

_NOT_FINISHED = "the run was not finished: how many images are left is not known"


@dataclass(frozen=True)
class ExportOptions:
    """What `lost-reg export` was asked for.

    to, out: one of FORMATS and the path it is written to, or None for neither.
    crops: the folder that crops are written to, or None.
    images: how a format that says where the images are gets them: one of `export_files.PICTURES`.
    image_root: where the images lie now; by default, where they lay.
    """

    to: str | None = None
    out: Path | None = None
    crops: Path | None = None
    images: str = LINK
    image_root: Path | None = None
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    further: boxes that the format has no room for.
    not_linked, not_cropped: images whose files could not be used.
    failed: images that the run could not use; not_done: those that it has not come to.
    notes: what else the user should know.
    """

    tally: Tally
    further: int
    not_linked: Misses
    not_cropped: Misses
    failed: int
    not_done: int
    notes: tuple[str, ...]


def export_run(
    folder: Path,
    options: ExportOptions,
    progress: Progress = no_progress,
) -> ExportSummary:
    """Write the boxes of a run in another format, or what they cut out, or both; each as a whole or not.

    Args:
        progress: called after each image whose crops were written, with the images done, failed and to do.

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
    pictures = Pictures(_image_root(results, options), options.images)
    export = Export(selection, results.settings, pictures)
    not_cropped = Misses()
    done = len(results.predictions) + len(results.failures)
    finished = bool(results.record["sessions"]) and results.record["sessions"][-1].get("finished", False)
    # what was written takes its place at the end, when nothing can fail any more
    with contextlib.ExitStack() as stack:
        if options.to:
            written = FORMATS[options.to]
            whole = whole_file if written.suffix else whole_folder
            written.write(export, stack.enter_context(whole(options.out)))
        if options.crops:
            part = stack.enter_context(whole_folder(options.crops))
            not_cropped = write_crops(
                selection, part, pictures, apply_exif=bool(results.settings.get("apply_exif")),
                progress=lambda done, failed: progress(done, failed, tally.images),
            )  # fmt: skip
    return ExportSummary(
        tally=tally,
        further=tally.boxes - tally.images if options.to and FORMATS[options.to].one_box else 0,
        not_linked=pictures.missing,
        not_cropped=not_cropped,
        failed=len(results.failures),
        not_done=0 if finished else max(0, (results.record["images"] or 0) - done),
        notes=(*export.notes, *([] if finished or results.record["images"] else [_NOT_FINISHED])),
    )


def _check_targets(options: ExportOptions) -> None:
    if options.to:
        check_target(options.out, FORMATS[options.to].suffix)
    if options.crops:
        check_target(options.crops, "")
    if options.to and options.crops:
        out, crops = (Path(os.path.abspath(path)) for path in (options.out, options.crops))
        if out.is_relative_to(crops) or crops.is_relative_to(out):
            raise LostRegError(
                f"{str(out)!r} and {str(crops)!r} lie in one another: name another folder for one"
            )


def _image_root(results: Results, options: ExportOptions) -> Path | None:
    """The folder of the images, where it is known.

    Raises:
        LostRegError: one that was given and is no folder.
    """
    if options.image_root and not options.image_root.is_dir():
        raise LostRegError(f"no such folder of images: {str(options.image_root)!r}")
    recorded = results.record.get("root")
    return options.image_root or (Path(recorded) if recorded else None)


def _none_left(folder: Path, tally: Tally) -> str:
    if not tally.dropped:
        return f"{folder} holds no boxes yet"
    return f"no box of {folder} passes the filters ({_listed(tally.dropped)}): loosen them"


def summary_lines(summary: ExportSummary) -> list[str]:
    """What was written, and what was not, for people."""
    tally = summary.tally
    kinds = {kind: tally.implausible[kind] for kind in IMPLAUSIBLE}
    lines = [f"{tally.boxes:,} boxes of {tally.images:,} images; implausible among them: {_listed(kinds)}"]
    if tally.dropped:
        lines.append(f"dropped: {sum(tally.dropped.values()):,} boxes ({_listed(tally.dropped)})")
    left_out = {
        "images without a box left": tally.without_box,
        "images that the run could not use": summary.failed,
        "images that the run has not done": summary.not_done,
        "boxes beyond one in an image, which the format has no room for": summary.further,
    }
    left_out = {what: number for what, number in left_out.items() if number}
    if left_out:
        lines.append(f"left out: {_listed(left_out)}")
    return lines


def warnings(summary: ExportSummary) -> list[str]:
    """What went wrong, and did not end the export."""
    lines = []
    for what, misses in (
        ("are not there as files", summary.not_linked),
        ("gave no crops", summary.not_cropped),
    ):
        if misses.count:
            lines.append(f"{misses.count:,} of {summary.tally.images:,} images {what}: {misses}")
    return [*lines, *summary.notes]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())
