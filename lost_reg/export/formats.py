"""The table of export formats. To add one, add a file next to this one and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lost_reg.export.base import Export
from lost_reg.export.coco import write_coco
from lost_reg.export.fiftyone import write_fiftyone
from lost_reg.export.lost_pickle import write_lost
from lost_reg.export.png import write_png
from lost_reg.export.table import write_csv
from lost_reg.export.voc import write_voc
from lost_reg.export.yolo import write_yolo, write_yolo_seg


@dataclass(frozen=True)
class Format:
    """One export format.

    suffix: of the file, or "" for a folder.
    write: (export, path) -> None: writes to that path; a folder exists already.
    has_images: whether it includes the images.
    one_box: whether it holds only one box per image.
    has_split: whether it divides the images into those to train on and those for validation.
    """

    suffix: str
    write: Callable[[Export, Path], None]
    has_images: bool = False
    one_box: bool = False
    has_split: bool = False


FORMATS = {
    "coco": Format(".json", write_coco),
    "yolo": Format("", write_yolo, has_images=True, has_split=True),
    "yolo-seg": Format("", write_yolo_seg, has_images=True, has_split=True),
    "png": Format("", write_png),
    "voc": Format("", write_voc, has_images=True),
    "fiftyone": Format("", write_fiftyone, has_images=True),
    "lost": Format(".pkl", write_lost, one_box=True),
    "csv": Format(".csv", write_csv),
}
