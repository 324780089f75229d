"""Put the pictures of a run (`lost-reg run --visualize`) on one sheet, in rows of equal width.

    python evaluation/contact_sheet.py RUN SHEET [ROWS] [NAME ...]     NAME: a picture that is left out

After `make demo`, the sheets in results/ were made by

    python evaluation/contact_sheet.py demo-results/samples evaluation/results/samples.jpg
    python evaluation/contact_sheet.py demo-results/photos evaluation/results/photos.jpg 2 motorcycle_left
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1500  # pixels, of the sheet
GAP = 6  # pixels between pictures


def rows_of(pictures: list[Image.Image], rows: int) -> list[list[Image.Image]]:
    """The pictures, in order, in rows of about the same total width at the same height; none is empty."""
    shapes = [picture.width / picture.height for picture in pictures]
    filled: list[list[Image.Image]] = [[] for _ in range(rows)]
    for index, picture in enumerate(pictures):
        middle = sum(shapes[:index]) + shapes[index] / 2
        filled[int(rows * middle / sum(shapes))].append(picture)
    return [row for row in filled if row]


def strip(row: list[Image.Image]) -> Image.Image:
    """One row of the sheet: its pictures side by side, scaled to fill the width exactly."""
    widths = [picture.width / picture.height for picture in row]
    room = WIDTH - GAP * (len(row) - 1)
    height = round(room / sum(widths))
    canvas = Image.new("RGB", (WIDTH, height), "white")
    for index, picture in enumerate(row):
        left, right = (round(room * sum(widths[:end]) / sum(widths)) for end in (index, index + 1))
        canvas.paste(
            picture.resize((right - left, height), Image.Resampling.LANCZOS), (left + index * GAP, 0)
        )
    return canvas


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    run, sheet, rows, *left_out = [*map(Path, sys.argv[1:3]), *(sys.argv[3:] or ["3"])]
    paths = sorted(
        path for path in (run / "pictures").rglob("*.jpg") if path.name.split(".")[0] not in left_out
    )
    if not paths:
        sys.exit(f"no pictures in {run / 'pictures'}: run with --visualize")
    strips = [strip(row) for row in rows_of([Image.open(path) for path in paths], int(rows))]
    canvas = Image.new("RGB", (WIDTH, sum(one.height + GAP for one in strips) - GAP), "white")
    top = 0
    for one in strips:
        canvas.paste(one, (0, top))
        top += one.height + GAP
    sheet.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(sheet, quality=85)


if __name__ == "__main__":
    main()
