"""Puts six photos of scikit-image's package into a folder in VOC layout, with boxes.

scikit-image carries them for demonstrations (`pip install 'lost-reg[photos]'`); they are not this
project's, so they are copied from the installed package and never committed. The boxes were drawn by eye
from the photos alone, before any prediction on them was seen.

    python data/skimage_photos.py [FOLDER]     FOLDER: skimage/ beside this file, if none is given
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from voc_layout import annotate, make_folders

# name: (class, xmin, ymin, xmax, ymax), half-open pixels
BOXES = {
    "astronaut.png": [
        ("person", 18, 15, 365, 512),
        ("helmet", 278, 345, 512, 512),
        ("space shuttle", 360, 0, 455, 290),
    ],
    "camera.png": [("person", 0, 62, 325, 512), ("camera", 233, 138, 404, 512)],
    "chelsea.png": [("cat", 0, 0, 390, 300)],
    "coffee.png": [("cup", 172, 18, 415, 310), ("saucer", 78, 18, 478, 384)],
    "motorcycle_left.png": [("motorcycle", 95, 72, 683, 451)],
    "rocket.jpg": [("rocket", 306, 127, 337, 412)],
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "skimage"
    try:
        import skimage
    except ImportError:
        sys.exit("scikit-image is not installed: pip install scikit-image")
    photos = Path(skimage.__file__).parent / "data"
    missing = [name for name in BOXES if not (photos / name).is_file()]
    if missing:
        sys.exit(
            f"scikit-image {skimage.__version__} does not carry {', '.join(missing)}: install 0.22 or newer"
        )
    make_folders(folder)
    for name in BOXES:
        shutil.copy(photos / name, folder / "JPEGImages" / name)
    annotate(folder, BOXES)
    print(f"{len(BOXES)} photos of scikit-image are in {folder}")


if __name__ == "__main__":
    main()
