"""Writes the boxes of a run folder for other programs, and reports what was written and what was left out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lost_reg.errors import LostRegError
from lost_reg.export.base import LINK, NONE, Export, ImageFiles, SkippedImages, Split
from lost_reg.export.boxes import Filters, Selection, Tally
from lost_reg.export.crops import write_crops
from lost_reg.export.formats import FORMATS
from lost_reg.files import whole_file, whole_folder
from lost_reg.images.shards import SHARD_SUFFIXES
from lost_reg.plausibility import IMPLAUSIBLE
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.folder import Results, read_run
from lost_reg.runs.image_folder import RECORDED, ImageRoot, image_folder
from lost_reg.runs.seals import is_own
from lost_reg.text import agreeing, counted

_TOTAL_UNKNOWN = "the run was not finished: how many images are left is unknown"


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to.

    to, out: one of FORMATS and the path it is written to, or None for both.
    crops: the folder that crops are written to, or None.
    images: how images get into a format that includes them: one of `base.MODES`.
    split: how a format that is trained on divides the images, or None.
    image_root: where the images are; by default, where they were during the run.
    """

    to: str | None = None
    out: Path | None = None
    crops: Path | None = None
    images: str = LINK
    image_root: ImageRoot = RECORDED
    filters: Filters = field(default_factory=Filters)
    split: Split | None = None


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    beyond_first: boxes left out because the format holds one per image.
    not_placed, not_cropped: images whose files could not be used.
    failed: images that the run could not use; not_done: images that it has not reached.
    for_validation: images that the split keeps for validation; None without a split.
    notes: what else the user should know.
    """

    tally: Tally
    beyond_first: int
    not_placed: SkippedImages
    not_cropped: SkippedImages
    failed: int
    not_done: int
    for_validation: int | None
    notes: tuple[str, ...]


def export_run(folder: Path, options: ExportOptions, progress: Progress = no_progress) -> ExportSummary:
    """Write the boxes of a run in another format, or as crops, or both; each completely or not at all.

    Args:
        progress: called after each image whose crops were written, with the numbers done, skipped and total.

    Raises:
        LostRegError: a folder without a run, a run without any box left, an output with images of which none
            is there as a file or one is not to be read (see `ImageFolder.find`), or a target that cannot be
            written or is not empty.
    """
    _check_targets(options)
    results = read_run(folder)
    selection = Selection(results.predictions.values(), options.filters)
    tally = selection.tally()
    if not tally.boxes:
        raise LostRegError(
            f"no box of {folder} passes the filters ({_listed(tally.dropped)}): loosen them"
            if tally.dropped
            else f"{folder} holds no boxes"
        )
    images = image_folder(folder, results.record, options.image_root)
    export = Export(
        images=selection,
        settings=results.settings,
        files=ImageFiles(images, options.images),
        without_box=(*selection.without_box(), *results.failures),
        is_own=is_own(results.record),
        split=options.split if options.to and FORMATS[options.to].has_split else None,
    )
    _check_image_files(export, options)
    not_cropped = SkippedImages()
    # outputs are moved into place at the end, when nothing can fail any more
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
    not_done = images_left(results)
    return ExportSummary(
        tally=tally,
        beyond_first=tally.boxes - tally.images if options.to and FORMATS[options.to].one_box else 0,
        not_placed=export.files.missing,
        not_cropped=not_cropped,
        failed=len(results.failures),
        not_done=not_done or 0,
        for_validation=_for_validation(export),
        notes=(*export.notes, *([_TOTAL_UNKNOWN] if not_done is None else [])),
    )


def _for_validation(export: Export) -> int | None:
    split = export.split
    return sum(split.is_val(image.name) for image in export.images) if split else None


def _check_targets(options: ExportOptions) -> None:
    if options.to and options.out:
        _check_target(options.out, FORMATS[options.to].suffix)
    if options.crops:
        _check_target(options.crops, "")
    if options.out and options.crops:
        out, crops = (Path(os.path.abspath(path)) for path in (options.out, options.crops))
        if out.is_relative_to(crops) or crops.is_relative_to(out):
            raise LostRegError(f"{str(out)!r} and {str(crops)!r} contain each other: choose two folders")


def _check_target(path: Path, suffix: str) -> None:
    """Raises LostRegError for a path that is taken, or a file with another suffix ("" is a folder)."""
    if suffix and path.suffix != suffix:
        raise LostRegError(f"expected a file name that ends with {suffix}, but got {str(path)!r}")
    if path.is_dir() and suffix:
        raise LostRegError(f"{str(path)!r} is a folder: name a file")
    if path.is_dir() and any(path.iterdir()):
        raise LostRegError(f"{str(path)!r} holds files already: name another folder")
    if path.is_file() and (not suffix or path.stat().st_size):
        raise LostRegError(f"{str(path)!r} is there already: name another")


def _check_image_files(export: Export, options: ExportOptions) -> None:
    """Raises LostRegError for an output with images if not one of them is there as a file."""
    with_images = options.to and FORMATS[options.to].has_images and options.images != NONE
    if not (with_images or options.crops) or any(
        export.files.folder.find(image.name) for image in export.images
    ):
        return
    first = next(iter(export.images)).name
    if any(part.lower().endswith(SHARD_SUFFIXES) for part in first.split("/")[:-1]):
        problem = (
            f"the images are in tar shards ({first}): unpack each to a folder of its name in `image_root`"
        )
    else:
        root = (
            repr(str(export.files.folder.root))
            if export.files.folder.root
            else "a folder that was not recorded"
        )
        problem = f"none of the images is a file in {root} ({first}): name the folder with `image_root`"
    without = f", or leave them out with `images` {NONE}" if not options.crops else ""
    raise LostRegError(f"{problem}{without}")


def images_left(results: Results) -> int | None:
    """How many images the run has not reached; None if it was not finished and recorded no total."""
    sessions, total = results.record["sessions"], results.record["images"]
    if sessions and sessions[-1].get("finished", False):
        return 0
    return max(0, total - len(results.predictions) - len(results.failures)) if total else None


def summary_lines(summary: ExportSummary) -> list[str]:
    """What was written, and what was left out."""
    tally = summary.tally
    kinds = {kind: tally.implausible[kind] for kind in IMPLAUSIBLE}
    held = f"{counted(tally.boxes, 'box')} of {counted(tally.images, 'image')}"
    lines = [f"{held}; implausible among them: {_listed(kinds)}"]
    if tally.dropped:
        lines.append(f"dropped: {counted(tally.dropped.total(), 'box')} ({_listed(tally.dropped)})")
    if summary.for_validation is not None:
        lines.append(
            f"split: {counted(tally.images - summary.for_validation, 'image')} to train on, "
            f"{summary.for_validation:,} for validation"
        )
    images = {
        "without a box": tally.without_box,
        "that the run could not use": summary.failed,
        "that the run has not reached": summary.not_done,
    }
    left_out = [f"{counted(number, 'image')} {which}" for which, number in images.items() if number]
    if summary.beyond_first:
        left_out.append(
            f"{counted(summary.beyond_first, 'box')} after the first of an image, "
            "which is all the format holds"
        )
    return [*lines, f"left out: {', '.join(left_out)}"] if left_out else lines


def warnings(summary: ExportSummary) -> list[str]:
    """What went wrong without ending the export."""
    are = agreeing(summary.not_placed.count, "are")
    skipped = {f"{are} not there as files": summary.not_placed, "gave no crops": summary.not_cropped}
    lines = [
        f"{images.count:,} of {counted(summary.tally.images, 'image')} {what}: {images}"
        for what, images in skipped.items()
        if images.count
    ]
    return [*lines, *summary.notes]


def _listed(counts: Mapping[str, int]) -> str:
    """Counts as a list: "2 single patch, 1 border strip"."""
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())
