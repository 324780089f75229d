"""What to tell the user of a run that found hardly more than whole images, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lost_reg.discovery.methods import METHODS
from lost_reg.discovery.presets import ACROSS_METHODS, BEST
from lost_reg.plausibility import WHOLE_IMAGE, implausible
from lost_reg.text import agreeing, counted
from lost_reg.types import Prediction


def whole_images_line(read: Callable[[], Iterable[Prediction]], settings: dict[str, Any]) -> str | None:
    """One line if most images have no object, or at least half of the boxes are the whole image: what to try.

    Args:
        read: streams the run's predictions; called twice if there is a line.
        settings: those of the run, as in run.json.

    Returns:
        None if more than half of the boxes are smaller.
    """
    images = with_box = whole = 0
    for image in read():
        images += 1
        with_box += bool(image.objects)
        whole += _is_whole(image)
    other = "" if settings["method"] == ACROSS_METHODS[BEST].method else "try `preset` best; "
    advice = f"{other}`lost-reg sweep` compares settings"
    if 2 * with_box < images:
        return f"nothing was found in {images - with_box:,} of {counted(images, 'image')}; {advice}"
    if not whole or 2 * whole < with_box:
        return None
    boxes = (
        "the box is" if with_box == 1 else f"{whole:,} of {counted(with_box, 'box')} {agreeing(whole, 'are')}"
    )
    method = METHODS.get(settings["method"])
    ask = method and method.why_whole_image
    why = ask(image for image in read() if _is_whole(image)) if ask else None
    return f"{boxes} the whole image{f': {why}' if why else ''}; {advice}"


def _is_whole(image: Prediction) -> bool:
    """Whether an image's first box is the whole image."""
    box = image.box_xyxy
    return box is not None and implausible(box, image.size_hw, image.grid_hw) == WHOLE_IMAGE
