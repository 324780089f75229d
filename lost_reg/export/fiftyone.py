"""fiftyone: a folder that FiftyOne imports as a FiftyOneImageDetectionDataset, with data/ and labels.json.

The layout is that of https://docs.voxel51.com/user_guide/import_datasets.html.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from lost_reg.export.base import NAMES_TABLE, Export, Stems, category_of, open_table, open_text
from lost_reg.export.boxes import ExportedBox
from lost_reg.json_files import as_json


def write_fiftyone(export: Export, folder: Path) -> None:
    """Write data/STEM.jpg and labels.json: for each stem, its boxes as shares of the image.

    names.csv maps the new names to the old ones.
    """
    (folder / "data").mkdir()
    stems = Stems()
    with (
        open_text(folder / "labels.json") as labels,
        open_table(folder / NAMES_TABLE, ("file", "image")) as names,
    ):
        labels.write('{"classes": null, "labels": {')
        for number, image in enumerate(export.images):
            stem = stems.of(image.name)
            file = f"data/{stem}{PurePosixPath(image.name).suffix.lower()}"
            found = [detection(image.size_hw, box) for box in image.boxes]
            labels.write(f"{',' if number else ''}\n{as_json(stem)}: {as_json(found)}")
            export.files.place(image.name, folder / file)
            names.writerow((file, image.name))
        labels.write("}}\n")


def detection(size_hw: tuple[int, int], box: ExportedBox) -> dict[str, Any]:
    """A box as FiftyOne has it: [x, y, width, height] as shares of the image, and what else is known."""
    (xmin, ymin, xmax, ymax), (height, width) = box.xyxy, size_hw
    known = box.signals
    attributes = {
        **{"object": box.index, "area_share": known.area, "degree_share": known.degree},
        **{"borders": known.borders, "implausible": box.implausible},
    }
    return {
        "label": category_of(box),
        "bounding_box": [xmin / width, ymin / height, (xmax - xmin) / width, (ymax - ymin) / height],
        **({} if known.score is None else {"confidence": known.score}),
        "attributes": {name: value for name, value in attributes.items() if value is not None},
    }
