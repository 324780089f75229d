"""One run: from a dataset or a user's files to a run folder. What `lost-reg run` does, callable."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import timm
import torch

from lost_reg import __version__
from lost_reg.backbones.vit import Backbone, VitBackbone
from lost_reg.datasets.catalog import Dataset, missing_images
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.batching import BatchSize
from lost_reg.images.decoding import NamedImage
from lost_reg.images.inputs import STANDARD_INPUT, ImageFiles, Images
from lost_reg.images.reading import shown_names
from lost_reg.plausibility import IMPLAUSIBLE, implausible_kinds
from lost_reg.progress import Progress, no_progress
from lost_reg.runs.discover import BATCH_SIZE, LOST_AS_PUBLISHED, batch_size_for, discover_stream
from lost_reg.runs.folder import ERRORS_FILE, MAPS_FOLDER, PICTURES_FOLDER, RUN_LAYOUT, Layout, RunWriter
from lost_reg.runs.forecast import SAMPLED, forecast
from lost_reg.runs.map_files import Maps, maps_path, write_maps
from lost_reg.runs.pictures import save_picture
from lost_reg.runs.ranks import ALONE, Ranks
from lost_reg.types import Failure, Prediction, Protocol

_FAILURES_SHOWN = 3


@dataclass(frozen=True)
class Source:
    """The images of a run.

    apply_exif: False for datasets, as LOST does; True for a user's own photos.
    settings: what of it the results depend on.
    """

    images: Images
    apply_exif: bool
    settings: dict[str, Any]


@dataclass(frozen=True)
class RunSummary:
    """How a run ended: images done now, failed now, and done by earlier sessions; seconds spent now.

    failures: a few of those that failed, by which the others can be told.
    implausible: how many of the boxes found now are of which implausible kind (see `confidence.py`).
    """

    folder: Path
    done: int
    failed: int
    failures: tuple[Failure, ...]
    done_before: int
    seconds: float
    implausible: Mapping[str, int]


def source_of_dataset(dataset: Dataset) -> Source:
    """The images of a dataset, all of which must be there.

    Raises:
        LostRegError: images whose files are missing.
    """
    missing = missing_images(dataset)
    if missing:
        get_rest = " --download gets the rest" if dataset.full_size else " complete the folder"
        raise LostRegError(
            f"{dataset.name} is incomplete: {len(missing):,} of {len(dataset.images):,} images are not in "
            f"{dataset.root} ({shown_names(missing)});{get_rest}"
        )
    settings = {"dataset": dataset.name, "split": dataset.split}
    return Source(ImageFiles(dataset.root, dataset.images), apply_exif=False, settings=settings)


def source_of_files(images: Images, inputs: Sequence[str]) -> Source:
    """The user's own images, and the inputs that named them."""
    settings = {"dataset": None, "split": None, "inputs": [_absolute(text) for text in inputs]}
    return Source(images, apply_exif=True, settings=settings)


def _absolute(name: str) -> str:
    return name if name == STANDARD_INPUT else os.path.abspath(name)


def run(
    source: Source,
    backbone: Backbone,
    out: Path,
    protocol: Protocol = LOST_AS_PUBLISHED,
    *,
    batch_size: int | str = BATCH_SIZE,
    workers: int | None = None,
    limit: int | None = None,
    resume: bool = False,
    visualize: bool = False,
    save_maps: bool = False,
    data_root: Path | None = None,
    ranks: Ranks = ALONE,
    progress: Progress = no_progress,
    note: Callable[[str], None] = lambda text: None,
) -> RunSummary:
    """Discover objects in all images of a source and write a run folder.

    Args:
        limit: only the first so many images.
        resume: continue a run folder that is there already.
        visualize: also write each image with its box and seed into the run folder's pictures/.
        save_maps: also write each image's maps into the run folder's maps/, before its prediction.
        data_root: recorded, so that scoring finds the ground truth again.
        batch_size: how many images of one grid are run together, or "auto"; less once the memory did not
            suffice, which run.json records.
        ranks: this process among those of the run, see `ranks.joined`: each does a share of the images.
        note: called with a line on what would not fit the memory or take long, before it starts.
        progress: called after each image with the images done and failed and those to do (None if unknown),
            of this session and this rank.

    Raises:
        LostRegError: a protocol that the backbone cannot follow, or a folder that cannot be written.
    """
    protocol = counted_from_last(protocol, backbone)
    if visualize:
        check_drawable(source)

    def discover(images: Iterable[NamedImage | Failure], size: BatchSize) -> Iterator[Prediction | Failure]:
        take_maps = _maps_writer(out / MAPS_FOLDER) if save_maps else None
        for outcome in discover_stream(
            images, backbone, protocol,
            batch_size=size, workers=workers, apply_exif=source.apply_exif, take_maps=take_maps,
        ):  # fmt: skip
            if visualize and not isinstance(outcome, Failure):
                path = source.images.root / outcome.image
                with contextlib.suppress(UnreadableImage):  # a file that has vanished since
                    save_picture(path, outcome, out / PICTURES_FOLDER, apply_exif=source.apply_exif)
            yield outcome  # after its picture: what is done has one, whenever the run is killed

    return write_folder(
        source, backbone, out, {"protocol": protocol.recorded()}, discover,
        batch_size=batch_size, workers=workers, limit=limit, resume=resume,
        data_root=data_root, ranks=ranks, progress=progress, note=note, largest=protocol,
    )  # fmt: skip


def check_drawable(source: Source) -> None:
    """See that pictures of a source's images can be drawn.

    Raises:
        LostRegError: they are in tar shards.
    """
    if not source.images.are_files:
        raise LostRegError("--visualize works on image files, not on tar shards: unpack them first")


def write_folder(
    source: Source,
    backbone: Backbone,
    out: Path,
    protocols: dict[str, Any],
    discover: Callable[[Iterable[NamedImage], BatchSize], Iterator[Any]],
    *,
    largest: Protocol,
    batch_size: int | str,
    workers: int | None,
    limit: int | None,
    resume: bool,
    data_root: Path | None,
    ranks: Ranks,
    progress: Progress,
    note: Callable[[str], None],
    layout: Layout = RUN_LAYOUT,
) -> RunSummary:
    """Write what `discover` finds in the images of a source that are not done yet. For others, see `run`.

    Args:
        protocols: recorded among the settings that the results depend on.
        discover: from named images and the size of batches to outcomes, Failures among them.
        largest: the protocol that takes longest, by which it is foretold how long that is.
    """
    images = source.images
    count = images.count if images.count is None or limit is None else min(limit, images.count)
    record = {
        "created": _now(),
        "root": str(images.root.absolute()),
        "data_root": str(data_root.absolute()) if data_root else None,
        "images": count,
        "weights_file": str(backbone.weights.path) if backbone.weights.path else None,
    }
    settings = {**_settings(source, backbone), **protocols}
    with RunWriter(out, settings, record, resume=resume, layout=layout, ranks=ranks) as writer:
        left = None if count is None else max(0, count - len(writer.done))
        if ranks.first and left != 0:
            expected = forecast(images.sample(SAMPLED), left, backbone, largest, devices=ranks.count)
            for line in expected.warnings(largest) if expected else []:
                note(line)
        size = batch_size_for(backbone, batch_size)
        options = {"batch_size": batch_size, "workers": workers, "limit": limit}
        session = _Session(writer, backbone, options, size, ranks)
        total = None if left is None else -(-left // ranks.count)
        progress(0, 0, total)
        try:
            for outcome in discover(images.todo(writer.done, ranks, limit), size):
                session.take(outcome)
                progress(session.done, session.failed, total)
        except BaseException:
            with contextlib.suppress(LostRegError):  # on a full disk, say: what went wrong first is told
                session.record()
            raise
        session.finish()
    return session.summary(out, len(writer.done))


def _maps_writer(folder: Path) -> Callable[[str, Maps], None]:
    return lambda image, maps: write_maps(maps_path(folder, image), maps)


def _settings(source: Source, backbone: Backbone) -> dict[str, Any]:
    """What the results depend on: a folder of other settings is not continued."""
    # absent without them, as in the folders of earlier versions
    added = {"test_time_registers": backbone.registers.settings} if backbone.registers else {}
    return {
        **source.settings,
        "apply_exif": source.apply_exif,
        "backbone": backbone.name,
        "weights": {key: getattr(backbone.weights, key) for key in ("source", "name", "sha256")},
        "precision": backbone.precision,
        **added,
    }


class _Session:
    """One stretch of work on a run folder: counts outcomes, and records itself in run.json."""

    def __init__(
        self,
        writer: RunWriter,
        backbone: Backbone,
        options: dict[str, Any],
        size: BatchSize,
        ranks: Ranks,
    ):
        self._writer, self._size, self._ranks = writer, size, ranks
        self._began = time.perf_counter()
        self._facts = {
            "started": _now(),
            "device": device_name(backbone),
            "versions": versions(),
            **options,
            **({"ranks": ranks.count} if ranks.count > 1 else {}),
        }
        self.done = self.failed = 0
        self.failures: list[Failure] = []
        self.implausible: Counter[str] = Counter()

    def take(self, outcome) -> None:
        self._writer.write(outcome)
        if isinstance(outcome, Failure):
            self.failed += 1
            if len(self.failures) < _FAILURES_SHOWN:
                self.failures.append(outcome)
            return
        self.done += 1
        if isinstance(outcome, Prediction):
            self.implausible.update(implausible_kinds(outcome))

    def finish(self) -> None:
        """Once all is done: join what the ranks did, and record it."""
        self._add_other_ranks()
        if self._ranks.first:
            whole = self._facts["limit"] is None
            if whole:
                self._writer.forget_earlier_failures()
            self._writer.join()
            self.failures = list(islice(self._writer.failures(), _FAILURES_SHOWN)) if self.failed else []
            self.record(finished=whole)
        self._ranks.wait()  # the folder is whole

    def _add_other_ranks(self) -> None:
        odd = (self.implausible[kind] for kind in IMPLAUSIBLE)
        self.done, self.failed, self._size.lowered, *odd = self._ranks.total(
            self.done, self.failed, self._size.lowered, *odd
        )
        self.implausible = Counter({kind: count for kind, count in zip(IMPLAUSIBLE, odd) if count})

    def record(self, *, finished: bool = False) -> None:
        """Add this session to the record, which the first rank keeps.

        finished: whether all images of the run have been tried.
        """
        if not self._ranks.first:
            return
        seconds = self.seconds
        rate = self.done / seconds if seconds else 0.0
        counts = {"images": self.done, "failed": self.failed}
        timings = {"seconds": round(seconds, 3), "images_per_second": round(rate, 3)}
        odd = {"implausible": dict(self.implausible)} if self.implausible else {}
        memory = {"out_of_memory": self._size.lowered} if self._size.lowered else {}
        ended = {"finished": True} if finished else {}
        self._writer.record["sessions"].append({**self._facts, **ended, **counts, **timings, **odd, **memory})
        self._writer.write_record()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def summary(self, folder: Path, done_before: int) -> RunSummary:
        return RunSummary(
            folder, self.done, self.failed, tuple(self.failures), done_before, self.seconds, self.implausible
        )


def counted_from_last(protocol: Protocol, backbone: Backbone) -> Protocol:
    """The protocol with its layer as a negative index, so that one layer has one name."""
    if not isinstance(backbone, VitBackbone):
        return protocol
    return replace(protocol, layer=backbone.block_index(protocol.layer) - backbone.depth)


def versions() -> dict[str, str]:
    """The versions that a result can depend on."""
    # asked of the modules: OpenCV's package has several names, and a checkout need not be installed
    modules = {"torch": torch, "timm": timm, "opencv": cv2, "pillow": PIL, "numpy": np}
    of_modules = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), "lost-reg": __version__, **of_modules}


def device_name(backbone: Backbone) -> str:
    """The device in words, such as "cuda (NVIDIA H200)" or "cpu (x86_64)"."""
    if backbone.device.type == "cuda":
        return f"{backbone.device} ({torch.cuda.get_device_name(backbone.device)})"
    return f"{backbone.device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def failed_summary(summary: RunSummary) -> str:
    """One line on the images that could not be used."""
    shown = shown_names((f"{one.image} ({one.reason})" for one in summary.failures), of=summary.failed)
    tried = summary.done + summary.failed
    return (
        f"{summary.failed:,} of {tried:,} images could not be used: {shown}; "
        f"{summary.folder / ERRORS_FILE} has them all"
    )


def implausible_summary(summary: RunSummary) -> str:
    """One line on the boxes that are of shapes no object has."""
    counts = summary.implausible
    total = sum(counts.values())
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in IMPLAUSIBLE if counts[kind])
    boxes = "1 implausible box" if total == 1 else f"{total:,} implausible boxes"
    return f"{boxes}: {kinds} (kept; `lost-reg export --drop-implausible` leaves such out)"
