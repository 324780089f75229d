"""The options of a run besides its images, its backbone and its setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.images.colours import WHITE, background_of
from lost_reg.json_files import check_fields

if TYPE_CHECKING:
    from lost_reg.runs.engines import Engine

BATCH_SIZE = 8
# 256 x 256: a photo of 12 megapixels in patches of 14 or 16.
MOST_PATCHES = 2**16


@dataclass(frozen=True)
class LoaderOptions:
    """How images are decoded and put into batches.

    batch_size: how many images of one grid run together, or "auto": as many as keep the device busy and fit
        in its free memory.
    workers: decoding processes; None fits the machine, 0 decodes in this process.
    apply_exif: whether the EXIF orientation of image files is applied.
    background: the colour under transparent images, by its name or as `#rrggbb`; None drops the transparency
        and shows the colours under it, as runs without a recorded background did.
    max_patches: images with more patches, once scaled, are refused; None for any number.
    """

    batch_size: int | str = BATCH_SIZE
    workers: int | None = None
    apply_exif: bool = True
    background: str | None = WHITE
    max_patches: int | None = MOST_PATCHES

    def __post_init__(self) -> None:
        """Raises LostRegError for a value that is not possible."""
        check_fields(self)
        if self.background is not None:
            object.__setattr__(self, "background", background_of(self.background))
        if self.workers is not None and self.workers < 0:
            raise LostRegError(f"expected `workers` of at least 0, but got {self.workers}")
        if self.max_patches is not None and self.max_patches < 1:
            raise LostRegError(f"expected `max_patches` of at least 1, but got {self.max_patches}")


@dataclass(frozen=True)
class RunOptions:
    """How a run folder is written.

    loader: its apply_exif is replaced by that of the run's images, see `Source`.
    limit: process only this many images, the first ones.
    resume: continue a run folder that exists already.
    overwrite: remove the run that the folder holds, first.
    visualize: also write each image with its boxes, seed and masks into the run folder's pictures/.
    masks: also write the mask of each object into predictions.jsonl; implied if masks are refined.
    save_maps: also write each image's maps into the run folder's maps/, before its prediction.
    sort: at the end, put the predictions into the order of the images.
    command: the options of the command line, recorded and written as run.toml; None from Python.
    data_root: recorded, so that scoring finds the ground truth again.
    engine: what spreads the images over processes and machines; None for this process.
    """

    loader: LoaderOptions = field(default_factory=LoaderOptions)
    limit: int | None = None
    resume: bool = False
    overwrite: bool = False
    visualize: bool = False
    masks: bool = False
    save_maps: bool = False
    sort: bool = False
    command: dict[str, Any] | None = None
    data_root: Path | None = None
    engine: Engine | None = None
