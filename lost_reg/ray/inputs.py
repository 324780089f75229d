"""The images of a run as a dataset of Ray Data: names of files, or what tar shards hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lost_reg.errors import LostRegError
from lost_reg.images.decoding import NamedImage
from lost_reg.images.shards import TarShards
from lost_reg.runs.engines import Todo
from lost_reg.types import Failure

if TYPE_CHECKING:
    import pyarrow as pa

BYTES_PER_BLOCK = 2**23  # of encoded images: a hundred photos of 640 x 480
# An actor takes nine tenths of a CPU, so that the tasks that read shards find a place beside it.
_READER_CPUS, _MOST_READERS = 0.05, 16


def dataset_of(ray: Any, todo: Todo, rows: int) -> Any:
    """The images that are left as a dataset, whose columns `RunActor` describes.

    Args:
        rows: how many images a block has.

    Raises:
        LostRegError: a limit on shards, whose readers do not know what the others read.
    """
    images = todo.images
    if not isinstance(images, TarShards):  # which are named by 50 bytes each
        blocks = [ray.put(_table(block)) for block in _in_blocks(iter(todo), rows)]
        return ray.data.from_arrow_refs(blocks or [ray.put(_table([]))])
    if todo.limit:
        raise LostRegError("`limit` does not work with shards and `engine` ray: name fewer shards")
    done = ray.put(todo.done)
    paths = [ray.put(_paths(path)) for path in images.paths]

    def read(shards: pa.Table) -> Iterator[pa.Table]:
        names = [Path(path.decode("utf-8", "surrogateescape")) for path in shards["path"].to_pylist()]
        members = replace(images, paths=tuple(names)).todo(ray.get(done))
        yield from map(_table, _in_blocks(members, rows))

    return ray.data.from_arrow_refs(paths).map_batches(
        read, batch_size=None, batch_format="pyarrow", num_cpus=_READER_CPUS,
        compute=ray.data.TaskPoolStrategy(size=_MOST_READERS),
    )  # fmt: skip


def _in_blocks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while block := list(islice(items, size)):
        yield block


def _paths(path: Path) -> pa.Table:
    import pyarrow as pa

    return pa.table({"path": pa.array([_encoded(str(path))], pa.binary())})


def _table(images: Iterable[NamedImage | Failure]) -> pa.Table:
    import pyarrow as pa

    rows = [
        (one.image, None, one.reason) if isinstance(one, Failure) else (one[0], _content(one[1]), None)
        for one in images
    ]
    names, contents, reasons = zip(*rows) if rows else ((), (), ())
    return pa.table({
        "name": pa.array(map(_encoded, names), pa.binary()),
        "content": pa.array(contents, pa.large_binary()),
        "reason": pa.array(reasons, pa.string()),
    })  # fmt: skip


def _content(image: Any) -> bytes | None:
    return image if isinstance(image, bytes) else None  # a file is root / name


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
