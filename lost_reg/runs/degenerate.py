"""What to tell the user of a run whose boxes are hardly objects, or that found nothing at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from lost_reg.discovery.methods import METHODS
from lost_reg.discovery.presets import ACROSS_METHODS, BEST
from lost_reg.plausibility import BORDER_STRIP, SINGLE_PATCH, WHOLE_IMAGE, implausible
from lost_reg.text import agreeing, counted
from lost_reg.types import Prediction

_NAMES = {WHOLE_IMAGE: "the whole image", SINGLE_PATCH: "a single patch", BORDER_STRIP: "a border strip"}


def degenerate_line(read: Callable[[], Iterable[Prediction]], settings: dict[str, Any]) -> str | None:
    """One line if most images have no object, or at least half of the boxes are implausible: what to try.

    Args:
        read: streams the run's predictions; called twice if there is a line.
        settings: those of the run, as in run.json.

    Returns:
        None if more than half of the boxes have plausible shapes.
    """
    images = with_box = 0
    kinds: Counter[str] = Counter()
    for image in read():
        images += 1
        with_box += bool(image.objects)
        kinds.update(filter(None, [_kind(image)]))
    other = "" if settings["method"] == ACROSS_METHODS[BEST].method else "try `preset` best; "
    advice = f"{other}`lost-reg sweep` compares settings"
    if 2 * with_box < images:
        return f"nothing was found in {images - with_box:,} of {counted(images, 'image')}; {advice}"
    if not with_box or 2 * kinds.total() < with_box:
        return None
    (kind, count), *_ = kinds.most_common()
    if 2 * count < with_box:
        return f"{kinds.total():,} of {counted(with_box, 'box')} are implausible; {advice}"
    of_all = f"{count:,} of {counted(with_box, 'box')} {agreeing(count, 'are')}"
    boxes = "the box is" if with_box == 1 else of_all
    method = METHODS.get(settings["method"])
    ask = method and method.why_implausible
    why = ask(kind, (image for image in read() if _kind(image) == kind)) if ask else None
    return f"{boxes} {_NAMES[kind]}{f': {why}' if why else ''}; {advice}"


def _kind(image: Prediction) -> str | None:
    """The implausible kind of an image's first box, if it has one."""
    box = image.box_xyxy
    return box and implausible(box, image.size_hw, image.grid_hw)
