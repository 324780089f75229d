"""Many settings on the same images, with one forward pass per image: `lost-reg sweep` as a function.

A sweep folder holds boxes.jsonl, a line per image with the box of every setting; errors.jsonl; and
sweep.json, everything needed to repeat it. `scoring/sweep_scores.py` scores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lost_reg.backbones.base import Backbone
from lost_reg.discovery.methods import Setting
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize, DecodedImage
from lost_reg.images.decoding import Decoding
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.batches import decoding_of
from lost_reg.runs.forecast import setting_operations
from lost_reg.runs.options import LoaderOptions, RunOptions
from lost_reg.runs.run import Note, Work, no_note, settled, write_folder
from lost_reg.runs.scheduler import check_one_size, discover_in_batches
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
    check_one_size(settings)
    job = Sweep(settings, replace(options.loader, apply_exif=source.apply_exif), out.absolute())

    def cost(setting: Setting) -> tuple[int, float]:
        return max(setting.features.layers), setting_operations(backbone, setting, _SIZE_HW)

    work = Work(_recorded(settings), job, costliest=max(settings, key=cost), layout=SWEEP_LAYOUT)
    return write_folder(source, backbone, out, work, options, progress=progress, note=note)


@dataclass(frozen=True)
class Sweep:
    """The job of a sweep: a box of each image by each setting; see `Job`.

    out: the sweep folder.
    """

    settings: Sequence[Setting]
    loader: LoaderOptions
    out: Path

    def decoding(self, patch_size: int) -> Decoding:
        """See `Job`."""
        return decoding_of(patch_size, self.settings[0].features, self.loader)

    def outcomes(
        self, batches: Iterable[list[DecodedImage] | Failure], backbone: Backbone, size: BatchSize
    ) -> Iterator[SweptImage | Failure]:
        """A line of the sweep folder for each image; see `Job`."""
        (self.out / SCORES_FILE).unlink(missing_ok=True)  # outdated: it covers fewer images
        for outcome in discover_in_batches(batches, backbone, self.settings, size):
            yield outcome if isinstance(outcome, Failure) else _swept(outcome)


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
