"""Images as a dataset of Ray Data, a row for each block of them: files, or what shards and addresses hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from lost_reg.images.remote import RemoteImages
from lost_reg.images.shards import TarShards
from lost_reg.runs.engines import Todo

if TYPE_CHECKING:
    import pyarrow as pa

    from lost_reg.images.decoding import NamedImage
    from lost_reg.types import Failure

# The column of datasets; what it holds is pickled: a block of images, or a part of them that a task reads.
IMAGES = "images"
# An actor takes nine tenths of a CPU, so that the tasks that read images find a place beside it.
_READER_CPUS, _MOST_READERS = 0.05, 16
_REMOTE_AT_ONCE = 2048  # images that one task fetches


def dataset_of(ray: Any, images: Iterable[NamedImage | Failure], rows: int) -> Any:
    """Images as a dataset, whose rows are blocks of this many.

    Args:
        images: if they are the `Todo` of shards or remote images, tasks read them.

    Raises:
        LostRegError: a limit on shards, whose readers do not know what the others read.
    """
    if not isinstance(images, Todo) or not isinstance(images.images, (TarShards, RemoteImages)):
        return _dataset(ray, _in_blocks(images, rows))  # files, by some hundred bytes each
    done = ray.put(images.done)

    def read(table: pa.Table) -> Iterator[pa.Table]:
        for part in blocks_of(table):
            yield from map(as_table, _in_blocks(part.todo(ray.get(done)), rows))

    return _dataset(ray, images.images.parts(images.done, images.limit, _REMOTE_AT_ONCE)).map_batches(
        read, batch_size=1, batch_format="pyarrow", num_cpus=_READER_CPUS,
        compute=ray.data.TaskPoolStrategy(size=_MOST_READERS),
    )  # fmt: skip


def as_table(block: Any) -> pa.Table:
    """A row of a dataset."""
    import pyarrow as pa

    return pa.table({IMAGES: pa.array([pickle.dumps(block)], pa.large_binary())})


def blocks_of(table: pa.Table) -> Iterator[Any]:
    """What the rows of a table hold."""
    return map(pickle.loads, table[IMAGES].to_pylist())


def _dataset(ray: Any, blocks: Iterable[Any]) -> Any:
    return ray.data.from_arrow_refs([ray.put(as_table(block)) for block in blocks] or [ray.put(_nothing())])


def _nothing() -> pa.Table:
    return as_table([]).slice(0, 0)


def _in_blocks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while block := list(islice(left, size)):
        yield block
