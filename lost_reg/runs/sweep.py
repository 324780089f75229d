"""Many settings on the same images, with one forward pass per image: `lost-reg sweep` as a function.

A sweep folder holds boxes.jsonl, a line per image with the box of every setting; errors.jsonl; and
sweep.json, everything needed to repeat it. `scoring/sweep_scores.py` scores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize
from lost_reg.images.decoding import NamedImage
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.forecast import setting_operations
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import Note, Work, no_note, settled, write_folder
from lost_reg.runs.scheduler import discover_by_each
from lost_reg.runs.sessions import RunSummary
from lost_reg.runs.sources import Source
from lost_reg.runs.sweep_folder import SCORES_FILE, SWEEP_LAYOUT, SweptImage
from lost_reg.types import Failure, Prediction

_SIZE_HW = 448, 448  # of an image on which the costs of settings are compared


def sweep(
    source: Source,
    backbone: Backbone,
    out: Path,
    settings: Sequence[Setting],
    options: RunOptions | None = None,
    *,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> RunSummary:
    """Discover objects in all images of a source with each of several settings, and write a sweep folder.

    Args:
        settings: all with the same `max_side` and `square`, such as those from `settings_of_methods`.
        The others: see `run`.

    Raises:
        LostRegError: no settings, one that the backbone does not support, settings with different sizes, or a
            folder that cannot be written.
    """
    options = options or RunOptions()
    if not settings:
        raise LostRegError("a sweep needs at least one setting")
    settings = [settled(setting, backbone) for setting in settings]
    loader = replace(options.loader, apply_exif=source.apply_exif)

    def discover(images: Iterable[NamedImage | Failure], size: BatchSize) -> Iterator[SweptImage | Failure]:
        (out / SCORES_FILE).unlink(missing_ok=True)  # outdated: it covers fewer images
        for outcome in discover_by_each(images, backbone, settings, loader, batch_size=size):
            yield outcome if isinstance(outcome, Failure) else _swept(outcome)

    def cost(setting: Setting) -> tuple[int, float]:
        return max(setting.features.layers), setting_operations(backbone, setting, _SIZE_HW)

    work = Work(_recorded(settings), discover, costliest=max(settings, key=cost), layout=SWEEP_LAYOUT)
    return write_folder(source, backbone, out, work, options, progress=progress, note=note)


def _recorded(settings: Sequence[Setting]) -> dict[str, object]:
    """The settings as in sweep.json; a single method is recorded once, as in earlier versions."""
    tried = [setting.recorded() for setting in settings]
    methods = {one["method"] for one in tried}
    if len(methods) > 1:
        return {"tried": tried}
    return {
        "method": methods.pop(),
        "tried": [{name: value for name, value in one.items() if name != "method"} for one in tried],
    }


def _swept(predictions: Sequence[Prediction]) -> SweptImage:
    first = predictions[0]
    return SweptImage(first.image, first.size_hw, tuple(one.box_xyxy for one in predictions))
