"""What an actor holds: a backbone, loaded once, and processes that decode."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lost_reg.backbones.base import Backbone
from lost_reg.errors import LostRegError
from lost_reg.images.decoding import Decoders, NamedImage
from lost_reg.json_files import as_json
from lost_reg.ray.parquet import ParquetFiles, is_text
from lost_reg.runs.batches import batch_size_for, grouped
from lost_reg.runs.engines import Job
from lost_reg.runs.sessions import device_name
from lost_reg.types import Failure, Prediction

if TYPE_CHECKING:
    import pyarrow as pa


class Worker:
    """Does a job on one stream of images after another, with the processes of the first.

    Args:
        workers: decoding processes.

    Close it at the end; the processes also end with this one.
    """

    def __init__(self, backbone: Backbone, job: Job, workers: int | None):
        self.backbone, self._job = backbone, job
        self.size = batch_size_for(backbone, job.loader.batch_size)
        self._open = ExitStack()
        decoding = job.decoding(backbone.patch_size)
        self._decoders = self._open.enter_context(Decoders(decoding, workers))

    def outcomes(self, images: Iterable[NamedImage | Failure]) -> Iterator[Any]:
        """The outcomes of the images; images of one grid run together, so their order changes."""
        batches = grouped(self._decoders.decode(images), self.size)
        return self._job.outcomes(batches, self.backbone, self.size)

    def close(self) -> None:
        """End the processes."""
        self._open.close()


@dataclass(frozen=True)
class Recipe:
    """How each actor loads the backbone of a run.

    make: such as a partial of `load_backbone`, which must find the same weights on every node.
    sha256: of the weights of the run.
    threads: of torch, on a CPU; None for torch's default.
    """

    make: Callable[[], Backbone]
    sha256: str | None
    threads: int | None

    def load(self) -> Backbone:
        """Load it.

        Raises:
            LostRegError: what `make` raises, or weights that are not those of the run.
        """
        if self.threads:
            torch.set_num_threads(self.threads)
        backbone = self.make()
        if backbone.weights.sha256 != self.sha256:
            raise LostRegError(
                f"the weights of {backbone.name} on a node are not those of the run: give all nodes one file "
                "by `weights`"
            )
        return backbone


class RunActor:
    """Maps tables of named images to tables of outcomes, for `Dataset.map_batches`.

    A table of images has the columns name (bytes), content (bytes, or null for a file) and reason (the
    Failure of an image that could not be listed, or null). A table of outcomes has the columns outcome
    (pickled) and report (JSON, in the first row alone): the device, how often the batch size was lowered, and
    the error that ends the run, if any. An error is reported, because Ray would try again.

    root: the folder that the names of files are relative to.
    parquet: where predictions are written before they are returned; see `ParquetFiles`.
    """

    def __init__(self, recipe: Recipe, job: Job, root: Path, workers: int, parquet: str | None = None):
        self._root, self._error = root, ""
        self._files = ParquetFiles(parquet) if parquet else None
        try:
            self._worker = Worker(recipe.load(), job, workers)
        except LostRegError as error:
            self._error = str(error)

    def __call__(self, images: pa.Table) -> pa.Table:
        """The outcomes of a table of images."""
        if self._error:
            return _table([], {"error": self._error})
        size = self._worker.size
        before = size.lowered
        try:
            outcomes = list(self._worker.outcomes(self._named(images)))
            if self._files:
                self._files.write([one for one in outcomes if isinstance(one, Prediction)])
        except LostRegError as error:
            return _table([], {"error": str(error)})
        report = {"device": device_name(self._worker.backbone), "lowered": size.lowered - before}
        return _table(outcomes, report)

    def _named(self, images: pa.Table) -> Iterator[NamedImage | Failure]:
        for row in images.to_pylist():
            name = row["name"].decode("utf-8", "surrogateescape")
            if row["reason"] is not None:
                yield Failure(name, row["reason"])
            elif self._files and not is_text(name):
                yield Failure(name, "its name is not UTF-8, and others cannot be written to Parquet")
            else:
                yield name, self._root / name if row["content"] is None else row["content"]


def _table(outcomes: list[Any], report: dict[str, Any]) -> pa.Table:
    import pyarrow as pa

    pickled = [pickle.dumps(one) for one in outcomes] or [None]
    reports = [as_json(report), *[None] * (len(pickled) - 1)]
    return pa.table({
        "outcome": pa.array(pickled, pa.large_binary()),
        "report": pa.array(reports, pa.string()),
    })  # fmt: skip
