"""One session of work on a run folder: what it did, where and with what, as recorded in run.json."""

from __future__ import annotations

import contextlib
import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.timm_import import timm
from lost_reg.errors import LostRegError
from lost_reg.images.batching import BatchSize
from lost_reg.plausibility import IMPLAUSIBLE, implausible_kinds
from lost_reg.runs.folder import ERRORS_FILE
from lost_reg.runs.options import RunOptions
from lost_reg.runs.writer import RunWriter
from lost_reg.text import counted, shown_names
from lost_reg.types import Failure, Prediction
from lost_reg.version import __version__

_FAILURES_SHOWN = 3


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    done, failed: images of this session. done_before: images of earlier sessions. seconds: of this session.
    failures: a few of those that failed.
    implausible: how many of this session's boxes are of each implausible kind (see `plausibility.py`).
    noted: how many of this session's images have a note (see `Prediction`).
    objects: how many this session found. empty: in how many of its images it found none.
    """

    folder: Path
    done: int
    failed: int
    failures: tuple[Failure, ...]
    done_before: int
    seconds: float
    implausible: Mapping[str, int]
    noted: int = 0
    objects: int = 0
    empty: int = 0


class Session:
    """Counts the outcomes of one session of work on a run folder, and records itself in run.json.

    A context manager: its end records the session, whatever ended it, and only then closes the engine, which
    may take longer than a stopped command has.
    """

    def __init__(self, writer: RunWriter, backbone: Backbone, options: RunOptions, size: BatchSize):
        self._writer, self._size = writer, size
        self._engine = options.engine
        self._began = time.perf_counter()
        self._facts: dict[str, Any] = {
            "started": now(),
            "device": device_name(backbone),
            "versions": versions(),
            "batch_size": options.loader.batch_size,
            "workers": options.loader.workers,
            "limit": options.limit,
        }
        self.done = self.failed = self.noted = self.objects = self.empty = 0
        self.failures: list[Failure] = []
        self.implausible: Counter[str] = Counter()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with contextlib.closing(self._engine) if self._engine else contextlib.nullcontext():
            if not failed:
                self._finish()
            else:
                with contextlib.suppress(LostRegError):  # such as a full disk: the first error is reported
                    self._record()

    def add(self, outcome: Any) -> None:
        """Write and count one outcome: a Failure, or the outcome type of the folder's layout."""
        self._writer.write(outcome)
        if isinstance(outcome, Failure):
            self.failed += 1
            if len(self.failures) < _FAILURES_SHOWN:
                self.failures.append(outcome)
            return
        self.done += 1
        if isinstance(outcome, Prediction):
            self.implausible.update(implausible_kinds(outcome))
            self.noted += outcome.note is not None
            self.objects += len(outcome.objects)
            self.empty += not outcome.objects

    def _finish(self) -> None:
        """When all is done: keep the failures that are left, and record the session."""
        whole = self._facts["limit"] is None
        if whole:
            self._writer.forget_earlier_failures()
        self.failures = list(islice(self._writer.failures(), _FAILURES_SHOWN)) if self.failed else []
        self._record(finished=whole)

    def _record(self, *, finished: bool = False) -> None:
        """Add this session to the record.

        finished: whether all images of the run have been tried.
        """
        seconds = self.seconds
        facts = {
            **self._facts,
            **(self._engine.facts if self._engine else {}),
            **({"finished": True} if finished else {}),
            "images": self.done,
            "failed": self.failed,
            "seconds": round(seconds, 3),
            "images_per_second": round(self.done / seconds if seconds else 0.0, 3),
        }
        if self.implausible:
            facts["implausible"] = dict(self.implausible)
        if self.noted:
            facts["without_end_marker"] = self.noted
        if self._size.lowered:
            facts["out_of_memory"] = self._size.lowered
        self._writer.record["sessions"].append(facts)
        self._writer.write_record()

    @property
    def seconds(self) -> float:
        """How long the session has lasted."""
        return time.perf_counter() - self._began

    def summary(self, folder: Path, done_before: int) -> RunSummary:
        """How the session ended."""
        failures, seconds = tuple(self.failures), self.seconds
        return RunSummary(
            *(folder, self.done, self.failed, failures, done_before, seconds),
            implausible=self.implausible,
            noted=self.noted,
            objects=self.objects,
            empty=self.empty,
        )


def versions() -> dict[str, str]:
    """The versions that a result can depend on."""
    # from the modules: OpenCV's package has several names, and a checkout need not be installed
    modules = {"torch": torch, "timm": timm, "opencv": cv2, "pillow": PIL, "numpy": np}
    of_modules = {name: module.__version__ for name, module in modules.items()}
    return {"python": platform.python_version(), "lost-reg": __version__, **of_modules}


def device_name(backbone: Backbone) -> str:
    """The device in words, such as "cuda (NVIDIA H200)" or "cpu (x86_64, 2 threads)"."""
    if backbone.device.type == "cuda":
        return f"{backbone.device} ({torch.cuda.get_device_name(backbone.device)})"
    return f"{backbone.device} ({platform.machine()}, {counted(torch.get_num_threads(), 'thread')})"


def now() -> str:
    """The current time, in the format of the records."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def failed_summary(summary: RunSummary) -> str:
    """One line on the images that could not be used."""
    shown = shown_names((f"{one.image} ({one.reason})" for one in summary.failures), of=summary.failed)
    tried = summary.done + summary.failed
    return (
        f"{summary.failed:,} of {counted(tried, 'image')} could not be used: {shown}; "
        f"{summary.folder / ERRORS_FILE} lists them all"
    )


def objects_summary(summary: RunSummary) -> str:
    """One line on how many objects this session found."""
    without = f"; nothing in {counted(summary.empty, 'image')}" if summary.empty else ""
    return f"{counted(summary.objects, 'object')} found in {counted(summary.done, 'image')}{without}"


def noted_summary(summary: RunSummary) -> str:
    """One line on the images that were taken although their files are not complete."""
    lack = "lacks its" if summary.noted == 1 else "lack their"
    images = counted(summary.noted, "image")
    return f"{images} {lack} end marker; all pixels are there, and predictions.jsonl notes it"


def implausible_summary(summary: RunSummary) -> str:
    """One line on the boxes with implausible shapes."""
    counts = summary.implausible
    total = sum(counts.values())
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in IMPLAUSIBLE if counts[kind])
    boxes, them = counted(total, "implausible box"), "it" if total == 1 else "them"
    return f"{boxes}: {kinds} (kept; `lost-reg export --drop-implausible` leaves {them} out)"
