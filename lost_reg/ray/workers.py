"""What an actor holds: a backbone, loaded once, and processes that decode."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from lost_reg.backbones.base import Backbone
from lost_reg.errors import LostRegError
from lost_reg.images.decoding import Decoders, NamedImage
from lost_reg.ray.inputs import BYTES_OF_A_ROW, as_table, rows_of
from lost_reg.ray.parquet import ParquetFiles, is_text
from lost_reg.runs.batches import batch_size_for, grouped
from lost_reg.runs.engines import Job
from lost_reg.runs.sessions import device_name
from lost_reg.types import Failure
from lost_reg.version import __version__

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
    sha256: of the weights of the run. version: of lost-reg, since what is sent is pickled.
    folder: the command's working directory, from which relative paths start.
    threads: of torch, on a CPU; None for torch's default.
    """

    make: Callable[[], Backbone]
    sha256: str | None
    threads: int | None
    version: str = __version__
    folder: str = field(default_factory=os.getcwd)

    def load(self) -> Backbone:
        """Load it.

        Raises:
            LostRegError: what `make` raises, or weights that are not those of the run.
        """
        if self.version != __version__:
            raise LostRegError(f"a node has lost-reg {__version__}, the command {self.version}")
        with contextlib.suppress(OSError):  # which a node need not have: then paths are absolute
            os.chdir(self.folder)
        if self.threads:
            torch.set_num_threads(self.threads)
        backbone = self.make()
        if backbone.weights.sha256 != self.sha256:
            raise LostRegError(
                f"the weights of {backbone.name} on a node are not those of the run: give all nodes one file "
                "by `weights`"
            )
        return backbone


@dataclass(frozen=True)
class Report:
    """What an actor says of a block of images.

    outcomes: of the images. actor: its id. device: in words. lowered: how often the batch size was lowered.
    error: what ends the run, if anything. It is reported, because Ray would try again what raises.
    """

    outcomes: list[Any] = field(default_factory=list)
    actor: str = ""
    device: str = ""
    lowered: int = 0
    error: str = ""


class RunActor:
    """Maps rows of images to rows of reports, for `Dataset.map_batches`; see `inputs.py`.

    parquet: where predictions are written before they are reported; see `ParquetFiles`.
    """

    def __init__(self, recipe: Recipe, job: Job, workers: int, parquet: str | None = None):
        self._error = ""
        self._files = ParquetFiles(parquet) if parquet else None
        try:
            self._worker = Worker(recipe.load(), job, workers)
        except LostRegError as error:
            self._error = str(error)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """A row, or several if its outcomes are large, for the images of a table."""
        report = self.report(chain.from_iterable(rows_of(table)))
        for outcomes in _in_rows(report.outcomes):
            yield as_table(replace(report, outcomes=outcomes))
            report = replace(report, lowered=0)

    def report(self, images: Iterable[NamedImage | Failure]) -> Report:
        """What becomes of some images."""
        import ray

        if self._error:
            return Report(error=self._error)
        size = self._worker.size
        before = size.lowered
        try:
            outcomes = list(self._worker.outcomes(map(self._named, images)))
            if self._files:
                self._files.write(outcomes)
        except LostRegError as error:
            return Report(error=str(error))
        actor = ray.get_runtime_context().get_actor_id()
        return Report(outcomes, actor, device_name(self._worker.backbone), size.lowered - before)

    def _named(self, image: NamedImage | Failure) -> NamedImage | Failure:
        if self._files and not isinstance(image, Failure) and not is_text(image[0]):
            return Failure(image[0], "its name is not UTF-8, and others cannot be written to Parquet")
        return image


def _in_rows(outcomes: list[Any]) -> Iterator[list[Any]]:
    """Outcomes in lists that are not too large to be sent, by the size of the first."""
    each = len(pickle.dumps(outcomes[0])) if outcomes else 1
    count = max(1, BYTES_OF_A_ROW // each)
    for start in range(0, max(1, len(outcomes)), count):
        yield outcomes[start : start + count]
