"""Why LOST's boxes are the whole image or a single patch, from what a run records of each box."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lost_reg.plausibility import SINGLE_PATCH, WHOLE_IMAGE
from lost_reg.types import Prediction

_MOSTLY = 0.9  # with fewer positive affinities degrees differ, and the reason is another one


def why_implausible(kind: str, images: Iterable[Prediction]) -> str | None:
    """Why the first boxes of images have an implausible shape; see `Method.why_implausible`."""
    if kind == WHOLE_IMAGE:
        return _why_whole_image(images)
    return _why_single_patch(images) if kind == SINGLE_PATCH else None


def _why_whole_image(images: Iterable[Prediction]) -> str | None:
    """Whether it is because affinities are positive.

    If all affinities of an image are positive, all its patches have the same degree, any of them can be the
    seed, and the mask holds every patch.
    """
    count = tied = 0
    total = 0.0
    for image in images:
        details, patches = image.objects[0].details, math.prod(image.grid_hw)
        if "positive_share" not in details:  # by a version that did not record it
            return None
        count += 1
        total += details["positive_share"]
        tied += details["degree"] == patches - 1
    if not count or total / count < _MOSTLY:
        return None
    percent = math.floor(1000 * total / count) / 10  # rounded up, nearly all would look like all
    where = "this image" if count == 1 else "these images"
    why = f"{percent:g} % of the affinities in {where} are positive"
    if tied:
        of_them = "" if tied == count else f"in {tied:,} of them "
        why += f", so {of_them}all patches tie for the lowest degree and the seed is arbitrary"
    return why


def _why_single_patch(images: Iterable[Prediction]) -> str | None:
    """Whether it is because the seed is similar to no other patch.

    So it is where features differ in length: a short one has small affinities to all others, and a bias
    that suits the long ones makes them negative.
    """
    degrees = [image.objects[0].details.get("degree") for image in images]
    alone = degrees.count(0)
    if 2 * alone < len(degrees) or not alone:
        return None
    where = "" if len(degrees) == 1 else f"in {alone:,} of these images "
    return f"{where}the seed is similar to no other patch, so nothing can join it"
