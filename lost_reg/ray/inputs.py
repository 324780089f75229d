"""The images of a run as a dataset of Ray Data: names of files, or the content of shards and remote files."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from lost_reg.images.decoding import NamedImage
from lost_reg.images.remote import RemoteImages
from lost_reg.images.shards import TarShards
from lost_reg.runs.engines import Todo
from lost_reg.types import Failure

if TYPE_CHECKING:
    import pyarrow as pa

BYTES_PER_BLOCK = 2**23  # of encoded images: a hundred photos of 640 x 480
# An actor takes nine tenths of a CPU, so that the tasks that read images find a place beside it.
_READER_CPUS, _MOST_READERS = 0.05, 16
_REMOTE_AT_ONCE = 2048  # images that one task fetches


def dataset_of(ray: Any, todo: Todo, rows: int) -> Any:
    """The images that are left as a dataset, whose columns `RunActor` describes.

    Args:
        rows: how many images a block has.

    Raises:
        LostRegError: a limit on shards, whose readers do not know what the others read.
    """
    images = todo.images
    nothing = [ray.put(_table([]))]
    if not isinstance(images, (TarShards, RemoteImages)):  # files that actors read, by names of 50 bytes
        blocks = [ray.put(_table(block)) for block in _in_blocks(iter(todo), rows)]
        return ray.data.from_arrow_refs(blocks or nothing)
    parts = [ray.put(_part(one)) for one in images.parts(todo.done, todo.limit, _REMOTE_AT_ONCE)]
    if not parts:
        return ray.data.from_arrow_refs(nothing)
    done = ray.put(todo.done)

    def read(table: pa.Table) -> Iterator[pa.Table]:
        for part in map(pickle.loads, table["part"].to_pylist()):
            yield from map(_table, _in_blocks(part.todo(ray.get(done)), rows))

    return ray.data.from_arrow_refs(parts).map_batches(
        read, batch_size=None, batch_format="pyarrow", num_cpus=_READER_CPUS,
        compute=ray.data.TaskPoolStrategy(size=_MOST_READERS),
    )  # fmt: skip


def _in_blocks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while block := list(islice(items, size)):
        yield block


def _part(images: TarShards | RemoteImages) -> pa.Table:
    import pyarrow as pa

    return pa.table({"part": pa.array([pickle.dumps(images)], pa.binary())})


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
