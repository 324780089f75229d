"""csv: a table with a line for each box."""

from __future__ import annotations

from pathlib import Path

from lost_reg.export.base import Export, open_table
from lost_reg.export.boxes import COLUMNS, row


def write_csv(export: Export, path: Path) -> None:
    """Write the rows of `boxes.row` under COLUMNS."""
    with open_table(path, COLUMNS) as table:
        table.writerows(row(image, box) for image in export.images for box in image.boxes)
