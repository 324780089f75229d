"""Puts the pictures of a run (`lost-reg run --visualize`) on one sheet.

python evaluation/contact_sheet.py RUN_FOLDER SHEET.jpg [COLUMNS]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

CELL = 240
GAP = 8


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    run, sheet = Path(sys.argv[1]), Path(sys.argv[2])
    columns = int(sys.argv[3]) if len(sys.argv) == 4 else 4
    pictures = sorted((run / "pictures").rglob("*.jpg"))
    if not pictures:
        sys.exit(f"no pictures in {run / 'pictures'}: run with --visualize")
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + GAP) + GAP), "white")
    for index, path in enumerate(pictures):
        picture = Image.open(path)
        picture.thumbnail((CELL, CELL))
        x = GAP + (index % columns) * (CELL + GAP) + (CELL - picture.width) // 2
        y = GAP + (index // columns) * (CELL + GAP) + (CELL - picture.height) // 2
        canvas.paste(picture, (x, y))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(sheet, quality=85)


if __name__ == "__main__":
    main()
