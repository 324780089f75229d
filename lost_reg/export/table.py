"""csv: a table with a line for each box."""

from __future__ import annotations

from pathlib import Path

from lost_reg.export.base import Export, open_table


def write_csv(export: Export, path: Path) -> None:
    """Write the rows of `boxes.row` under COLUMNS, with labels where there are any."""
    with open_table(path, export.columns) as table:
        table.writerows(export.row(image, box) for image in export.images for box in image.boxes)
