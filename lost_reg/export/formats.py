"""The table of export formats. A new one is a file beside this one and a row here."""

from __future__ import annotations

from lost_reg.export.base import Format
from lost_reg.export.coco import write_coco
from lost_reg.export.lost_pickle import write_lost
from lost_reg.export.table import write_csv
from lost_reg.export.voc import write_voc
from lost_reg.export.yolo import write_yolo

FORMATS = {
    "coco": Format(".json", write_coco),
    "yolo": Format("", write_yolo, has_images=True),
    "voc": Format("", write_voc, has_images=True),
    "lost": Format(".pkl", write_lost, one_box=True),
    "csv": Format(".csv", write_csv),
}
