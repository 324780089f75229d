"""Many protocols on the same images, with one forward pass an image: what `lost-reg sweep` does.

A sweep folder holds boxes.jsonl, a line per image with the box of every setting; errors.jsonl; and
sweep.json, everything needed to repeat it. It is scored by `sweep_scores.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lost_reg.backbones.vit import Backbone
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize
from lost_reg.images.decoding import NamedImage
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.discover import BATCH_SIZE, discover_by_each
from lost_reg.runs.ranks import ALONE
from lost_reg.runs.run import RunSummary, Source, counted_from_last, write_folder
from lost_reg.runs.sweep_folder import SCORES_FILE, SWEEP_LAYOUT, SweptImage
from lost_reg.types import Failure, Protocol


def sweep(
    source: Source,
    backbone: Backbone,
    out: Path,
    protocols: Sequence[Protocol],
    *,
    batch_size: int | str = BATCH_SIZE,
    workers: int | None = None,
    limit: int | None = None,
    resume: bool = False,
    data_root: Path | None = None,
    progress: Progress = no_progress,
    note: Callable[[str], None] = lambda text: None,
) -> RunSummary:
    """Discover objects in all images of a source by each of several protocols, and write a sweep folder.

    Args:
        protocols: of one `max_side`, such as `grid_of_protocols` gives.
        batch_size, workers, limit, resume, data_root, progress, note: as for `run`.

    Raises:
        LostRegError: no protocols, one that the backbone cannot follow, or a folder that cannot be written.
    """
    if not protocols:
        raise LostRegError("a sweep needs at least one setting")
    protocols = [counted_from_last(protocol, backbone) for protocol in protocols]

    def discover(images: Iterable[NamedImage | Failure], size: BatchSize) -> Iterator[SweptImage | Failure]:
        (out / SCORES_FILE).unlink(missing_ok=True)  # of fewer images than there will be
        for outcome in discover_by_each(
            images, backbone, protocols,
            batch_size=size, workers=workers, apply_exif=source.apply_exif,
        ):  # fmt: skip
            yield outcome if isinstance(outcome, Failure) else _swept(outcome)

    deepest = max(protocols, key=lambda protocol: protocol.layer)
    return write_folder(
        source, backbone, out, {"protocols": [protocol.recorded() for protocol in protocols]}, discover,
        batch_size=batch_size, workers=workers, limit=limit, resume=resume, data_root=data_root,
        ranks=ALONE, progress=progress, note=note, largest=deepest, layout=SWEEP_LAYOUT,
    )  # fmt: skip


def _swept(predictions) -> SweptImage:
    first = predictions[0]
    return SweptImage(first.image, first.size_hw, tuple(one.box_xyxy for one in predictions))
