"""A run on Ray Data: the images flow through actors, and their outcomes back to the run folder's writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from lost_reg.backbones.base import Backbone
from lost_reg.errors import LostRegError
from lost_reg.images.shards import TarShards
from lost_reg.ray.cluster import check_reachable, connected, make_quiet, of_nodes
from lost_reg.ray.inputs import dataset_of, rows_of
from lost_reg.ray.parquet import ParquetFiles
from lost_reg.ray.workers import Recipe, Report, RunActor
from lost_reg.runs.engines import Job, Todo
from lost_reg.text import first_sentence
from lost_reg.types import Failure

if TYPE_CHECKING:
    from lost_reg.images.decoding import NamedImage
    from lost_reg.images.sources import Images

_MOST_DECODERS = 8
# Images per block: the unit that is tried again, and that a killed driver loses.
_ROWS_ON_CPU, _ROWS_ON_GPU = 32, 256
_BLOCKS_PER_ACTOR = 4  # at least, so that all actors end at about the same time
# How often an actor may die: an image that kills actors ends the run at last. Its blocks are tried again
# without a limit, because a node that is gone fails several tries before Ray knows.
RESTARTS = 10


class RayEngine:
    """Spreads a run over the actors of a Ray cluster, or of Ray on this machine.

    Args:
        load: called by each actor for its backbone; it is pickled, such as a partial of `load_backbone`.
        address: of a cluster; None starts Ray on this machine.
        actors: how many; by default one a GPU, or one a CPU where there are no GPUs.
        parquet: a path or address at which the actors write the predictions, as `ParquetFiles`.

    Close it at the end: until then it stays connected to the cluster.
    """

    def __init__(
        self,
        load: Callable[[], Backbone],
        *,
        address: str | None = None,
        actors: int | None = None,
        parquet: str | None = None,
    ):
        self._load, self._address, self._actors, self.parquet = load, address, actors, parquet
        self._device_of: dict[str, str] = {}  # by actor
        self._open = ExitStack()
        self._facts: dict[str, Any] = {"engine": "ray"}

    @property
    def facts(self) -> dict[str, Any]:
        """How many actors did images, and their devices, in words, for the record of a session."""
        if not self._device_of:
            return self._facts
        devices = ", ".join(sorted({*self._device_of.values()}))
        return {**self._facts, "actors": len(self._device_of), "device": devices}

    def check(self, images: Images, limit: int | None) -> None:
        """Check the address, the place of Parquet files, and that shards have no limit; see `Engine`."""
        if limit and isinstance(images, TarShards):
            raise LostRegError("`limit` does not work with shards and `engine`: name fewer shards")
        if self._address:
            check_reachable(self._address)
        if self.parquet:
            ParquetFiles(self.parquet).make()

    def done(self) -> Iterator[str]:
        """The images that have predictions in the Parquet files; see `Engine`."""
        return ParquetFiles(self.parquet).images() if self.parquet else iter(())

    def outcomes(self, images: Iterable[NamedImage | Failure], job: Job, backbone: Backbone) -> Iterator[Any]:
        """The outcomes of the images, each once, in any order; see `Engine`.

        Raises:
            LostRegError: no Ray or cluster, actors that cannot load the backbone, or a cluster that fails.
        """
        if isinstance(images, Todo):
            count = images.left
        else:
            count = len(images) if isinstance(images, Sized) else None
        if count == 0:  # but for what could not be listed
            yield from (one for one in images if isinstance(one, Failure))
            return
        ray = self._open.enter_context(connected(self._address))
        pool = _pool_of(ray, self._actors, job.loader.workers)
        self._facts["workers"] = pool.workers
        recipe = Recipe(self._load, backbone.weights.sha256, pool.threads)
        arguments = recipe, job, pool.workers, self.parquet
        reports = _mapped(ray, dataset_of(ray, images, pool.rows(count)), pool, arguments)
        make_quiet()  # again: it has set its own levels
        tables = reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        try:
            for report in chain.from_iterable(map(rows_of, tables)):
                yield from self.taken(report)
        except ray.exceptions.RayError as error:
            cause = first_sentence(getattr(error, "cause", None) or error)
            raise LostRegError(f"Ray has ended the work ({cause}): what was done is kept") from None

    def close(self) -> None:
        """Leave the cluster, or end Ray on this machine."""
        self._open.close()

    def taken(self, report: Report) -> list[Any]:
        """The outcomes in a report, whose facts are noted.

        Raises:
            LostRegError: the error that it reports.
        """
        if report.error:
            raise LostRegError(report.error)
        self._device_of[report.actor] = report.device
        if report.lowered:
            self._facts["out_of_memory"] = self._facts.get("out_of_memory", 0) + report.lowered
        return report.outcomes


@dataclass(frozen=True)
class _Pool:
    """The actors of a run: how many, what each takes, its decoding processes, and its threads on a CPU."""

    actors: int
    on_gpu: bool
    workers: int
    threads: int | None

    @property
    def cpus(self) -> float:
        """What each takes of Ray's CPUs: a tenth less, so that the tasks that read find a place beside it."""
        return (self.threads or 1) - 0.1

    def rows(self, count: int | None) -> int:
        """How many images a block has, if there are so many in all."""
        most = _ROWS_ON_CPU * self.threads if self.threads else _ROWS_ON_GPU
        fair = most if count is None else count // (_BLOCKS_PER_ACTOR * self.actors)
        return max(1, min(most, fair))


def _pool_of(ray: Any, asked: int | None, workers: int | None) -> _Pool:
    cpus, gpus = (of_nodes(ray, one) for one in ("CPU", "GPU"))
    if gpus:
        decoders = min(_MOST_DECODERS, max(1, sum(cpus) // sum(gpus)))
        return _Pool(asked or sum(gpus), True, decoders if workers is None else workers, None)
    actors, threads = shared_out(cpus, asked)
    return _Pool(actors, False, threads if workers is None else workers, threads)


def shared_out(cpus: Sequence[int], asked: int | None) -> tuple[int, int]:
    """How many actors share the CPUs of some nodes, and the most threads for each with which all have room.

    asked: how many actors; by default one for each CPU, which wastes least.
    """
    actors = asked or max(1, sum(cpus))

    def places(threads: int) -> int:
        return sum(of_node // threads for of_node in cpus)

    return actors, next((most for most in range(max(cpus, default=1), 1, -1) if places(most) >= actors), 1)


def _mapped(ray: Any, dataset: Any, pool: _Pool, arguments: tuple[Any, ...]) -> Any:
    return dataset.map_batches(
        RunActor, fn_constructor_args=arguments, batch_size=1, batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus, num_gpus=1 if pool.on_gpu else None, max_restarts=RESTARTS, max_task_retries=-1,
    )  # fmt: skip
