"""lost: the pickle that LOST's own scripts (valeoai/LOST) write and read."""

from __future__ import annotations

import pickle
from pathlib import Path

from lost_reg.export.base import Export
from lost_reg.export.coco import image_ids


def write_lost(export: Export, path: Path) -> None:
    """Write {image: [xmin, ymin, xmax, ymax]}, with the first box of each image.

    As in LOST, keys are file names, or, for a COCO dataset, image ids as strings.
    """
    ids = image_ids(export)
    boxes = {str(ids.get(image.name, image.name)): list(image.boxes[0].xyxy) for image in export.images}
    path.write_bytes(pickle.dumps(boxes, protocol=4))
