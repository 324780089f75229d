"""How long it takes to refine a mask on a photo: python evaluation/refining.py

One photo of scikit-image (the extra `photos`) at 640 x 480, and a mask of whole patches. The median of seven,
in seconds of one core.
"""

from __future__ import annotations

import statistics
import time

import cv2
import numpy as np
from skimage import data

from lost_reg.errors import LostRegError
from lost_reg.masks.refiners import REFINERS, check_refiner

REPEATED = 7


def main() -> None:
    """Print a line for each way to refine."""
    pixels = cv2.resize(data.astronaut(), (640, 480), interpolation=cv2.INTER_AREA)
    coarse = np.zeros((480, 640), bool)
    coarse[16:480, 160:448] = True
    for name, refiner in REFINERS.items():
        try:
            check_refiner(name)
        except LostRegError as error:
            print(f"{name}: {error}")
            continue
        refiner(pixels).refine(coarse)  # imports are not counted
        image, mask = [], []
        for _ in range(REPEATED):
            started = time.process_time()
            ready = refiner(pixels)
            image.append(time.process_time() - started)
            ready.refine(coarse)
            mask.append(time.process_time() - started - image[-1])
        print(f"{name}: {statistics.median(image):.2f} s an image, {statistics.median(mask):.2f} s a mask")


if __name__ == "__main__":
    main()
