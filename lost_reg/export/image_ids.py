"""The ids that COCO has for images: its own and LOST's tools refer to images by them."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from lost_reg.export.base import Export

COCO20K = "coco20k"


def image_ids(export: Export) -> dict[str, int]:
    """The ids of the run's images in its COCO dataset, by name; none for a run on other images.

    If the dataset cannot be read any more, there are none, and a note is added to the export.
    """
    dataset = str(export.settings.get("dataset") or "")
    names = [image.name for image in export.images] if dataset == COCO20K or dataset.endswith(".json") else []
    try:
        if dataset == COCO20K:  # COCO_train2014_000000560992.jpg
            return {name: int(PurePosixPath(name).stem.rpartition("_")[2]) for name in names}
        records = json.loads(Path(dataset).read_bytes())["images"] if names else []
        ids = {record["file_name"]: record["id"] for record in records}
        return {name: ids[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        export.notes.append(
            f"images have other ids than in {dataset}, which is not there or does not list them"
        )
        return {}
